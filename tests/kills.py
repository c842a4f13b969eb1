"""Kill commands with SIGKILL, at random times and before every write, and compare what their next call gives with a call that was
never killed.

    python -m tests.kills                       100 random kills of a training, and all write points of every command
    python -m tests.kills --random 3 --every 10 --commands train

One process imports everything and forks each call, so that a call takes a second. A write point is an audit event of Python that
changes a file (open for writing, mkdir, rename, remove, ...); the process kills itself before the event.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from boxwood.cli import main
from boxwood.data.synthetic.shapes import write_shapes
from boxwood.training.checkpoint import newest_checkpoint
from boxwood.weights import read_weights
from boxwood.zoo.table import PREFIX, find
from tests.conftest import tiny
from tests.interop.detectron_blobs import network, random_blobs, write
from tests.zoo.server import serve

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TIMES = ("images_per_second", "data_wait", "memory_mb")
ZOO_NAME = "detectron/imagenet/R-50"
IMPORTED = ("boxwood", "torch", "torchvision", "PIL", "numpy", "rich")
"""Packages whose modules are imported before the forks, once a first call has shown which it needs."""
PIPE = 60_000
MAX_SECONDS = 300


@dataclass
class Command:
    """A command that writes to a folder."""

    name: str
    call: Callable[[Path], list[str]]
    """Its arguments, by the folder."""
    content: Callable[[Path], Any]
    """What must be equal after a kill and another call: bytes, numbers, names of files."""
    environment: Callable[[Path], dict[str, str]] = lambda folder: {}
    ignored: tuple[str, ...] = ()
    """Names of files that stay after a call which was not killed too, or not always."""
    whole: Any = None
    seconds: float = 0.0
    points: int = 0
    failures: list[str] = field(default_factory=list)


def run(command: Command, folder: Path, *, point: int | None = None, seconds: float | None = None) -> tuple[int, list[str]]:
    """Call a command in a forked process; returns its exit status, -9 where it was killed; and the number of its write points and
    the modules that it has imported, where it was not.

    ``point`` is the number of the write point at which it kills itself, ``seconds`` the time after which it is killed.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _called(command, folder, point, writer)
    os.close(writer)
    start = time.monotonic()
    while True:  # the text is short enough for the buffer of the pipe, but for the modules of a first call
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        waited = time.monotonic() - start
        if waited > (MAX_SECONDS if seconds is None else seconds):
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.005)
    with os.fdopen(reader) as file:
        text = file.read()
    return os.waitstatus_to_exitcode(status), text.split()


def _called(command: Command, folder: Path, point: int | None, writer: int) -> None:
    """In the forked process: the command, its output in a file."""
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    count, before = 0, set(sys.modules)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            is_change = isinstance(arguments[2], int) and bool(arguments[2] & WRITING) and not isinstance(arguments[0], int)
        else:
            is_change = event in CHANGES
        if is_change and not str(arguments[0]).startswith(("/dev", "/proc")):
            count += 1
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)

    os.environ.update(command.environment(folder))
    status: Any = 1
    sys.addaudithook(hook)
    try:
        main(command.call(folder))
    except SystemExit as exit_:
        status = exit_.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        new = [name for name in sys.modules if name.partition(".")[0] in IMPORTED and name not in before]
        os.write(writer, " ".join([str(count), *new])[:PIPE].encode())
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 1)


def after_kill(command: Command, folder: Path, where: str, **kill: Any) -> bool:
    """Kill a call, call again until it ends, compare. Returns whether it was killed."""
    status, _ = run(command, folder, **kill)
    is_killed = status == -signal.SIGKILL
    problem = ""
    if not is_killed and status != 0:
        problem = f"the call that was to be killed ended with {status}"
    elif is_killed:
        status, _ = run(command, folder)
        problem = f"the next call ended with {status}" if status else ""
    if not problem:
        try:
            difference = _difference(command.whole, (command.content(folder), names(command, folder)))
        except Exception as error:
            difference = f"{type(error).__name__}: {error}"
        problem = difference
    if problem:
        command.failures.append(f"{where}: {problem}")
        print(f"  {command.name}, {where}: {problem}; see {folder.with_suffix('.log')}", flush=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".log").unlink(missing_ok=True)
    return is_killed


def names(command: Command, folder: Path) -> list[str]:
    """The files in a folder; nothing else may be left over."""
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(str(path) for path in paths if path.name not in command.ignored)


def _difference(whole: Any, other: Any) -> str:
    (content, files), (other_content, other_files) = whole, other
    if files != other_files:
        return f"other files: {sorted(set(files) ^ set(other_files))}"
    if content == other_content:
        return ""
    parts = [name for name in content if content[name] != other_content.get(name)]
    return f"other content: {parts}"


def check_whole(command: Command, folder: Path) -> None:
    """Run a command without a kill, and import here what it has imported."""
    status, (count, *modules) = run(command, folder)
    if status:
        raise SystemExit(f"{command.name} ends with {status}: {folder.with_suffix('.log').read_text()}")
    command.points = int(count)
    command.whole = (command.content(folder), names(command, folder))
    for module in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)


