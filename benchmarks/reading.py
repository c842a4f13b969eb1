"""How much must be read to follow one training step: the lines of the functions that run.

    python benchmarks/reading.py                     Boxwood's recipes, and torchvision's networks where it has them

A profile function notes every Python function of the counted package that is called, once each. Its lines are those of its source,
decorators, docstring and blank lines included; nested functions count with the function that holds them. "step" is the
forward pass, the losses and the backward pass of one image with one instance; "building" is added by the recipe and the model's
constructor. torchvision's ``ops`` and ``models`` are counted for its networks, and no torch for either.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

import boxwood
import boxwood.recipes
from boxwood.structures import Batch, Categories, InstanceMasks, KeypointFacts, Target

RECIPES = (
    "faster_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_1x",
    "keypoint_rcnn_r50_fpn_1x",
    "fast_rcnn_r50_fpn_1x",
    "rpn_r50_fpn_1x",
    "faster_rcnn_r50_c4_1x",
    "mask_rcnn_r50_c4_1x",
    "rfcn_r50",
    "retinanet_r50_fpn_1x",
)
PEERS = {
    "faster_rcnn_r50_fpn_1x": "fasterrcnn_resnet50_fpn",
    "mask_rcnn_r50_fpn_1x": "maskrcnn_resnet50_fpn",
    "keypoint_rcnn_r50_fpn_1x": "keypointrcnn_resnet50_fpn",
    "retinanet_r50_fpn_1x": "retinanet_resnet50_fpn",
}


class Count(NamedTuple):
    """Of the functions that ran: their files, their number and their lines."""

    files: int
    functions: int
    lines: int


def functions_of(work: Callable[[], Any], package: Path) -> set[CodeType]:
    """The functions of the files below ``package`` that ``work`` calls; comprehensions and lambdas belong to what holds them."""
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(package)) and not code.co_name.startswith("<"):
            called.add(code)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


def count(functions: set[CodeType]) -> Count:
    """Files, functions and lines; a line that stands in two functions, one nested in the other, counts once."""
    lines: set[tuple[str, int]] = set()
    for code in functions:
        source, first = inspect.getsourcelines(code)
        lines |= {(code.co_filename, first + index) for index in range(len(source))}
    return Count(len({code.co_filename for code in functions}), len(functions), len(lines))


def our_counts(recipe: str) -> tuple[Count, Count]:
    """One training step of a recipe's network, and the same with the building of it."""
    box = torch.tensor([[8.0, 8.0, 40.0, 48.0]])
    masks = InstanceMasks(torch.ones(1, 28, 28, dtype=torch.uint8), box) if recipe.startswith("mask") else None
    keypoints = torch.tensor([[[20.0, 20, 2]]]) if recipe.startswith("keypoint") else None
    targets = (Target(box, torch.tensor([0]), torch.zeros(0, 4), masks, keypoints),)
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    batch = Batch(images, torch.tensor([[64, 64]]), ((64, 64),), (1,), ("a.jpg",), (1,), targets, (box + 1,))
    categories = Categories((1,), ("thing",), KeypointFacts(("middle",), (0,), (), (0.05,)))
    model: Any = None

    def build() -> None:
        nonlocal model
        config = getattr(boxwood.recipes, recipe)()
        config.model.backbone.weights = None  # randomly initialised, as torchvision's
        model = config.model.build(categories, config.test)

    def step() -> None:
        losses = model.losses(model(batch), targets)
        torch.stack(list(losses.values())).sum().backward()

    build()  # what is imported by it runs its classes' bodies, which are no functions
    package = Path(boxwood.__file__).parent
    building, stepping = functions_of(build, package), functions_of(step, package)
    return count(stepping), count(stepping | building)


def torchvision_counts(name: str) -> tuple[Count, Count]:
    """The same of one of torchvision's networks."""
    import torchvision.models.detection as detection

    box, model = torch.tensor([[8.0, 8.0, 40.0, 48.0]]), None
    target: dict[str, Any] = {"boxes": box, "labels": torch.tensor([1]), "masks": torch.ones(1, 64, 64, dtype=torch.uint8)}
    target["keypoints"] = torch.tensor([[[20.0, 20, 1]] * 17])

    def build() -> None:
        nonlocal model
        model = getattr(detection, name)(weights=None, weights_backbone=None)

    def step() -> None:
        losses = model([torch.zeros(3, 64, 64)], [target])  # type: ignore[misc]
        torch.stack(list(losses.values())).sum().backward()

    package = Path(detection.__file__).parents[2]
    building, stepping = functions_of(build, package), functions_of(step, package)
    return count(stepping), count(stepping | building)


def main() -> None:
    """Print the table of docs/reading.md."""
    print("| | step: files | functions | lines | with building: files | functions | lines |")
    print("|---|---|---|---|---|---|---|")
    rows = [(f"Boxwood, `{recipe}`", our_counts(recipe)) for recipe in RECIPES]
    rows += [(f"torchvision, `{peer}`", torchvision_counts(peer)) for peer in PEERS.values()]
    for name, (step, whole) in rows:
        print("| " + " | ".join([name, *(f"{number:,}" for number in (*step, *whole))]) + " |")


if __name__ == "__main__":
    main()
