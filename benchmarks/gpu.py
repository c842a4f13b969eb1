"""What a GPU does with Boxwood, on one GPU in at most eight minutes: are its results right, how often does it wait, how fast is it.

    python benchmarks/gpu.py --out gpu.json             everything
    python benchmarks/gpu.py --only parity waits        two of the sections
    python benchmarks/gpu.py --quick --seconds 120      fewer repeats; nothing begins after two minutes

parity      detections of the CPU and of the GPU, in float32 without TF32, for each architecture
waits       how often the host waits for the device in a training step and in inference, and in which lines
inference   milliseconds and peak memory beside torchvision's detectors, 1 and 8 images
training    milliseconds and peak memory of a training step beside torchvision's
nms         the suppression of a training step's proposals beside torchvision's operator, and whether it is the CPU's
profile     the kernels of a Mask R-CNN training step in bf16
program     images a second of `boxwood train` from JPEG files, alone and under torchrun
commands    boxwood demo; a training that is killed and resumed; eval and predict of its weights
precision   trainings in fp16 and bf16 of a network from random weights, of which some updates overflow in fp16
compile     a training with torch.compile, which has 150 seconds

Both contenders of a row have the same weights and inputs and take turns; a row gives their medians. A part that fails is one
row with the error, and the exit status is 1; a part that had no time left is a row too. Without a GPU the exit status is 2.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import speed
import torch
import torchvision
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import batched_nms, box_iou

import boxwood
from boxwood.inference.predictor import prepare
from boxwood.ops.nms import nms_mask
from boxwood.structures import Batch, Detections

ROOT = Path(boxwood.__file__).resolve().parents[1]
RECIPES = ("faster_rcnn_r50_c4_1x", "rfcn_r50", "rpn_r50_fpn_1x")
"""Architectures without a peer in torchvision."""

LIMIT, GRACE = 150.0, 50.0
"""Seconds that one command may take, and that the last ones may go on after the time in which parts begin."""

Row = dict[str, Any]
Contender = Callable[[], Any]


class Part(NamedTuple):
    """A piece of a section that fails, or is left out, alone."""

    name: str
    run: Callable[[], Iterable[Row]]


@dataclass
class Setup:
    """Where everything runs and at which sizes; the networks, which are built once."""

    device: torch.device
    tiny: bool
    quick: bool
    folder: Path
    """For the files of commands."""
    names: tuple[str, ...]
    """Of the architectures."""
    end: float = float("inf")
    """Of `time.perf_counter`: from then on no part begins."""
    networks: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def names_of_peers(self) -> list[str]:
        return [name for name in self.names if name not in RECIPES]

    @property
    def size(self) -> tuple[int, int]:
        return (64, 96) if self.tiny else (speed.HEIGHT, speed.WIDTH)

    @property
    def parity_size(self) -> tuple[int, int]:
        return (64, 96) if self.tiny else (320, 480)

    def images(self, full: int) -> int:
        return 2 if self.tiny else full

    def repeats(self, full: int) -> int:
        return 1 if self.tiny else max(full // 3, 2) if self.quick else full

    def networks_of(self, name: str) -> tuple[Any, Any]:
        """Ours and torchvision's, with the same weights, on the device; no peer for a recipe that torchvision has not."""
        if name not in self.networks:
            if name in RECIPES:
                self.networks[name] = speed.recipe_network(name, self.device), None
            else:
                peer = speed.torchvision_network(name, self.device, self.size)
                self.networks[name] = speed.our_network(name, peer).to(self.device), peer
        return self.networks[name]

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@contextmanager
def precision(mode: str, device: torch.device) -> Iterator[torch.autocast]:
    """``fp32`` without TF32, ``tf32``, or ``bf16`` and ``fp16``: with TF32, and inside of the context that is given (not in a
    backward pass)."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode != "fp32"
    try:
        dtype = torch.float16 if mode == "fp16" else torch.bfloat16
        yield torch.autocast(device.type, dtype, enabled=mode in ("bf16", "fp16"))
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


# ---------------------------------------------------------------------------------------------------------- what is timed


def batch_of(image: Tensor, count: int) -> Batch:
    size = (image.shape[-2], image.shape[-1])
    return Batch(torch.stack([image] * count), torch.tensor([size] * count), (size,) * count).to(image.device)


def our_inference(network: Any, batch: Batch) -> Callable[[], list[Detections]]:
    """From uint8 images to boxes, scores, labels, keypoints and pasted masks."""

    def detect() -> list[Detections]:
        with torch.no_grad():
            batch_detections: list[Detections] = network.detections(network(batch), batch)
            for detections in batch_detections:
                _ = detections.masks
        return batch_detections

    return detect


def peer_inference(peer: Any, batch: Batch) -> Contender:
    def detect() -> Any:
        with torch.no_grad():
            return peer([image.float() / 255 for image in batch.images])

    return detect


def training_steps(setup: Setup, name: str, count: int, mode: str) -> dict[str, tuple[Contender, nn.Module, torch.optim.Optimizer]]:
    """A step of ours, of torchvision's where there is one: forward, losses, backward, an update of the weights."""
    ours, peer = setup.networks_of(name)
    batch, images, truths = speed.training_case(name, count, 4 if setup.tiny else 10, setup.size)
    batch, images = batch.to(setup.device), [image.to(setup.device) for image in images]
    truths = [{key: value.to(setup.device) for key, value in truth.items()} for truth in truths]
    ours.train().to(memory_format=torch.channels_last)
    losses: dict[str, Callable[[], dict[str, Tensor]]] = {"ours": lambda: ours.losses(ours(batch), batch.targets)}
    if peer is not None:
        peer.train()
        speed.freeze_as_ours(peer)
        peer.transform.max_size = setup.size[1]
        losses["peer"] = lambda: peer([image.float() / 255 for image in images], [dict(truth) for truth in truths])

    def step_of(network: nn.Module, losses_of: Callable[[], dict[str, Tensor]]) -> Any:
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9)  # the networks stay what they are

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with precision(mode, setup.device) as autocast:
                with autocast:
                    total = torch.stack([loss.float() for loss in losses_of().values()]).sum()
                total.backward()
            optimizer.step()

        return step, network, optimizer

    return {who: step_of(ours if who == "ours" else peer, losses_of) for who, losses_of in losses.items()}


