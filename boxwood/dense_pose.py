"""Dense pose as fields: annotated points of the surface of bodies, and detected maps of it.

    reader -> DensePose -> transforms -> DensePose.for_training -> losses
    network -> DetectedDensePose -> records (PNG), drawings

A mirror image of a person shows the other hand, and the other hand's chart is not the mirror image of the first: U and V change by
tables (`Symmetry`) that belong to the body model. Letters: N instances of an image, P points of each, S cells a side of a map.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from hotcoco import mask as coco_mask
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from boxwood import safe_matlab
from boxwood.errors import UserError
from boxwood.fields import Affine, InstanceField
from boxwood.files import IMAGE_FORMATS
from boxwood.ops.dense_pose import BOX_SIDE, MIRRORED_COARSE, MIRRORED_PARTS, surface_of

__all__ = [
    "WHERE_FROM",
    "DensePose",
    "DetectedDensePose",
    "Symmetry",
    "body_mask",
    "coarse_parts",
    "decode_png",
    "encode_png",
    "placed_box",
    "read_matlab",
    "read_symmetry",
]

WHERE_FROM = (
    "it derives from SMPL, whose licence is not commercial, so it does not come with Boxwood: download it from "
    "https://dl.fbaipublicfiles.com/densepose/data/"
)
"""The end of messages about files that may not be passed on."""
TABLE_SIDE = 256
MAX_BYTES = 1_000_000_000
"""Of the arrays of an .npz file; the distances between the 7,829 vertices of SMPL have 0.2 thousand million."""
NO_PART = -1.0
"""The part of rows that only fill up the points of an instance."""
ISO_LINES = 10
"""U and V from 0 to 1 are drawn with so many lines."""


# ------------------------------------------------------------------------------------------------------------ symmetry


@dataclass(frozen=True, eq=False)
class Symmetry:
    """U and V of each part's mirror image: ``u`` and ``v`` (24, 256, 256) float32, by part, 255 V and 255 U of the part itself."""

    u: Tensor
    v: Tensor

    def points(self, parts: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parts (int64, 1..24 or less than 1 for none), U and V (any shape) of the mirror image."""
        rows, columns = ((255 * value).floor().long().clamp(0, TABLE_SIDE - 1) for value in (v, u))
        tables = (parts - 1).clamp(min=0)
        on_body = parts > 0
        swapped = torch.tensor(MIRRORED_PARTS, device=parts.device)[parts.clamp(min=0)]
        return (
            torch.where(on_body, swapped, parts),
            torch.where(on_body, self.u.to(u.device)[tables, rows, columns], u),
            torch.where(on_body, self.v.to(v.device)[tables, rows, columns], v),
        )

    def maps(self, coarse: Tensor, fine: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicted maps (..., channels, S, S) of a mirrored image, as they would be in the image itself."""
        coarse, fine, u, v = (maps.flip(-1) for maps in (coarse, fine, u, v))
        parts = torch.arange(u.shape[-3], device=u.device)[:, None, None].expand(u.shape)
        # The background's U and V mean nothing and stay as they are.
        _, u, v = self.points(parts, torch.where(parts > 0, u.clamp(0, 1), u), torch.where(parts > 0, v.clamp(0, 1), v))
        order = list(MIRRORED_PARTS)
        if coarse.shape[-3] > 2:
            coarse = coarse[..., list(MIRRORED_COARSE), :, :]
        return coarse, fine[..., order, :, :], u[..., order, :, :], v[..., order, :, :]


@cache
def read_symmetry(path: str) -> Symmetry:
    """Read ``UV_symmetry_transforms.mat``, or an ``.npz`` with arrays ``u`` and ``v`` as a generated body has. Raises `UserError`
    where it is not there or is no such file."""
    where = Path(path)
    if not where.is_file():
        raise UserError(f"{path}: no such file; dense pose needs UV_symmetry_transforms.mat to mirror images: {WHERE_FROM}")
    if where.suffix == ".npz":
        arrays = read_arrays(where, ("symmetry_u", "symmetry_v"))
        tables = [np.asarray(arrays[name]) for name in ("symmetry_u", "symmetry_v")]
    else:
        content = read_matlab(where, ("U_transforms", "V_transforms"))
        try:
            tables = [np.stack([np.asarray(cell, dtype=np.float32) for cell in content[n].ravel()]) for n in content]
        except (ValueError, TypeError):
            tables = []
    if len(tables) != 2 or any(
        table.shape != (24, TABLE_SIDE, TABLE_SIDE) or table.dtype.kind != "f" or not np.isfinite(table).all() for table in tables
    ):
        raise UserError(f"{path}: expected U_transforms and V_transforms of 24 cells of 256 x 256 numbers; {WHERE_FROM}")
    return Symmetry(*(torch.from_numpy(table.astype(np.float32)) for table in tables))


def read_matlab(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The variables ``names`` of a MATLAB file. Raises `UserError` where it cannot be read or lacks one."""
    content = safe_matlab.read(path, names, "download it again")
    if missing := [name for name in names if name not in content]:
        raise UserError(f"{path}: lacks the variable {missing[0]}; expected {', '.join(names)}")
    return {name: np.asarray(content[name]) for name in names}


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays ``names`` of an .npz file. Raises `UserError` where it cannot be read or lacks one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            if missing := [name for name in names if name not in content.files]:
                raise UserError(f"{path}: lacks the array {missing[0]}; boxwood data shapes --surface writes such a file")
            if sum(part.file_size for part in content.zip.infolist()) > MAX_BYTES:
                raise ValueError(f"its arrays have more than the {MAX_BYTES} bytes that are read")
            return {name: content[name] for name in names}
    except UserError:
        raise
    except Exception as error:  # a damaged archive leads to errors of many types
        raise UserError(f"{path}: cannot be read as .npz ({' '.join(str(error).split())[:80]}); write it again") from None


# --------------------------------------------------------------------------------------------------------------- truth


@dataclass
class DensePose(InstanceField):
    """The annotated points of N instances. They lie in the annotated box, which counts as 256 x 256, whatever the image's size."""

    points: Tensor
    """(N, P, 5) float32: x and y in 256ths of the box, part (-1 in rows that fill up), U, V."""
    boxes: Tensor
    """(N, 4) float32 xyxy, the annotated boxes in pixels of the image, which they may leave."""
    segmentation: Tensor
    """(N, 256, 256) uint8: coarse parts over the box."""
    annotated: Tensor
    """(N,) bool: the instances with points."""
    segmented: Tensor
    """(N,) bool: those with coarse parts."""
    symmetry: Symmetry | None = None
    """Of the body model; None: images cannot be mirrored."""

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        most = max(part.points.shape[1] for part in parts)
        parts = [replace(part, points=filled(part.points, most)) for part in parts]
        return super().cat(parts)

    def transformed(self, affine: Affine) -> Self:
        """Raises `UserError` where ``affine`` makes a mirror image and there is no symmetry."""
        boxes = affine.boxes(self.boxes)
        points, segmentation = self.points, self.segmentation
        mirrored = [scale < 0 for scale in (affine.scale_x, affine.scale_y)]
        for axis, is_mirrored in enumerate(mirrored):
            if is_mirrored:
                points = points.clone()
                points[..., axis] = BOX_SIDE - points[..., axis]
                segmentation = segmentation.flip(2 - axis)
        if affine.mirrors and bool(self.annotated.any() | self.segmented.any()):
            points, segmentation = self._other_side(points, segmentation)
        return replace(self, points=points, boxes=boxes, segmentation=segmentation)

    def _other_side(self, points: Tensor, segmentation: Tensor) -> tuple[Tensor, Tensor]:
        """Parts, U and V of a mirror image."""
        if self.symmetry is None:
            raise UserError(
                "a mirror image shows other U and V, which a table of the body model tells: set data.train.symmetry to "
                "UV_symmetry_transforms.mat (https://dl.fbaipublicfiles.com/densepose/data/, not for commercial use), or take "
                "horizontal_flip out of data.train.transforms"
            )
        parts, u, v = self.symmetry.points(points[..., 2].long(), points[..., 3], points[..., 4])
        coarse = torch.tensor(MIRRORED_COARSE, dtype=torch.uint8)[segmentation.long()]
        return torch.cat([points[..., :2], torch.stack([parts.to(u), u, v], dim=-1)], dim=-1), coarse

    def covered(self, pixels: Tensor) -> Self:
        """Points and coarse parts under the paint are left out."""
        height, width = pixels.shape

        def painted(places: Tensor) -> Tensor:
            """Of places (N, ..., 2: x, y) in 256ths of the boxes."""
            shape = (len(self), *[1] * (places.dim() - 2), 2)
            start, extent = self.boxes[:, :2].reshape(shape), (self.boxes[:, 2:] - self.boxes[:, :2]).reshape(shape)
            x, y = (start + places * extent / BOX_SIDE).floor().long().unbind(-1)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            return pixels[y.clamp(0, height - 1), x.clamp(0, width - 1)] & inside

        points = self.points.clone()
        points[..., 2][painted(points[..., :2])] = NO_PART
        middle = torch.arange(BOX_SIDE) + 0.5
        grid = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), dim=-1).expand(len(self), -1, -1, -1)
        return replace(self, points=points, segmentation=self.segmentation.masked_fill(painted(grid), 0))

    def for_training(self, boxes: Tensor) -> DensePose:
        """Without the symmetry's tables, which would be sent from process to process."""
        return replace(self, symmetry=None)


