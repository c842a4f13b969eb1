"""`boxwood data select`: the part of a file of detections that is in some images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from boxwood.data.coco_file import read_image_ids
from boxwood.errors import UserError
from boxwood.evaluation import save_detections
from boxwood.evaluation.results import read_records

__all__ = ["Selection", "select_detections"]


@dataclass(frozen=True)
class Selection:
    """Numbers of selected detections and images of a file of detections."""

    num_detections: int
    num_images: int
    """Images that have detections."""
    of_detections: int
    of_images: int
    """Images that were requested."""


def select_detections(results: str | Path, images: str | Path, out: str | Path) -> Selection:
    """Write those detections of a file of COCO results whose images are in a COCO file ``images`` to ``out``.

    Raises `UserError` where a file cannot be read, or no detection is in one of these images.
    """
    results, out = Path(results), Path(out)
    if out.suffix != ".json":
        raise UserError(f"{out}: COCO results are written as .json; change the ending")
    wanted = read_image_ids(Path(images))
    records = read_records(results)
    selected = [record for record in records if record["image_id"] in wanted]
    if not selected and records:
        raise UserError(f"{results}: has no detection in an image of {images}; name the results of these images")
    save_detections(selected, out)
    return Selection(len(selected), len({record["image_id"] for record in selected}), len(records), len(wanted))
