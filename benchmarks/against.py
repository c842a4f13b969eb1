"""Speed beside another revision of Boxwood: both run their own `benchmarks/speed.py` and take turns, row by row.

    git worktree add /tmp/before v0.1.0
    python benchmarks/against.py /tmp/before --repeats 9
    python benchmarks/against.py /tmp/before --only inference training --json against.json

Each revision is one process that stays: it prepares a row, waits until it is asked, runs its work once and answers with the
seconds. The peers of other projects do not run. A row gives both medians, their ratio, the quartiles of each, and `slower` where
the whole middle half of this revision's times lies above that of the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]


def worker(sections: list[str], threads: int) -> None:
    """Run the benches of the revision on ``PYTHONPATH``; orders come through stdin, answers go to stdout as lines of JSON."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a bench prints is no answer
    import speed
    import torch

    torch.set_num_threads(threads)

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    def take_turns(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> tuple[float, float]:
        peer()  # some benches compare the results
        answer(ready=True)
        times = []
        while sys.stdin.readline().strip() == "run":
            start = time.perf_counter()
            ours()
            times.append(time.perf_counter() - start)
            answer(seconds=times[-1])
        return (statistics.median(times[1:]),) * 2

    speed.take_turns = take_turns
    for section in sections:
        for row in speed.BENCHES[section](1):
            answer(row=row["what"], ours=row["ours"], unit=row["unit"])
    answer(end=True)


class Revision:
    """The process of a revision."""

    def __init__(self, checkout: Path, sections: list[str], threads: int) -> None:
        path = os.pathsep.join([str(checkout), str(checkout / "benchmarks")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONSAFEPATH": "1"}
        command = [sys.executable, __file__, str(checkout), "--worker", "--threads", str(threads), "--only", *sections]
        self.checkout = checkout
        self.process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def order(self, what: str) -> None:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the benchmark of {self.checkout} ended early")
        answered: dict[str, Any] = json.loads(line)
        return answered


def compare(here: Revision, there: Revision, repeats: int) -> Iterator[dict[str, Any]]:
    """The rows; one with times has the quartiles of both too."""
    waiting: list[tuple[list[float], list[float]]] = []  # times whose row is still to come
    while "end" not in (answers := [each.answer() for each in (here, there)])[0]:
        if "ready" in answers[0]:
            times: tuple[list[float], list[float]] = ([], [])
            for turn in range(repeats + 1):
                pairs = [(here, times[0]), (there, times[1])]
                for revision, series in pairs if turn % 2 else pairs[::-1]:  # each goes first in every second turn
                    revision.order("run")
                    seconds = revision.answer()["seconds"]
                    if turn > 0:
                        series.append(seconds)
            for revision in (here, there):
                revision.order("stop")
            waiting.append(times)
            continue
        row = {"what": answers[0]["row"], "unit": answers[0]["unit"], "here": answers[0]["ours"], "there": answers[1]["ours"]}
        if row["unit"] == "ms":
            for name, series in zip(("here", "there"), waiting.pop(0), strict=True):
                scale = row[name] / statistics.median(series)
                row[f"{name}_quartiles"] = [scale * each for each in statistics.quantiles(series, n=4)]
            row["slower"] = row["here_quartiles"][0] > row["there_quartiles"][2]
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="checkout of the other revision")
    parser.add_argument("--only", nargs="+", default=["roi_align", "paste", "loader", "ap", "training", "inference", "alone"])
    parser.add_argument("--repeats", type=int, default=9, help="counted turns of each revision")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.only, arguments.threads)
        return
    if not (arguments.other / "benchmarks" / "speed.py").is_file():
        parser.error(f"{arguments.other} is no checkout of Boxwood: it has no benchmarks/speed.py")
    here, there = (Revision(checkout.resolve(), arguments.only, arguments.threads) for checkout in (HERE, arguments.other))
    print(f"median of {arguments.repeats} turns each, {arguments.threads} threads\n")
    print(f"{'':48}{'here':>11}{'there':>11}  {'there/here':>10}  quartiles of both")
    rows = []
    for row in compare(here, there, arguments.repeats):
        rows.append(row)
        spread = ", ".join(
            f"{low:,.0f} to {high:,.0f}"
            for low, _, high in (row[f"{name}_quartiles"] for name in ("here", "there") if "slower" in row)
        )
        numbers = f"{row['here']:8,.0f} {row['unit']}{row['there']:8,.0f} {row['unit']}{row['there'] / row['here']:11.2f}x"
        print(f"{row['what']:48}{numbers}  {spread}{'  slower' if row.get('slower') else ''}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
