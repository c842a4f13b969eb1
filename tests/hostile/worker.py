"""Damages valid files in thousands of ways and reads them; prints, as JSON, how many were read and what else than `UserError` came.

    python -m tests.hostile.worker --seconds 4 --seed 0 [--findings FOLDER] [DOOR ...]

It runs in a process of its own, whose memory is limited to 1 GB above what its imports take, and which ends a file after 5 seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from boxwood.errors import UserError
from tests.hostile.door import Door
from tests.hostile.doors import DOORS

SECONDS_A_FILE = 5
BYTES = 1_000_000_000
WORDS = (
    *(
        b"1e999",
        b"-1",
        b"0",
        b"NaN",
        b"Infinity",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b'"a"',
        b"9" * 30,
        b"1.5",
        b"-1e308",
        b"2147483648",
    ),
    *(
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x7f",
        b"\x80",
        b"[" * 300,
        b'{"a":' * 100,
        b"\xed\xa0\x80",
        b"\\ud800",
        b"&a [*a]",
        b"\x1b[2J",
    ),
    *(
        b"../../x",
        b"9223372036854775808",
        b"N22\x86",
        b"2\x862\x862\x862\x86",
        b"\x85",
        b"(",
        b"t",
        b"R",
        b"b",
        b"h\x00",
        b"\n",
        b",",
        b"1,2",
    ),
)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1e308,
    2**31,
    2**63,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "a",
    "1",
    [],
    {},
    [[]],
    [1],
    [None],
)
ODD += ({"a": 1}, [[1, 2], [3]], "\ud800", "x" * 1000, [1e9] * 8, -0.5, 1.5, [[[[[[]]]]]], {"size": [2**31, 2**31], "counts": "a"})


class Hang(BaseException):
    """A file took too long."""


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four of its places changed."""
    if draw.random() < 0.5 and content[:1] in (b"{", b"["):
        return changed_json(content, draw)
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, end = sorted((draw.randrange(len(changed) + 1), draw.randrange(len(changed) + 1)))
        kind = draw.randrange(6)
        if kind == 0 and changed:
            changed[min(at, len(changed) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1 and changed:
            changed[min(at, len(changed) - 1)] = draw.randrange(256)
        elif kind == 2:
            changed[at : at + draw.randint(0, 8)] = draw.choice(WORDS)
        elif kind == 3:
            del changed[at : min(end, at + 40)]
        elif kind == 4:
            changed[at:at] = changed[at : min(end, at + 200)]
        elif draw.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def changed_json(content: bytes, draw: random.Random) -> bytes:
    """JSON with one or two of its values replaced, removed or repeated."""
    tree = json.loads(content)
    for _ in range(draw.randint(1, 2)):
        places = list(_places(tree))
        if not places:
            break
        holder, key = draw.choice(places)
        kind = draw.randrange(4)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[key] = copy.deepcopy(draw.choice(ODD))
    return json.dumps(tree).encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def attempt(read: Callable[[Path], Any], path: Path) -> str:
    """What came of reading a file: ``""``, or the exception that is no `UserError` and where it was raised."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS_A_FILE)
    try:
        read(path)
    except UserError as error:
        return f"a message of {len(str(error))} letters" if len(str(error)) > 2000 or "\n" in str(error) else ""
    except Hang:
        return f"takes more than {SECONDS_A_FILE} s"
    except BaseException as error:  # also what pyo3 raises
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/boxwood/" in frame.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "?"
        return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:100]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def prepare(door: Door, folder: Path) -> Path:
    for name, content in ((door.name, door.valid), *door.others):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / door.name


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path)
    parser.add_argument("doors", nargs="*")
    options = parser.parse_args()
    names = options.doors or list(DOORS)

    def ring(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, ring)
    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    findings: dict[str, dict[str, str]] = {}
    counts = dict.fromkeys(names, 0)
    with tempfile.TemporaryDirectory() as parent:
        paths = {name: prepare(DOORS[name], Path(parent, str(number))) for number, name in enumerate(names)}
        for name in names:  # the valid file, which also loads what is imported late
            with contextlib.suppress(UserError):  # some end in a file that is none of theirs
                DOORS[name].read(paths[name])
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        end, number = time.monotonic() + options.seconds, 0
        while time.monotonic() < end or number < len(names):
            name = names[number % len(names)]
            content = damaged(DOORS[name].valid, random.Random(f"{options.seed} {number}"))
            paths[name].write_bytes(content)
            problem = attempt(DOORS[name].read, paths[name])
            counts[name] += 1
            if problem and f"{name}: {problem}" not in findings:
                findings[f"{name}: {problem}"] = {"number": str(number), "input": content[:400].decode("latin1")}
                if options.findings:
                    options.findings.mkdir(parents=True, exist_ok=True)
                    (options.findings / f"{name.replace(' ', '-')}-{number}").write_bytes(content)
            number += 1
    json.dump({"seed": options.seed, "counts": counts, "findings": findings}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