def take_turns(setup: Setup, ours: Contender, peer: Contender, repeats: int) -> tuple[float, float]:
    """Median seconds of each until the device has done its work."""

    def whole(work: Contender) -> Contender:
        return lambda: (work(), setup.synchronize())

    return speed.take_turns(whole(ours), whole(peer), setup.repeats(repeats))


def peak_memory(setup: Setup, work: Contender, state: Iterable[Tensor]) -> float:
    """Megabytes of the tensors ``state``, and of the additional memory while ``work`` runs; 0 on a CPU."""
    if setup.device.type != "cuda":
        work()
        return 0.0
    before = torch.cuda.memory_allocated(setup.device)
    torch.cuda.reset_peak_memory_stats(setup.device)
    work()
    setup.synchronize()
    rise = torch.cuda.max_memory_allocated(setup.device) - before
    return (rise + sum(tensor.numel() * tensor.element_size() for tensor in state)) / 2**20


def state_of(network: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> list[Tensor]:
    """Parameters, buffers, and what the optimizer remembers."""
    remembered = [] if optimizer is None else [value for state in optimizer.state.values() for value in state.values()]
    return [*network.parameters(), *network.buffers(), *(value for value in remembered if isinstance(value, Tensor))]


def beside(what: str, ours: float, peer: float | None, unit: str, note: str = "") -> Row:
    return {"what": what, "ours": ours, "peer": peer, "unit": unit, "note": note}


# --------------------------------------------------------------------------------------------------------------- sections


def parity(setup: Setup) -> list[Part]:
    """The CPU's and the GPU's detections; wrong where one in twenty has no counterpart, or one is half a pixel away."""

    def compare(name: str) -> Iterator[Row]:
        network = prepare(copy.deepcopy(setup.networks_of(name)[0]))
        image = speed.picture(*setup.parity_size)
        with precision("fp32", setup.device):
            on_device = our_inference(network, batch_of(image.to(setup.device), 1))()[0].to("cpu")
            on_cpu = our_inference(network.cpu(), batch_of(image, 1))()[0]
        numbers = differences(on_cpu, on_device)
        yield {"what": f"{name}, CPU and GPU", "note": describe_differences(numbers), **numbers}
        if numbers["detections"] == 0 or numbers["matched"] < 0.95 * max(numbers["detections"], numbers["detections_device"]):
            raise RuntimeError(f"{numbers['matched']} of {numbers['detections']} detections of the CPU match one of the GPU")
        if numbers["boxes_px"] > 0.5 or numbers["scores"] > 0.01:
            raise RuntimeError("boxes or scores of the CPU and the GPU are too far apart")

    return [Part(name, lambda name=name: compare(name)) for name in setup.names]


def differences(first: Detections, second: Detections) -> dict[str, Any]:
    """How far the detections of ``first`` are from those of ``second`` of the same class that are most like them."""
    numbers: dict[str, Any] = {
        "detections": len(first),
        "detections_device": len(second),
        "matched": 0,
        "boxes_px": 0.0,
        "scores": 0.0,
    }
    if len(first) == 0 or len(second) == 0:
        return numbers
    alike = box_iou(first.boxes, second.boxes) - (first.scores[:, None] - second.scores).abs()
    best, index = alike.where(first.labels[:, None] == second.labels, 0.0).max(dim=1)
    a, b = first[best > 0.9], second[index[best > 0.9]]
    numbers["matched"] = len(a)
    if len(a) > 0:
        numbers["boxes_px"] = (a.boxes - b.boxes).abs().max().item()
        numbers["scores"] = (a.scores - b.scores).abs().max().item()
        if a.masks is not None and b.masks is not None:
            numbers["mask_pixels"] = int((a.masks != b.masks).sum())
            numbers["mask_pixels_of"] = int(a.masks.sum())
        if a.keypoints is not None and b.keypoints is not None:
            far = (a.keypoints - b.keypoints)[..., :2].norm(dim=-1)
            numbers["keypoints_beyond_1px"], numbers["keypoints"] = int((far > 1).sum()), far.numel()
            numbers["keypoints_px"] = far[far <= 1].max().item() if bool((far <= 1).any()) else 0.0
    return numbers


def describe_differences(numbers: dict[str, Any]) -> str:
    text = f"{numbers['detections']} and {numbers['detections_device']} detections, {numbers['matched']} matched"
    text += f", boxes within {numbers['boxes_px']:.1e} px, scores within {numbers['scores']:.1e}"
    if "mask_pixels" in numbers:
        text += f", {numbers['mask_pixels']} of {numbers['mask_pixels_of']:,} mask pixels differ"
    if "keypoints" in numbers:
        text += f", keypoints within {numbers['keypoints_px']:.1e} px"
        text += f" but for {numbers['keypoints_beyond_1px']} of {numbers['keypoints']}"
    return text


def waits(setup: Setup) -> list[Part]:
    """The second of two steps or inferences is watched: the first one fills caches."""

    def count(name: str, images: int) -> Iterator[Row]:
        ours, peer = setup.networks_of(name)
        batch = batch_of(speed.picture(*setup.size).to(setup.device), images)
        steps = training_steps(setup, name, images, "bf16")
        yield counted(f"{name}, training step, {images} images", setup, {who: step for who, (step, _, _) in steps.items()})
        for _, network, optimizer in steps.values():
            optimizer.zero_grad(set_to_none=True)
            network.eval()
        network = prepare(copy.deepcopy(ours))
        work: dict[str, Contender] = {"ours": our_inference(network, batch)}
        if peer is not None:
            work["peer"] = peer_inference(peer.eval(), batch)
        with precision("bf16", setup.device) as autocast, autocast:
            yield counted(f"{name}, inference, {images} images", setup, work)

    return [
        Part(f"{name}, {images} images", lambda name=name, images=images: count(name, images))
        for name in setup.names
        for images in (1, setup.images(8))
    ]


def counted(what: str, setup: Setup, contenders: dict[str, Contender]) -> Row:
    waits = {}
    for who, work in contenders.items():
        work()
        setup.synchronize()
        waits[who] = waiting_places(work)
    places = waits["ours"].most_common()
    note = ", ".join(f"{place} x{number}" for place, number in places[:4]) + (", ..." if len(places) > 4 else "")
    peer = waits["peer"].total() if "peer" in waits else None
    return {**beside(what, waits["ours"].total(), peer, "waits", note), "places": dict(places)}


def waiting_places(work: Contender) -> Counter[str]:
    """``file:line`` of Boxwood, or of what else called, where the host waited for the device while ``work`` ran."""
    places: Counter[str] = Counter()

    def note(message: Warning | str, category: type[Warning], filename: str, line: int, *_: object) -> None:
        if "synchroniz" not in str(message):
            return
        frame: Any = sys._getframe()
        while frame is not None and not frame.f_code.co_filename.startswith(str(ROOT / "boxwood")):
            frame = frame.f_back
        place = (filename, line) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
        places[f"{re.sub('.*site-packages/|.*dist-packages/', '', place[0].removeprefix(f'{ROOT}/'))}:{place[1]}"] += 1

    gpu = torch.cuda.is_initialized()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            if gpu:
                torch.cuda.set_sync_debug_mode("default")
    return places


def inference(setup: Setup) -> list[Part]:
    def measure(name: str, count: int, mode: str) -> Iterator[Row]:
        ours, peer = setup.networks_of(name)
        network = prepare(copy.deepcopy(ours))
        batch = batch_of(speed.picture(*setup.size).to(setup.device), count)
        mine, theirs = our_inference(network, batch), peer_inference(peer.eval(), batch)
        with precision(mode, setup.device) as autocast, autocast:
            detections, peer_outputs = mine(), theirs()
            what = f"{name}, {count} x {setup.size[0]}x{setup.size[1]}, {mode}"
            note = f"{len(detections[0])} and {len(peer_outputs[0]['boxes'])} detections in an image"
            yield beside(what, *(1000 * each for each in take_turns(setup, mine, theirs, 9)), "ms", note)
            del detections, peer_outputs
            yield beside(
                f"{what}, memory", peak_memory(setup, mine, state_of(network)), peak_memory(setup, theirs, state_of(peer)), "MB"
            )

    cases = [(name, count, mode) for name in setup.names_of_peers for count in (1, setup.images(8)) for mode in ("tf32", "bf16")]
    cases += [(name, 1, "fp32") for name in setup.names_of_peers]
    cases += [(name, setup.images(8), "fp16") for name in setup.names_of_peers]
    return [Part(f"{name}, {count} images, {mode}", lambda case=(name, count, mode): measure(*case)) for name, count, mode in cases]


def training(setup: Setup) -> list[Part]:
    count = setup.images(8)

    def measure(name: str, mode: str) -> Iterator[Row]:
        steps = training_steps(setup, name, count, mode)
        memory = {}
        for who, (step, network, optimizer) in steps.items():
            step()  # fills the optimizer's memory
            optimizer.zero_grad(set_to_none=True)
            memory[who] = peak_memory(setup, step, state_of(network, optimizer))
        what = f"{name}, {count} x {setup.size[0]}x{setup.size[1]}, {mode}"
        ours, peer = take_turns(setup, steps["ours"][0], steps["peer"][0], 3 if mode == "fp32" else 6)
        yield beside(what, 1000 * ours, 1000 * peer, "ms", f"{count / ours:.1f} and {count / peer:.1f} images/s")
        yield beside(f"{what}, memory", memory["ours"], memory["peer"], "MB")
        for _, _, optimizer in steps.values():
            optimizer.zero_grad(set_to_none=True)

    cases = [(name, mode) for name in setup.names_of_peers for mode in ("tf32", "bf16")]
    cases += [("Mask R-CNN", mode) for mode in ("fp16", "fp32")] if "Mask R-CNN" in setup.names else []
    return [Part(f"{name}, {mode}", lambda case=(name, mode): measure(*case)) for name, mode in cases]


def profiled(setup: Setup) -> list[Part]:
    def measure() -> Iterator[Row]:
        count = setup.images(4)
        step = training_steps(setup, "Mask R-CNN", count, "bf16")["ours"][0]
        ours, _ = take_turns(setup, step, lambda: None, 9)
        gpu = setup.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]) as watched:
            step()
            setup.synchronize()
        events = watched.events() or []
        wanted = DeviceType.CUDA if gpu else DeviceType.CPU
        kernels: dict[str, list[float]] = {}
        for event in events:
            if event.device_type == wanted and not getattr(event, "is_user_annotation", False):
                kernels.setdefault(event.name, []).append(event.time_range.elapsed_us() / 1000)
        busy = sum(sum(times) for times in kernels.values())
        launches = sum("LaunchKernel" in event.name for event in events)
        what = f"Mask R-CNN, {count} x {setup.size[0]}x{setup.size[1]}, bf16"
        yield {"what": f"{what}, step", "ours": 1000 * ours, "unit": "ms", "note": "not profiled"}
        yield {"what": f"{what}, GPU busy", "ours": busy, "unit": "ms", "note": f"{busy / ours / 10:.0f} % of the step"}
        yield {"what": f"{what}, kernel launches", "ours": launches, "unit": ""}
        for name, times in sorted(kernels.items(), key=lambda item: -sum(item[1]))[:20]:
            short = re.sub(r"^void |at::native::|\(anonymous namespace\)::", "", name)
            yield {"what": "  " + short[:60], "ours": sum(times), "unit": "ms", "note": f"x{len(times)}", "kernel": name}

    return [Part("Mask R-CNN, bf16", measure)]