def filled(points: Tensor, most: int) -> Tensor:
    """Points (N, P, 5) with rows of no part up to ``most``."""
    rest = points.new_zeros(len(points), most - points.shape[1], 5)
    rest[..., 2] = NO_PART
    return torch.cat([points, rest], dim=1)


def coarse_parts(masks: Any) -> NDArray[np.uint8]:
    """(256, 256) coarse parts of ``dp_masks``, of which a later one covers those before; 1 for all of a body that is one mask.
    Raises ValueError where one is damaged."""
    parts = np.zeros((BOX_SIDE, BOX_SIDE), dtype=np.uint8)
    for number, mask in enumerate([masks] if isinstance(masks, dict) else masks, start=1):
        if mask:
            parts[_decoded(mask) > 0] = number
    return parts


def body_mask(masks: Any) -> NDArray[np.uint8]:
    """(256, 256) 0 and 1: the whole body of ``dp_masks``. Raises ValueError where one is damaged."""
    return np.minimum(coarse_parts(masks), 1)


def _decoded(mask: dict[str, Any]) -> NDArray[np.uint8]:
    if isinstance(mask["counts"], list):
        if sum(mask["counts"]) != BOX_SIDE**2:
            raise ValueError(f"its counts make {sum(mask['counts'])} pixels, not {BOX_SIDE**2}")
        mask = coco_mask.frPyObjects(mask, *mask["size"])
    try:
        pixels: NDArray[np.uint8] = coco_mask.decode(mask)
    except Exception as error:  # the decoder raises errors of several types
        raise ValueError(str(error)) from None
    return pixels