def check(command: Command, folder: Path, *, num_random: int, every: int, seed: int) -> None:
    """Run a command without a kill, then kill it at random times and at every ``every``-th write point."""
    check_whole(command, folder / "whole")
    start = time.monotonic()
    run(command, folder / "again")
    command.seconds = time.monotonic() - start
    rng = random.Random(seed)
    killed = 0
    for number in range(num_random):
        seconds = rng.uniform(0, command.seconds)
        killed += after_kill(command, folder / f"random-{number}", f"after {seconds:.3f} s", seconds=seconds)
    points = range(1 + seed % every, command.points + 1, every)
    at_points = sum(after_kill(command, folder / f"point-{point}", f"write point {point}", point=point) for point in points)
    print(
        f"{command.name}: {command.seconds:.1f} s a call; killed {killed} times in {num_random} random tries and at {at_points} of "
        f"{len(points)} write points (of {command.points}); {len(command.failures)} failures; {time.monotonic() - start:.0f} s",
        flush=True,
    )


# ---------------------------------------------------------------------------------------------------------- commands


def run_content(out: Path) -> dict[str, Any]:
    """The weights, the numbers of the log, the evaluation of a run. Raises where a line of the log is damaged or occurs twice."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["split"]) for line in lines]
    assert len(set(steps)) == len(steps), steps
    checkpoint = newest_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    states = {name: read_weights(out / f"{name}.safetensors").state for name in ("last", "best")} | {"checkpoint": checkpoint.model}
    return {
        **{name: {key: _bits(tensor) for key, tensor in state.items()} for name, state in states.items()},
        "log": [{key: value for key, value in line.items() if key not in TIMES} for line in lines],
        "metrics": _numbers(out / "eval" / "metrics.json"),
        "detections": (out / "eval" / "detections.json").read_bytes(),
    }


def _numbers(path: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def bytes_of(out: Path) -> dict[str, bytes]:
    """The content of the files of a folder."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def evaluation_content(out: Path) -> dict[str, Any]:
    """The numbers and detections of `boxwood eval`."""
    return {"metrics": _numbers(out / "metrics.json"), "detections": (out / "detections.json").read_bytes()}


@contextlib.contextmanager
def commands(folder: Path) -> Iterator[dict[str, Command]]:
    """The commands, on a small generated data set and a detector of two training steps."""
    shapes, model = folder / "shapes", folder / "model"
    write_shapes(shapes, train=4, val=2, size=(96, 128))
    training = ["train", "demo_shapes", *tiny(shapes), "train.log_every=1"]
    to_model = Command("model", lambda out: [*training, "--out", str(model)], bytes_of)
    check_whole(to_model, model)
    blobs = folder / "model_final.pkl"
    write(blobs, random_blobs(network(kind="rpn")), None)
    more = ["train.steps=6", "train.eval_every=3", "train.checkpoint_every=2", "train.keep_checkpoints=1"]
    to_import = ["weights", "import", str(blobs), "--from", "detectron", "--model", "detectron/rpn_R-50-FPN_1x", "--out"]
    pictures = str(shapes / "val")
    labelling = ["distill", "label", str(model), pictures, "--like", str(shapes / "val.json"), "--floor", "0", "--one-view"]
    with serve() as site:
        url = find(ZOO_NAME).url
        assert url is not None
        site.put("/" + url.removeprefix(PREFIX), random.Random(0).randbytes(5_000_000))
        mirror = {"BOXWOOD_ZOO_MIRROR": site.address}
        yield {
            command.name: command
            for command in (
                Command("train", lambda out: [*training, *more, "--resume", "--out", str(out)], run_content),
                Command("eval", lambda out: ["eval", str(model), "--out", str(out)], evaluation_content),
                Command(
                    "predict", lambda out: ["predict", pictures, "--model", str(model), "--score", "0", "--out", str(out)], bytes_of
                ),
                Command("label", lambda out: [*labelling, "--out", str(out / "labels.json")], bytes_of),
                Command("convert", lambda out: ["data", "convert", str(shapes / "val.json"), str(out), "--to", "yolo"], bytes_of),
                Command("import", lambda out: [*to_import, str(out / "rpn.safetensors")], bytes_of),
                Command(
                    "download",
                    lambda out: ["zoo", "download", ZOO_NAME],
                    bytes_of,
                    lambda out: {**mirror, "BOXWOOD_CACHE": str(out)},
                ),
            )
        }


def check_all(chosen: list[str], *, num_random: int, every: int, seed: int) -> list[str]:
    """Check the commands of these names, or all; returns the failures."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    with commands(folder) as available:
        for command in available.values():
            if not chosen or command.name in chosen:
                (folder / command.name).mkdir()
                check(command, folder / command.name, num_random=num_random, every=every, seed=seed)
        failures = [f"{command.name}, {failure}" for command in available.values() for failure in command.failures]
    if not failures:
        shutil.rmtree(folder)
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill commands and compare what their next call gives.")
    parser.add_argument("--random", type=int, default=100, help="random kills of each command")
    parser.add_argument("--every", type=int, default=1, help="every how many of the write points")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--commands", nargs="*", default=[], help="train eval predict label convert import download; all by default"
    )
    options = parser.parse_args()
    sys.exit(1 if check_all(options.commands, num_random=options.random, every=options.every, seed=options.seed) else 0)