def suppression(setup: Setup) -> list[Part]:
    """Boxes as a training step of 8 images has them; ours is what the network calls, the peer torchvision's operator."""

    def measure() -> Iterator[Row]:
        images, candidates = setup.images(8), 50 if setup.tiny else 2000
        generator = torch.Generator().manual_seed(0)
        corner = torch.rand(images * 5 * candidates, 2, generator=generator) * torch.tensor([speed.WIDTH, speed.HEIGHT])
        boxes = torch.cat([corner, corner + 16 + 200 * torch.rand(corner.shape, generator=generator)], dim=1)
        scores = torch.rand(len(boxes), generator=generator)
        groups = torch.arange(images * 5).repeat_interleave(candidates)
        on_device = [tensor.to(setup.device) for tensor in (boxes, scores, groups)]
        same = torch.equal(nms_mask(*on_device, 0.7).cpu(), nms_mask(boxes, scores, groups, 0.7))
        times = take_turns(setup, lambda: nms_mask(*on_device, 0.7), lambda: batched_nms(*on_device, 0.7), 9)
        yield beside(f"NMS, {images} x 5 groups of {candidates}", *(1000 * each for each in times), "ms")
        if not same:
            raise RuntimeError("not the boxes that the CPU keeps")

    return [Part("NMS", measure)]


