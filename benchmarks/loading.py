"""Time and memory of opening a data set of a million annotations, as `boxwood train` opens it.

    python benchmarks/loading.py                     100,000 images, 1,000,000 annotations with boxes, half of them with a polygon
    python benchmarks/loading.py --images 5000       ten annotations an image, so 50,000

The file is written to a temporary folder with an empty file for each picture, whose name alone is looked up. A fresh process opens
it and reads its own memory from /proc, so this runs on Linux: the memory that stays after garbage collection, and the peak.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PER_IMAGE = 10
SIDES = (640, 480)


def write_set(folder: Path, num_images: int) -> Path:
    """A COCO file with ten annotations an image, every second one with a polygon of 8 to 15 points; beside it ``images/``."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    path = folder / "annotations.json"
    with path.open("w") as file:
        file.write('{"info": {"year": 2026}, "images": [')
        for image in range(num_images):
            name = f"{image:012d}.jpg"
            (folder / "images" / name).touch()
            row = {"id": image + 1, "file_name": name, "height": SIDES[1], "width": SIDES[0], "license": 1}
            file.write(("" if image == 0 else ", ") + json.dumps(row))
        file.write('], "annotations": [')
        for image in range(num_images):
            rows = [json.dumps(annotation(rng, image, image * PER_IMAGE + number)) for number in range(PER_IMAGE)]
            file.write(("" if image == 0 else ", ") + ", ".join(rows))
        categories = [{"id": number, "name": f"class {number}", "supercategory": "thing"} for number in range(1, 81)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    return path


def annotation(rng: np.random.Generator, image: int, number: int) -> dict[str, object]:
    """One row of ``annotations``: a box, and for every second number the outline of an ellipse in it."""
    x, y, width, height = np.round(rng.uniform((0, 0, 20, 20), (400, 300, 200, 150)), 2).tolist()
    row = {"id": number + 1, "image_id": image + 1, "category_id": number % 80 + 1, "bbox": [x, y, width, height]}
    row |= {"area": round(width * height, 2), "iscrowd": 0}
    if number % 2:
        angles = np.linspace(0, 2 * np.pi, int(rng.integers(8, 16)), endpoint=False)
        points = np.stack([x + width / 2 * (1 + np.cos(angles)), y + height / 2 * (1 + np.sin(angles))], axis=1)
        row["segmentation"] = [np.round(points, 2).ravel().tolist()]
    return row


def memory(key: str) -> float:
    """MB of this process's memory: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1e3


def measure(path: Path) -> dict[str, float]:
    """Seconds of opening the data set in this process, and MB: before it, what stays of it, and the peak above what stays."""
    from boxwood.data import CocoConfig
    from boxwood.data.coco import CocoDataset  # imported before the first reading, so that its memory does not count

    assert CocoDataset.__doc__
    before = memory("VmRSS")
    start = time.perf_counter()
    dataset = CocoConfig(annotations=str(path), images=str(path.parent / "images")).open()
    seconds = time.perf_counter() - start
    gc.collect()
    after, peak = memory("VmRSS"), memory("VmHWM")
    num_annotations = len(dataset.file.ids)
    return {
        "annotations": num_annotations,
        "file_mb": path.stat().st_size / 1e6,
        "seconds": seconds,
        "before_mb": before,
        "stays_mb": after - before,
        "peak_above_mb": peak - after,
    }


def measured(path: Path) -> dict[str, float]:
    """`measure` in a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--measure", path], capture_output=True, text=True, check=True)
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


def main() -> None:
    """Print one line for each fresh process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the file is written, or lies from an earlier call")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="measure in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        path = folder / "annotations.json"
        if not path.exists():
            write_set(folder, arguments.images)
        for _ in range(arguments.turns):
            numbers = measured(path)
            print(", ".join(f"{name} {number:,.1f}" for name, number in numbers.items()), flush=True)


if __name__ == "__main__":
    main()
