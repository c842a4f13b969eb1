"""How much work the host hands to a GPU, one operator after another, in a training step and in inference; without a GPU.

    python benchmarks/launches.py                        the table: operators and waits, 1 and 8 images
    python benchmarks/launches.py --only train --by line  where they come from: by file, function or line

Each operator costs the host some microseconds, whatever its size: a step that has many of them waits for the host. They are counted
on a simulated GPU (`tests/models/simulated_gpu.py`), with small pictures and narrow heads, which change no number but that of the
operators that work through chunks. Views and allocations are not counted, and an operator that starts several kernels counts once;
so does one that updates all parameters. A training step is `boxwood train`'s: the batch copied to the device, forward, losses,
backward, the norm of the gradients, the check that they are finite, and the update of the weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from boxwood.data.packing import PackedBatch
from boxwood.inference.predictor import prepare
from boxwood.models.config import without_pretrained
from boxwood.recipes import resolve
from boxwood.structures import Batch, Categories, InstanceMasks, KeypointFacts, Target
from boxwood.training.divergence import DivergenceWatch
from boxwood.training.log import Meter
from boxwood.training.loop import update
from boxwood.training.optimizer import build_optimizer
from boxwood.training.state import TrainingState

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.models.simulated_gpu import GPUTensor, Place, SimulatedGPU

POINTS = KeypointFacts(tuple(f"point {index}" for index in range(17)), tuple(range(17)), (), (0.05,) * 17)
CATEGORIES = Categories((1, 2, 3), ("a", "b", "c"), POINTS)
SIZE = (96, 128)

NARROW = {
    "rcnn": ["model.fpn.channels=32", "model.box_head.width=32", "model.rois.samples_per_image=32"],
    "mask": ["model.mask_head.convs=4", "model.mask_head.width=16"],
    "keypoint": ["model.keypoint_head.width=16"],
    "retinanet": ["model.fpn.channels=32"],
}
RECIPES: dict[str, list[str]] = {
    "faster_rcnn_r50_fpn_1x": NARROW["rcnn"],
    "mask_rcnn_r50_fpn_1x": [*NARROW["rcnn"], *NARROW["mask"]],
    "keypoint_rcnn_r50_fpn_1x": [*NARROW["rcnn"], *NARROW["keypoint"]],
    "retinanet_r50_fpn_1x": NARROW["retinanet"],
}


@dataclass(frozen=True)
class Count:
    """Of one training step or one inference."""

    launches: list[Place]
    waits: list[Place]


def pictures(count: int, *, with_targets: bool) -> Batch:
    """Noise, with three instances in each picture."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *SIZE), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[4.0, 4.0, 60.0, 64.0], [40.0, 20.0, 120.0, 80.0], [10.0, 10.0, 100.0, 90.0]])
    masks = InstanceMasks(torch.ones(3, 28, 28, dtype=torch.uint8), boxes)
    points = torch.cat([(boxes[:, None, :2] + boxes[:, None, 2:]) / 2, torch.full((3, 1, 1), 2.0)], dim=2).expand(-1, 17, -1)
    target = Target(boxes, torch.tensor([0, 1, 2]), torch.zeros(0, 4), masks, points.contiguous())
    targets = (target,) * count if with_targets else None
    seeds = tuple(range(count))
    return Batch(images, torch.tensor([SIZE] * count), (SIZE,) * count, seeds, ("",) * count, seeds, targets, extent=SIZE)


@contextmanager
def simulated() -> Iterator[SimulatedGPU]:
    """The simulated GPU, on which torch takes the operators for lists of tensors that it has for CUDA."""
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # autocast finds no GPU
        stack.enter_context(mock.patch("torch.nn.utils.clip_grad._has_foreach_support", return_value=True))
        types = torch.utils._foreach_utils._foreach_supported_types
        stack.enter_context(mock.patch("torch.utils._foreach_utils._foreach_supported_types", [*types, GPUTensor]))
        yield stack.enter_context(SimulatedGPU(launches=True, triton=True))


def network_of(recipe: str, overrides: list[str]) -> tuple[Any, Any]:
    """The configuration and its network with random weights."""
    config = resolve(recipe, [*RECIPES[recipe], *overrides])
    torch.manual_seed(0)
    network: Any = without_pretrained(config.model).build(CATEGORIES, config.test)
    return config, network


def count_training(recipe: str, images: int) -> Count:
    """The second of two steps: the first fills what is computed once."""
    config, network = network_of(recipe, [f"train.batch_size={images}"])
    network.train().to(memory_format=torch.channels_last)
    with simulated() as gpu:
        gpu.move(network)
        device = torch.device("cuda")
        optimizer = build_optimizer(network, config)
        scaler = torch.amp.GradScaler("cuda", enabled=False)
        watch = DivergenceWatch(device, deferred=True)
        state = TrainingState(config, Path(), device, network, network, optimizer, scaler, Meter(device), watch)
        batches = (PackedBatch.of(pictures(images, with_targets=True)).to(device).unpack() for _ in range(2))
        for _ in range(2):
            gpu.waits.clear()
            gpu.launches.clear()
            update(state, batches)
        return Count(gpu.launches, gpu.waits)


@torch.no_grad()
def count_inference(recipe: str, images: int) -> Count:
    """The second of two calls, from pictures on the device to detections."""
    _, network = network_of(recipe, ["test.score_threshold=0.0"])
    network = prepare(network)
    with simulated() as gpu:
        gpu.move(network)
        batch = pictures(images, with_targets=False).to("cuda")
        for _ in range(2):
            gpu.waits.clear()
            gpu.launches.clear()
            network.detections(network(batch), batch)
        return Count(gpu.launches, gpu.waits)


WORK: dict[str, Callable[[str, int], Count]] = {"train": count_training, "infer": count_inference}


def grouped(places: list[Place], by: str) -> Counter[str]:
    """How many come from each file, function or line; what belongs to a gradient is named as such."""

    def name(place: Place) -> str:
        backward = " (backward)" if place.operator.startswith("backward") else ""
        if by == "line":
            return f"{place.file}:{place.line}{backward}: {place.code[:70]}"
        return (place.file if by == "file" else place.place) + backward

    return Counter(map(name, places))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    parser.add_argument("--only", nargs="+", choices=WORK, default=list(WORK), metavar="WORK", help=", ".join(WORK))
    parser.add_argument("--images", nargs="+", type=int, default=[1, 8], metavar="N")
    parser.add_argument("--by", choices=("file", "function", "line"), help="list where the operators come from")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the numbers there too")
    arguments = parser.parse_args()
    numbers: dict[str, dict[str, int]] = {}
    print(f"{'':48}{'operators':>10}{'waits':>8}")
    for work in arguments.only:
        for recipe in arguments.recipes:
            for images in arguments.images:
                start = time.perf_counter()
                count = WORK[work](recipe, images)
                what = f"{recipe}, {work}, {images} image{'s' * (images > 1)}"
                numbers[what] = {"operators": len(count.launches), "waits": len(count.waits)}
                print(f"{what:48}{len(count.launches):10,}{len(count.waits):8}   {time.perf_counter() - start:.0f} s", flush=True)
                if arguments.by:
                    for name, number in grouped(count.launches, arguments.by).most_common(60):
                        print(f"{number:8,}  {name}")
    if arguments.out:
        arguments.out.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
