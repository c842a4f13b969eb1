"""`boxwood predict` on photographs of 12 megapixels: pictures a second of the whole command, and the seconds of each stage alone.

    python benchmarks/predict.py                                   200 pictures, with and without drawings
    python benchmarks/predict.py --against ../before --repeats 3   in turns with another checkout, and whether both predict the same

The pictures are generated scenes of shapes, scaled to 4000 x 3000 pixels, with noise, as JPEG. The model is the demo's recipe after
a few steps; ``--model`` takes another. A turn is one process from its start to its end, on an empty folder.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from boxwood.files import IMAGE_FORMATS

HERE = Path(__file__).resolve().parents[1]
SIZE = (4000, 3000)
SCORE = 0.15
"""The lowest score that counts: the model is poor after a few steps, and this leaves some objects a picture."""


def boxwood(checkout: Path, *arguments: object) -> float:
    """Run a command of a checkout; seconds."""
    command = [sys.executable, "-m", "boxwood", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def write_pictures(folder: Path, scenes: Path, count: int) -> None:
    """``count`` JPEG files, each a scene of its number, with the noise of a camera."""
    folder.mkdir()
    random = np.random.default_rng(0)
    noise = random.normal(0, 5, (SIZE[1] + 64, SIZE[0] + 64, 3)).astype(np.int16)
    names = sorted(scenes.iterdir())
    for number in range(count):
        with Image.open(names[number % len(names)], formats=IMAGE_FORMATS) as scene:
            pixels = np.asarray(scene.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)).astype(np.int16)
        top, left = random.integers(0, 64, 2)
        noisy = (pixels + noise[top : top + SIZE[1], left : left + SIZE[0]]).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:04d}.jpg", quality=90)


def trained_model(folder: Path, steps: int) -> Path:
    """A run of the demo's recipe, on its own pictures."""
    data = [f"data.{part}.{key}={folder / 'shapes' / name}" for part in ("train", "val") for key, name in _places(part)]
    boxwood(HERE, "train", "demo_shapes", *data, f"train.steps={steps}", "data.workers=0", "--out", folder / "run")
    return folder / "run"


def _places(part: str) -> tuple[tuple[str, str], ...]:
    return (("annotations", f"{part}.json"), ("images", part))


def stage_times(model: Path, pictures: Path, out: Path, count: int = 10) -> dict[str, float]:
    """Milliseconds a picture of what `boxwood predict` does with it, one after another in one thread but for the network."""
    from boxwood import load
    from boxwood.data.images import read_image
    from boxwood.inference.records import records_of

    predictor = load(model, score=SCORE)
    stages: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        start = time.perf_counter()
        result = work()
        stages.setdefault(name, []).append(1000 * (time.perf_counter() - start))
        return result

    for path in sorted(pictures.iterdir())[:count]:
        image = timed("decode", lambda path=path: read_image(path))
        detections = timed("resize and detect", lambda image=image: predictor(image))
        detections = detections[detections.scores >= SCORE]
        timed("records, with run lengths", lambda detections=detections: records_of(detections))
        drawing = timed("draw", lambda detections=detections, image=image: detections.draw(image, SCORE))
        timed("encode as JPEG", lambda drawing=drawing: drawing.save(out / "a.jpg", quality=90, subsampling=0))
        timed("encode as PNG, level 1", lambda drawing=drawing: drawing.save(out / "a.png", compress_level=1))
    return {name: statistics.median(times) for name, times in stages.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, default=150, help="of the training that makes the model")
    parser.add_argument("--model", type=Path, help="a run or a file of weights; none: one is trained")
    parser.add_argument("--against", type=Path, metavar="PATH", help="another checkout")
    parser.add_argument("--folder", type=Path, help="where pictures and model stay for the next run; none: a temporary folder")
    parser.add_argument("--options", nargs="*", default=[], metavar="OPTION", help="more options of predict, without their dashes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        prepare(folder, arguments.pictures, arguments.steps, with_model=arguments.model is None)
        model = arguments.model or folder / "run"
        for name, milliseconds in stage_times(model, folder / "pictures", Path(temporary)).items():
            print(f"{name:28s} {milliseconds:8.1f} ms a picture")
        for drawings in (True, False):
            compare(arguments, folder / "pictures", model, drawings, Path(temporary))


def prepare(folder: Path, count: int, steps: int, *, with_model: bool) -> None:
    """The pictures, and the model, where they are not there yet."""
    folder.mkdir(exist_ok=True, parents=True)
    if not (folder / "shapes").exists():
        boxwood(HERE, "data", "shapes", "--out", folder / "shapes", "--train", 200, "--val", 20)
    if with_model and not (folder / "run").exists():
        trained_model(folder, steps)
    if not (folder / "pictures").exists():
        write_pictures(folder / "pictures", folder / "shapes" / "train", count)


def compare(arguments: argparse.Namespace, pictures: Path, model: Path, drawings: bool, temporary: Path) -> None:
    """Print the pictures a second of this checkout and of the other, with or without drawings."""
    checkouts = {"this": HERE} | ({"other": arguments.against.resolve()} if arguments.against else {})
    count, seconds, written = len(list(pictures.iterdir())), {name: [] for name in checkouts}, set()
    for turn in range(arguments.repeats):
        for name, checkout in checkouts.items():
            out = temporary / f"{name}-{drawings}-{turn}"
            options = [f"--{option}" for option in arguments.options] + ([] if drawings else ["--no-pictures"])
            seconds[name].append(boxwood(checkout, "predict", pictures, "--model", model, "--score", SCORE, "--out", out, *options))
            written.add((out / "predictions.json").read_bytes())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    what = f"{'with' if drawings else 'without'} drawings:"
    rates = ", ".join(f"{name} {count / median:.2f} pictures/s ({median:.1f} s)" for name, median in medians.items())
    ratio = f", {medians['other'] / medians['this']:.2f}x" if arguments.against else ""
    print(f"{what:18s} {rates}{ratio}; the same predictions in all turns: {len(written) == 1}")


if __name__ == "__main__":
    main()
