"""Cityscapes' fine annotations, which are polygons, as a COCO dictionary with instance masks.

    gtFine/val/CITY/CITY_x_y_gtFine_polygons.json + leftImg8bit/val/CITY/CITY_x_y_leftImg8bit.png

The polygons of an image are painted in order, later ones over earlier ones, so a mask holds the visible pixels of its instance.
Only the eight classes that the benchmark scores by instance become annotations; polygons of other classes only occlude, and are
counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hotcoco import mask
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from boxwood.columns import is_point, read_json
from boxwood.data.formats.reading import MAX_BYTES, Reading, descriptions, files_below
from boxwood.errors import UserError

__all__ = ["CLASSES", "cityscapes_pictures", "read_cityscapes"]

CLASSES = {"bicycle": 1, "car": 2, "person": 3, "train": 4, "truck": 5, "motorcycle": 6, "bus": 7, "rider": 8}
"""Names and category ids, those of Detectron's annotation files."""
ENDING = "_gtFine_polygons.json"
NOT_PAINTED = frozenset({"license plate"})
"""Labels that occlude nothing."""
NOT_COUNTED = frozenset(
    {"unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "parking", "rail track"}
    | {"guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer"}
)
"""Labels that the benchmark ignores."""
BYTES_A_PIXEL = 10
"""Of memory while an image is painted: rows of objects as 32 bits, a copy of them, a mask and a copy of it."""
VOID, OTHER = -1, -2
"""Values of pixels: ignored or without a polygon; of a class that becomes no annotation."""


def read_cityscapes(folder: Path) -> Reading:
    """All images below ``folder``, such as ``gtFine/val``.

    File names are ``CITY/..._leftImg8bit.png``, relative to the folder of the same name below ``leftImg8bit``.
    A polygon of many instances (``cargroup``) becomes a crowd region; ``void`` of an image is the mask of the pixels that the
    benchmark ignores. Raises `UserError` where there are no annotations, or a file is damaged.
    """
    files = files_below(folder, f"**/*{ENDING}")
    if not files:
        raise UserError(f"{folder}: has no files ...{ENDING}; name a folder of Cityscapes' annotations, such as gtFine/val")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    lost: Counter[str] = Counter()
    for image_id, path in enumerate(files, start=1):
        size, objects = _read(path)
        city = path.parent.name
        name = f"{path.name.removesuffix(ENDING)}_leftImg8bit.png"
        images.append({"id": image_id, "file_name": f"{city}/{name}", "height": size[0], "width": size[1]})
        pixels, painted = _paint(size, objects, path, lost)
        images[-1]["void"] = _code(pixels == VOID)
        visible_rows = set(np.unique(pixels).tolist())
        lost["instances that others hide"] += len(painted.keys() - visible_rows)
        for row, (label, crowd) in painted.items():
            if row not in visible_rows:
                continue
            code = _code(pixels == row)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": CLASSES[label],
                    "bbox": np.asarray(mask.toBbox(code)).tolist(),
                    "area": int(mask.area(code)),
                    "iscrowd": int(crowd),
                    "segmentation": code,
                }
            )
    categories = [{"id": category, "name": name} for name, category in CLASSES.items()]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    return Reading(coco, cityscapes_pictures(folder), descriptions(lost))


def cityscapes_pictures(folder: Path) -> Path | None:
    """``.../leftImg8bit/val`` of ``.../gtFine/val``, where it is there."""
    parts = list(folder.absolute().parts)
    if "gtFine" in parts:
        parts[len(parts) - 1 - parts[::-1].index("gtFine")] = "leftImg8bit"
    return Path(*parts) if "gtFine" in folder.absolute().parts and Path(*parts).is_dir() else None


def _read(path: Path) -> tuple[tuple[int, int], list[Any]]:
    tree = read_json(path, "copy it again")
    height, width, objects = (tree.get(key) if isinstance(tree, dict) else None for key in ("imgHeight", "imgWidth", "objects"))
    if type(height) is not int or type(width) is not int or not 0 < min(height, width) <= max(height, width) < 2**31:
        raise UserError(
            f"{path}: 'imgHeight' and 'imgWidth' must be the size of an image, got {height!r:.20} and {width!r:.20}; copy it again"
        )
    if (needed := height * width * BYTES_A_PIXEL) > MAX_BYTES:
        raise UserError(
            f"{path}: 'imgHeight' and 'imgWidth': {width} x {height} pixels take {needed:,} bytes, over the {MAX_BYTES:,} that are "
            "allowed; cut the image into tiles"
        )
    if not isinstance(objects, list):
        raise UserError(f"{path}: 'objects' must be a list; copy it again")
    return (height, width), objects


def _paint(
    size: tuple[int, int], objects: list[Any], path: Path, lost: Counter[str]
) -> tuple[NDArray[np.int32], dict[int, tuple[str, bool]]]:
    """The row of ``objects`` visible at each pixel, (H, W); for rows that become annotations the class and whether it is a
    crowd. Other objects are counted in ``lost``."""
    canvas = Image.new("I", (size[1], size[0]), VOID)
    brush = ImageDraw.Draw(canvas)
    painted: dict[int, tuple[str, bool]] = {}
    for row, entry in enumerate(objects):
        label, polygon = (entry.get("label"), entry.get("polygon")) if isinstance(entry, dict) else (None, None)
        if not isinstance(label, str) or not isinstance(polygon, list) or not all(map(is_point, polygon)):
            raise UserError(f"{path}: objects row {row}: must have a label and a polygon of points [x, y]; copy it again")
        if entry.get("deleted") or label in NOT_PAINTED or len(polygon) < 3:
            lost["polygons that are deleted, license plates, or of under 3 points"] += 1
            continue
        name, crowd = (label, False) if label in CLASSES else (label.removesuffix("group"), label.endswith("group"))
        if name in CLASSES:
            painted[row] = (name, crowd)
        else:
            lost["polygons of other classes (they only hide instances)"] += 1
        colour = row if name in CLASSES else VOID if label in NOT_COUNTED else OTHER
        brush.polygon([(x, y) for x, y in polygon], fill=colour)
    return np.asarray(canvas), painted


def _code(pixels: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) as run lengths in COCO's JSON format."""
    code = mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    counts = code["counts"]
    return {"size": list(pixels.shape), "counts": counts.decode("ascii") if isinstance(counts, bytes) else str(counts)}