# --------------------------------------------------------------------------------------------------------------- commands


@contextmanager
def started(setup: Setup, *arguments: object, launcher: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """``boxwood`` of this very folder, with its workers stopped at the end; and the file with what it prints."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *launcher, "-m", "boxwood", *map(str, arguments)]
    with (
        tempfile.NamedTemporaryFile("w", dir=setup.folder, suffix=".txt", delete=False) as printed,
        subprocess.Popen(
            command, env=environment, stdout=printed, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as process,
    ):
        try:
            yield process, Path(printed.name)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def call(setup: Setup, *arguments: object, launcher: Sequence[str] = ()) -> float:
    """Seconds that ``boxwood`` took. Raises RuntimeError, with its last lines, where it failed or took too long."""
    start = time.perf_counter()
    limit = min(LIMIT, setup.end + GRACE - start)
    with started(setup, *arguments, launcher=launcher) as (process, log):
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"boxwood {arguments[0]}: not done after {limit:.0f} s; {last_lines(log)}") from None
    if status != 0:
        raise RuntimeError(f"boxwood {arguments[0]}: exit status {status}; {last_lines(log)}")
    return time.perf_counter() - start


def kill_training(setup: Setup, arguments: Sequence[object], sign: Path) -> float:
    """Start a training and send it SIGKILL as soon as the file ``sign`` exists; seconds until then."""
    start = time.perf_counter()
    limit = min(LIMIT, setup.end + GRACE - start)
    with started(setup, *arguments) as (process, log):
        while not sign.exists():
            if process.poll() is not None or time.perf_counter() - start > limit:
                raise RuntimeError(f"the training did not get as far as {sign.name}; {last_lines(log)}")
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        process.kill()
        if process.wait() != -signal.SIGKILL:
            raise RuntimeError("the training had ended before it could be killed")
    return seconds


def last_lines(log: Path) -> str:
    return " / ".join(line.strip() for line in log.read_text().splitlines() if line.strip())[-500:]


def took(what: str, seconds: float, note: str) -> Row:
    return {"what": what, "ours": seconds, "unit": "s", "note": note}


def average_precision(run: Path) -> str:
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    return ", ".join(f"{task} AP {metrics[task]['AP']:.3f}" for task in ("bbox", "segm") if task in metrics)


def training_on(setup: Setup, shapes: Path, steps: int, recipe: str = "demo_shapes") -> list[str]:
    """The arguments of a training on generated pictures."""
    files = {"train.annotations": "train.json", "train.images": "train", "val.annotations": "val.json", "val.images": "val"}
    data = [f"data.{key}={shapes / name}" for key, name in files.items()]
    small = ["data.train.transforms.0.short=[64]", "train.batch_size=2"] if setup.tiny else []
    return ["train", recipe, *data, *small, f"train.device={setup.device.type}", f"train.steps={steps}"]


def commands(setup: Setup) -> list[Part]:
    shapes, run, predicted, demo = (setup.folder / name for name in ("shapes", "run", "predicted", "demo"))
    pictures, steps = (4, 12) if setup.tiny else (16, 120)

    def kill_and_resume() -> Iterator[Row]:
        call(setup, "data", "shapes", "--out", shapes, "--train", 4 * pictures, "--val", pictures)
        often = ["train.precision=bf16", f"train.checkpoint_every={steps // 6}", f"train.log_every={steps // 6}", "data.workers=2"]
        arguments = [*training_on(setup, shapes, steps), *often, "--out", run]
        seconds = kill_training(setup, arguments, run / "checkpoints" / f"step-{steps // 6:08d}.pt")
        saved = max(int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*.pt"))
        yield took("training in bf16 until it is killed", seconds, f"its last checkpoint is of step {saved} of {steps}")
        seconds = call(setup, "train", run, "--resume")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = {line["step"]: line["loss"] for line in lines if line["split"] == "train"}
        yield took("training resumed", seconds, ", ".join(f"{loss:.2f}" for loss in losses.values()) + " were its losses")
        if list(losses) != [steps * part // 6 for part in range(1, 7)]:
            raise RuntimeError(f"after the training was resumed, its log has the steps {list(losses)}")

    def evaluate() -> Iterator[Row]:
        yield took(f"boxwood eval, {pictures} pictures", call(setup, "eval", run), average_precision(run))

    def predict() -> Iterator[Row]:
        seconds = call(setup, "predict", shapes / "val", "--model", run, "--batch", 8, "--out", predicted)
        records = json.loads((predicted / "predictions.json").read_text())
        yield took(f"boxwood predict, {pictures} pictures", seconds, f"{len(records)} detections")

    def show_demo() -> Iterator[Row]:
        fewer = ["train.steps=200"] if setup.quick else []
        seconds = call(setup, "demo", *fewer, f"train.device={setup.device.type}", "--out", demo)
        yield took("boxwood demo, 200 steps" if setup.quick else "boxwood demo", seconds, average_precision(demo / "run"))

    parts = [Part("kill and resume", kill_and_resume), Part("eval", evaluate), Part("predict", predict)]
    return parts if setup.tiny else [*parts, Part("demo", show_demo)]


def precisions(setup: Setup) -> list[Part]:
    def train(precision: str) -> Iterator[Row]:
        shapes, run = setup.folder / f"shapes_{precision}", setup.folder / precision
        call(setup, "data", "shapes", "--out", shapes, "--train", 16, "--val", 4)
        steps = 2 if setup.tiny else 60
        arguments = training_on(setup, shapes, steps, "mask_rcnn_r18_fpn_gn_scratch")
        seconds = call(setup, *arguments, f"train.precision={precision}", "train.log_every=1", "--out", run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if line["split"] == "train"]
        yield took(
            f"boxwood train train.precision={precision}", seconds, f"loss {losses[0]:.2f}, after {steps} steps {losses[-1]:.2f}"
        )
        if not setup.tiny and not losses[-1] < losses[0]:
            raise RuntimeError(f"the loss was {losses[0]:.3f} and is {losses[-1]:.3f} after {steps} steps")

    names = ("bf16",) if setup.device.type == "cpu" else ("fp16", "bf16")
    return [Part(f"train.precision={name}", lambda name=name: train(name)) for name in names]


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1")


def programs(setup: Setup) -> list[Part]:
    """`boxwood train` from JPEG files to weights: images a second of the last steps."""

    def train(what: str, launcher: Sequence[str], *settings: str) -> Iterator[Row]:
        shapes, run = setup.folder / "jpegs", setup.folder / re.sub(r"\W+", "_", what)
        if not shapes.exists():
            call(setup, "data", "shapes", "--out", shapes, "--train", 4 if setup.tiny else 64, "--val", 2)
        recipe, steps = ("demo_shapes", 2) if setup.tiny else ("mask_rcnn_r50_fpn_1x", 40)
        more = (
            [] if setup.tiny else ["model.backbone.weights=null", "train.batch_size=8", "data.workers=12", "train.precision=bf16"]
        )
        arguments = [
            *training_on(setup, shapes, steps, recipe),
            *more,
            f"train.log_every={steps // 2}",
            "optim.lr=0.001",
            *settings,
        ]
        seconds = call(setup, *arguments, "--out", run, launcher=launcher)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        last = [line for line in lines if line["split"] == "train"][-1]
        note = f"{last['images_per_second']:.1f} images/s, {last['data_wait']:.0%} of the time waiting for data"
        yield took(f"boxwood train {recipe}, {what}, {steps} steps", seconds, note)

    cases = [("one process", ()), ("torchrun with one process", TORCHRUN)]
    return [Part(what, lambda what=what, launcher=launcher: train(what, launcher)) for what, launcher in cases]


def compiled(setup: Setup) -> list[Part]:
    def train() -> Iterator[Row]:
        shapes, run = setup.folder / "few_shapes", setup.folder / "compiled"
        call(setup, "data", "shapes", "--out", shapes, "--train", 16, "--val", 4)
        seconds = call(setup, *training_on(setup, shapes, 10), "train.compile=true", "--out", run)
        yield took("boxwood train train.compile=true, 10 steps", seconds, average_precision(run))

    return [Part("train.compile=true", train)]


SECTIONS: dict[str, Callable[[Setup], list[Part]]] = {
    "parity": parity,
    "waits": waits,
    "inference": inference,
    "training": training,
    "nms": suppression,
    "profile": profiled,
    "program": programs,
    "commands": commands,
    "precision": precisions,
    "compile": compiled,
}


# ----------------------------------------------------------------------------------------------------------------- report


def show(row: Row) -> str:
    """A line of the table: what, ours, the peer's, how many times the peer's is ours, and what there is to say."""
    if row["status"] != "done":
        return f"{row['what']:58}{row['status'].upper()}: {row['note']}"
    if "ours" not in row:
        return f"{row['what']:58}{row['note']}"

    def number(key: str) -> str:
        value = row.get(key)
        return f"{'':14}" if value is None else f"{value:10,.{1 if row['unit'] in ('ms', 's') else 0}f} {row['unit']:<5}"[:16]

    ratio = f"{row['peer'] / row['ours']:5.2f}x" if row.get("peer") and row.get("ours") else f"{'':6}"
    return f"{row['what']:58}{number('ours'):16}{number('peer'):16}{ratio}  {row.get('note', '')}".rstrip()


def rows_of(part: Part) -> Iterator[Row]:
    """The rows of a part; where it fails, those before and one with the error."""
    try:
        for row in part.run():
            yield {**row, "status": "done"}
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:700]
        yield {"what": part.name, "status": "failed", "note": text, "traceback": traceback.format_exc(limit=-8)}


def machine(setup: Setup) -> dict[str, Any]:
    facts = {"torch": torch.__version__, "torchvision": torchvision.__version__, "python": platform.python_version()}
    facts |= {"boxwood": boxwood.__version__, "device": str(setup.device), "cores": os.cpu_count()}
    if setup.device.type == "cuda":
        free, whole = torch.cuda.mem_get_info(setup.device)
        facts |= {"gpu": torch.cuda.get_device_name(setup.device), "cuda": torch.version.cuda, "memory_gib": round(whole / 2**30)}
        facts |= {"free_gib": round(free / 2**30)}
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS)
    )
    names = (*speed.PEERS, *RECIPES)
    parser.add_argument("--networks", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="a third of the repeats, a shorter demo")
    parser.add_argument("--seconds", type=float, default=400, help="nothing begins after so many (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="write all rows there too, with places of waits and tracebacks"
    )
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # for the test of this program
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("gpu.py: no CUDA GPU is available; benchmarks/speed.py measures on the CPU", file=sys.stderr)
        return 2
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(
            torch.device(arguments.device),
            arguments.tiny,
            arguments.quick,
            Path(folder),
            tuple(arguments.networks),
            start + arguments.seconds,
        )
        report: dict[str, Any] = {"machine": machine(setup), "rows": []}
        print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
        for section in [name for name in SECTIONS if name in arguments.only]:
            print(f"\n{section:58}{'ours':>10}{'torchvision':>22}", flush=True)
            begun = time.perf_counter()
            for part in SECTIONS[section](setup):
                left_out = {"what": part.name, "status": "left out", "note": f"{arguments.seconds:.0f} s had passed"}
                for row in [left_out] if time.perf_counter() > setup.end else rows_of(part):
                    report["rows"].append({"section": section, **row})
                    print(show(row), flush=True)
                if setup.device.type == "cuda":
                    torch.cuda.empty_cache()
            report.setdefault("section_seconds", {})[section] = round(time.perf_counter() - begun, 1)
            report["seconds"] = round(time.perf_counter() - start, 1)
            if arguments.out:
                arguments.out.write_text(json.dumps(report, indent=1))
    outcome = Counter(row["status"] for row in report["rows"])
    listed = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report["section_seconds"].items())
    print(
        f"\n{outcome['done']} rows, {outcome['failed']} failed, {outcome['left out']} left out; {report['seconds']:.0f} s: {listed}"
    )
    return 1 if outcome["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
