"""Which classes teach masks: the values of ``data.train.mask_classes``, and the line in the log.

The names ``voc`` and ``nonvoc`` divide COCO's classes into the 20 that PASCAL VOC has too and the other 60, as Learning to Segment
Every Thing (Hu et al., 2018) did.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from boxwood.data.known_classes import COCO, VOC
from boxwood.errors import UserError
from boxwood.structures import Categories

__all__ = ["describe_masks", "listed_classes"]

MAX_BYTES = 1_000_000
"""Of a file of classes."""
IN_COCO = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""VOC's names of classes that COCO calls otherwise."""
NUM_NAMES = 30
"""Of classes in a line of the log."""


def listed_classes(mask_classes: str | tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The names or category ids of classes: those of a list, of the split ``voc`` or ``nonvoc``, or of a text file with one a line.

    Raises `UserError` where the file cannot be read.

    >>> listed_classes("voc")[:4], len(listed_classes("nonvoc"))
    (('person', 'bicycle', 'car', 'motorcycle'), 60)
    """
    if not isinstance(mask_classes, str):
        return mask_classes
    if mask_classes in ("voc", "nonvoc"):
        shared = {IN_COCO.get(name, name) for name in VOC.names}
        return tuple(name for name in COCO.names if (name in shared) == (mask_classes == "voc"))
    path = Path(mask_classes)
    if not path.is_file():
        raise UserError(
            f"mask_classes={mask_classes}: is neither voc nor nonvoc, and no file; name classes in a list, "
            "mask_classes=[cat, dog], or a text file with one class a line"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"mask_classes={path}: is larger than a list of classes; name a text file with one class a line")
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = "is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
        raise UserError(f"mask_classes={path}: {reason}; name a text file with one class a line") from None
    return tuple(line for line in lines if line)


def describe_masks(categories: Categories, counts: NDArray[np.int64]) -> str:
    """Which classes teach masks; ``counts`` (K, 2) are each class's instances with a mask that is used, and all of its instances.

    >>> print(describe_masks(Categories((1, 2, 3), ("cat", "dog", "cow")), np.array([[5, 5], [2, 3], [0, 4]])))
    masks of 2 of 3 classes teach: cat (5), dog (2 of 3); boxes alone: cow (4)
    """
    taught, others = [], []
    for name, (masks, instances) in zip(categories.names, counts.tolist(), strict=True):
        if masks:
            taught.append(f"{name} ({masks:,})" if masks == instances else f"{name} ({masks:,} of {instances:,})")
        else:
            others.append(f"{name} ({instances:,})")
    if not others and (counts[:, 0] == counts[:, 1]).all():
        return f"masks of all {len(categories)} classes teach"
    text = f"masks of {len(taught)} of {len(categories)} classes teach: {_some(taught)}"
    return f"{text}; boxes alone: {_some(others)}" if others else text


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NUM_NAMES} more" if len(names) > NUM_NAMES else ""
    return ", ".join(names[:NUM_NAMES]) + more