# ---------------------------------------------------------------------------------------------------------- detections


@dataclass
class DetectedDensePose(InstanceField):
    """Predicted maps of N detections over their boxes."""

    maps: Tensor
    """(N, M, S, S) float32: logits of the coarse parts and of the parts, then U and V of each part; further maps may follow."""
    coarse: int
    """Channels of the coarse parts."""
    parts: int = 24
    symmetry: Symmetry | None = None

    def transformed(self, affine: Affine) -> Self:
        """Raises `UserError` where ``affine`` makes a mirror image and there is no symmetry."""
        maps = self.maps
        if affine.mirrors:
            if self.symmetry is None:
                raise UserError("dense pose cannot be mirrored without the symmetry of the body model")
            maps = torch.cat([*self.symmetry.maps(*self._kinds(maps)), maps[:, self._end :].flip(-1)], dim=1)
            if affine.scale_y < 0:
                maps = maps.flip((-1, -2))
        elif affine.scale_x < 0:
            maps = maps.flip((-1, -2))
        return replace(self, maps=maps)

    @property
    def _end(self) -> int:
        return self.coarse + 3 * (self.parts + 1)

    def _kinds(self, maps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        charts = self.parts + 1
        coarse, fine, u, v = torch.split(maps[..., : self._end, :, :], [self.coarse, charts, charts, charts], dim=-3)
        return coarse, fine, u, v

    def surface(self, row: int, box: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Instance ``row`` in the pixels of its box (xyxy), from its first whole pixel on: (h, w) int64 parts, 0 for the
        background, and (2, h, w) float32 U and V."""
        _, _, width, height = placed_box(box)
        return surface_of(*self._kinds(self.maps[row]), (height, width))

    def records(self, boxes: Tensor, size: tuple[int, int]) -> list[dict[str, Any]]:
        """``uv_shape`` [3, h, w] and ``uv_data``, a PNG in base64 of part, 255 U and 255 V in the pixels of the box, as in results
        of the COCO DensePose challenge."""
        rows = []
        for row, box in enumerate(boxes.tolist()):
            planes = eight_bits(*self.surface(row, box))
            rows.append({"uv_shape": list(planes.shape), "uv_data": encode_png(planes)})
        return rows

    def draw(self, picture: Image.Image, row: int, box: Sequence[float], color: tuple[int, int, int], line: int) -> None:
        """Parts in colours, and lines of equal U (dark) and V (light)."""
        left, top, _, _ = placed_box(box)
        parts, (u, v) = (values.numpy() for values in self.surface(row, box))
        area = (left, top, left + parts.shape[1], top + parts.shape[0])
        below = np.asarray(picture.crop(area).convert("RGB"), dtype=np.float32)
        on_body = parts > 0
        hues = part_colors()[parts]
        painted = np.where(on_body[..., None], 0.45 * below + 0.55 * hues, below)
        for values, tone in ((u, 30.0), (v, 245.0)):
            painted[iso_lines(values, parts, max(1, line // 2))] = tone
        picture.paste(Image.fromarray(painted.clip(0, 255).astype(np.uint8)), (left, top))


def placed_box(box: Sequence[float]) -> tuple[int, int, int, int]:
    """The whole pixels of a box (xyxy): left, top, width and height without their fractions, width and height at least 1."""
    x1, y1, x2, y2 = box
    return int(x1), int(y1), max(1, int(x2 - x1)), max(1, int(y2 - y1))


def eight_bits(parts: Tensor, uv: Tensor) -> NDArray[np.uint8]:
    """(3, h, w) uint8: part, 255 U and 255 V without their fractions, U and V cut to 0..1."""
    planes = torch.cat([parts[None].float(), (uv.clamp(0, 1) * 255).floor()])
    values: NDArray[np.uint8] = planes.to(torch.uint8).cpu().numpy()
    return values


def encode_png(planes: NDArray[np.uint8]) -> str:
    """(3, h, w) uint8 as the red, green and blue of a PNG, in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode_png(text: str, shape: Sequence[int]) -> NDArray[np.uint8]:
    """`encode_png` back, also with line ends in the text. Raises ValueError where it is no PNG of ``shape`` (3, h, w)."""
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as picture:
            if picture.format != "PNG" or picture.mode != "RGB" or [3, picture.height, picture.width] != list(shape):
                raise ValueError(f"a PNG of {picture.mode}, {picture.width} x {picture.height}, where {list(shape)} was expected")
            planes: NDArray[np.uint8] = np.asarray(picture).transpose(2, 0, 1)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"no PNG in base64 ({error})") from None
    return planes


@cache
def part_colors() -> NDArray[np.float32]:
    """(25, 3) RGB of each part: neighbours in number differ in hue, the background is black."""
    import colorsys

    hues = [((part * 0.381966) % 1.0, 0.75, 0.95 if part % 2 else 0.75) for part in range(24)]
    return np.array([(0.0, 0.0, 0.0), *(tuple(255 * c for c in colorsys.hsv_to_rgb(*hue)) for hue in hues)], dtype=np.float32)


def iso_lines(values: NDArray[np.float32], parts: NDArray[np.int64], width: int = 1) -> NDArray[np.bool_]:
    """(h, w) bool: where ``values`` (h, w) pass one of `ISO_LINES` steps from 0 to 1 inside a part, in lines ``width`` pixels
    wide."""
    steps = np.floor(values * ISO_LINES).clip(0, ISO_LINES - 1)
    lines = np.zeros(parts.shape, dtype=np.bool_)
    for ahead, behind in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        lines[behind] |= (steps[ahead] != steps[behind]) & (parts[ahead] == parts[behind]) & (parts[behind] > 0)
    if width > 1:
        spread = F.max_pool2d(torch.from_numpy(lines)[None].float(), 2 * (width // 2) + 1, 1, width // 2)[0] > 0
        lines = spread.numpy() & (parts > 0)
    return lines
