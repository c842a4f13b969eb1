"""Label Studio's JSON export: a list of tasks, one for each picture, with regions in percent of the picture's size."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray

from boxwood.columns import is_number, is_whole, read_json, short
from boxwood.data.formats.collect import Collected, origin_of
from boxwood.errors import UserError
from boxwood.files import media_kind
from boxwood.pixels import MAX_PIXELS, read_header

__all__ = ["is_label_studio", "read_label_studio"]

CORNERS = 32
"""Corners of the polygon that approximates an ellipse."""
BEGINNING = 65_536
"""Bytes of a file that are read to recognise the format."""
ANSWERS = ("choices", "datetime", "number", "pairwise", "ranker", "rating", "relation", "taxonomy", "textarea")
"""Kinds of results that are no regions."""
MAX_FOLDERS = 20
"""Folders of an address that are compared with those of the pictures."""
COORDINATE = 1e4
"""Percent; coordinates further out cannot be meant."""


def is_label_studio(path: Path) -> bool:
    """Whether a .json file begins as a list of tasks does, where COCO's begins with a mapping."""
    try:
        with path.open("rb") as file:
            beginning = file.read(BEGINNING).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError:
        return False
    return beginning.startswith(b"[") and re.search(rb'"(annotations|completions|data)"\s*:', beginning) is not None


def read_label_studio(path: Path, images: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """A COCO dictionary of an export in the format "JSON", and descriptions of what it lacks.

    File names are those of the pictures in ``images`` or else beside the file, where they are there: with or without the prefix of
    an upload, and with the folders of an address or storage. Where there are none, an upload loses its prefix and an address its
    folders. Of several annotations of a task one is taken: the ground truth, else the latest. A task without any is left out.

    Rectangles become boxes, of rotated ones the upright extent; polygons and ellipses outlines; brushes masks. Key points become
    keypoints of the region that is their parent. Sizes come from the regions, else from the picture. Raises `UserError` where the
    file cannot be read or is not valid.
    """
    tasks = read_json(path, "export it again")
    if not isinstance(tasks, list) or not all(isinstance(task, dict) and ("data" in task or _versions(task)) for task in tasks):
        raise UserError(
            f"{path}: is not a list of Label Studio's tasks with 'data' and 'annotations'; export it in the format JSON"
        )
    collected = Collected()
    lost = collected.lost
    labels: list[tuple[int, dict[str, tuple[float, float]]]] = []
    names = _names(tasks, images or path.parent, path)
    for row, (task, name) in enumerate(zip(tasks, names, strict=True)):
        where = f"{path}: task {short(task.get('id', row))}"
        annotation = _chosen(task, lost, where)
        if annotation is None:
            continue
        results = annotation.get("result")
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise UserError(f"{where}: 'result' must be a list of regions, got {short(results)}; export it again")
        if name is None:
            lost["tasks without a picture, or with more than one"] += 1
            continue
        size = _size(results, (images or path.parent) / name, where)
        if size is None:
            lost[f"pictures without regions whose size is not known, since they are not in {images or path.parent}"] += 1
            continue
        image_id = collected.image(name, *size)
        labels += _Regions(collected, image_id, size, where).take(results)
    return _with_keypoints(collected, labels)


# ------------------------------------------------------------------------------------------------------------ internals


def _versions(task: dict[str, Any]) -> list[Any]:
    """All annotations of a task; early releases called them completions."""
    versions = task.get("annotations") or task.get("completions") or []
    return versions if isinstance(versions, list) else []


def _chosen(task: dict[str, Any], lost: Counter[str], where: str) -> dict[str, Any] | None:
    """The annotation of a task that is read, or None."""
    for key in ("predictions", "drafts"):
        lost[f"{key} of tasks"] += len(task[key]) if isinstance(task.get(key), list) else 0
    versions = _versions(task)
    if not all(isinstance(version, dict) for version in versions):
        raise UserError(f"{where}: 'annotations' must be a list of mappings, got {short(versions)}; export it again")
    skipped = [version for version in versions if version.get("was_cancelled")]
    others = [version for version in versions if not version.get("was_cancelled")]
    if not others:
        lost["tasks that were skipped" if skipped else "tasks that nobody has annotated"] += 1
        return None
    lost["further annotations of the same pictures"] += len(others) - 1
    dates = [str(version.get("updated_at") or version.get("created_at") or "") for version in others]
    best = max(range(len(others)), key=lambda index: (bool(others[index].get("ground_truth")), dates[index]))
    picked: dict[str, Any] = others[best]
    return picked


def _names(tasks: Sequence[dict[str, Any]], folder: Path, path: Path) -> list[str | None]:
    """The file name of each task's picture; None where it has none, or several."""
    paths = [_path_parts(_address(task)) for task in tasks]
    names = [None if parts is None else _present(parts, folder) or _plain(parts[-1]) for parts in paths]
    counts = Counter(names)
    # Pictures of the same name in several folders get the names of these.
    return [name if parts is None or counts[name] == 1 else "/".join(parts) for name, parts in zip(names, paths, strict=True)]


def _address(task: dict[str, Any]) -> str:
    """The address of a task's picture; empty where it has none, or several."""
    data = task.get("data")
    if not isinstance(data, dict):
        return ""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    if "image" in texts:
        return texts["image"]
    pictures = [text for text in texts.values() if media_kind(text.split("?")[0]).kind in ("image", "unread") or "?d=" in text]
    return pictures[0] if len(pictures) == 1 else ""


def _path_parts(address: str) -> list[str] | None:
    """The folders and the name in an address: of the web, of a storage, of an upload or of a disk."""
    if not address or address.startswith("data:"):
        return None
    _, is_local, local = address.partition("/data/local-files/?d=")
    address = local if is_local else re.split("[?#]", address)[0] if "://" in address else address
    address = unquote(re.sub(r"^[A-Za-z][A-Za-z0-9+.-]+://[^/]*", "", address)).replace("\\", "/")
    parts = [part for part in re.sub("^[A-Za-z]:", "", address).split("/") if part not in ("", ".", "..")]
    if parts[:2] == ["data", "upload"]:  # /data/upload/PROJECT/PREFIX-NAME
        parts = parts[-1:]
    return parts[-MAX_FOLDERS:] or None


def _plain(name: str) -> str:
    """A name without the eight digits that Label Studio puts before the names of uploads."""
    return re.sub("^[0-9a-f]{8}-(?=.)", "", name)


def _present(parts: list[str], folder: Path) -> str | None:
    """The name of a picture that is in ``folder``, with as many of its own folders as possible, or None."""
    for start in range(len(parts)):
        for name in (parts[-1], _plain(parts[-1])):
            candidate = "/".join((*parts[start:-1], name))
            if os.path.isfile(folder / candidate):
                return candidate
    return None


def _size(results: list[dict[str, Any]], picture: Path, where: str) -> tuple[int, int] | None:
    """(height, width) as the regions give it, else that of the picture, else None."""
    for result in results:
        height, width = result.get("original_height"), result.get("original_width")
        if height is not None and width is not None:
            if not all(is_whole(side) and side is not True and side > 0 for side in (height, width)):
                raise UserError(
                    f"{where}: 'original_height' and 'original_width' must be whole numbers above 0, "
                    f"got {short(height)} and {short(width)}; export it again"
                )
            return int(height), int(width)
    return read_header(picture).oriented if os.path.isfile(picture) else None


def _with_keypoints(
    collected: Collected, labels: list[tuple[int, dict[str, tuple[float, float]]]]
) -> tuple[dict[str, Any], list[str]]:
    """The COCO dictionary with the keypoints of instances; ``labels`` has an instance's index and its points by name."""
    names = sorted({name for _, points in labels for name in points})
    for index, points in labels:
        rows = [(*points[name], 2) if name in points else (0, 0, 0) for name in names]
        collected.instances[index] |= {"keypoints": [number for row in rows for number in row], "num_keypoints": len(points)}
    coco, lost = collected.coco()
    if names:
        for category in coco["categories"]:
            category["keypoints"] = names
    return coco, lost


class _Regions:
    """The regions of one picture, added to the instances."""

    def __init__(self, collected: Collected, image_id: int, size: tuple[int, int], where: str) -> None:
        self.collected, self.image_id, self.size, self.where = collected, image_id, size, where
        self.indices: dict[str, list[int]] = {}
        """Indices of the instances by the id of their region."""
        self.points: list[tuple[Any, str, tuple[float, float]]] = []
        """Key points: the id of the parent, the name, x and y in pixels."""

    def take(self, results: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, tuple[float, float]]]]:
        """Add all; yields the indices of instances with keypoints, and these by name."""
        lost = self.collected.lost
        named = {str(result.get("id")) for result in results if _labels_of(result)}
        for result in results:
            kind, value = str(result.get("type")), result.get("value")
            if kind in ANSWERS:
                lost[f"answers of the kind {kind}"] += 1
            elif not isinstance(value, dict):
                lost[f"regions of the kind {kind:.40}"] += 1
            elif labels := _labels_of(result):
                self._take_region(result, value, labels)
            elif (
                result.get("id") is None or str(result["id"]) not in named
            ):  # else the labels of the region are another result of the same id
                lost["regions without a label"] += 1
        parts: dict[int, dict[str, tuple[float, float]]] = {}
        for parent, name, point in self.points:
            for index in self.indices.get(str(parent), ()) if parent is not None else ():
                parts.setdefault(index, {})[name] = point
            lost["key points that are not of a region"] += parent is None or str(parent) not in self.indices
        yield from parts.items()

    def _take_region(self, result: dict[str, Any], value: dict[str, Any], labels: list[str]) -> None:
        kind = str(result.get("type"))
        if result.get("image_rotation") not in (None, 0):
            self.collected.lost["regions of pictures that were turned (image_rotation)"] += 1
            return
        if {"x", "y", "width"} <= value.keys() and "height" not in value:
            point = self._pixels([self._numbers(value, "x", "y")])[0]
            # Pixels are counted by their centres in COCO's keypoints.
            self.points += [(result.get("parentID"), label, (point[0] - 0.5, point[1] - 0.5)) for label in labels]
            return
        for label in labels:
            before = len(self.collected.instances)
            self._take_shape(kind, value, label)
            for instance in self.collected.instances[before:]:
                instance |= origin_of(result.get("score"), "auto" if result.get("origin") == "prediction" else None)
            self.indices.setdefault(str(result.get("id")), []).extend(range(before, len(self.collected.instances)))

    def _take_shape(self, kind: str, value: dict[str, Any], label: str) -> None:
        collected, image_id, lost = self.collected, self.image_id, self.collected.lost
        if {"x", "y", "width", "height"} <= value.keys():
            corners = self._corners(value)
            xs, ys = zip(*corners, strict=True)
            collected.box(image_id, label, (min(xs), min(ys), max(xs), max(ys)))
            lost["rotations of boxes (their upright extent is taken)"] += value.get("rotation") not in (None, 0)
        elif {"x", "y", "radiusX", "radiusY"} <= value.keys():
            collected.outline(image_id, label, self._ellipse(value))
        elif isinstance(points := value.get("points"), list):
            pairs = [self._pair(point) for point in points]
            if len(pairs) < 3:
                lost["polygons with under 3 points"] += 1
            else:
                collected.outline(image_id, label, self._pixels(pairs))
        elif "rle" in value:
            self._take_brush(value["rle"], label)
        else:
            lost[f"regions of the kind {kind:.40}"] += 1

    def _take_brush(self, codes: Any, label: str) -> None:
        height, width = self.size
        if not isinstance(codes, list) or not all(type(code) is int and 0 <= code < 256 for code in codes):
            raise UserError(f"{self.where}: 'rle' must be a list of bytes, got {short(codes)}; export it again")
        pixels = _brush_pixels(bytes(codes), height * width) if height * width <= MAX_PIXELS else None
        if pixels is None:
            self.collected.lost["brushes that cannot be decoded"] += 1
            return
        if not pixels.any():
            self.collected.lost["brushes without a pixel"] += 1
            return
        code = coco_mask.encode(np.asfortranarray(pixels.reshape(height, width)))
        counts = code["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
        box = np.asarray(coco_mask.toBbox(code)).ravel().tolist()
        self.collected.mask(self.image_id, label, {"size": [height, width], "counts": text}, box, int(pixels.sum()))

    def _corners(self, value: dict[str, Any]) -> list[tuple[float, float]]:
        """The corners of a rectangle in pixels; it is turned clockwise about its first one."""
        x, y, width, height = self._numbers(value, "x", "y", "width", "height")
        (left, top), (right, bottom) = self._pixels([(x, y), (x + width, y + height)])
        cos, sin = _turn(self._rotation(value))
        sides = [(right - left) * at_right for at_right in (0, 1, 1, 0)], [(bottom - top) * below for below in (0, 0, 1, 1)]
        return [(left + dx * cos - dy * sin, top + dx * sin + dy * cos) for dx, dy in zip(*sides, strict=True)]

    def _ellipse(self, value: dict[str, Any]) -> list[tuple[float, float]]:
        x, y, radius_x, radius_y = self._numbers(value, "x", "y", "radiusX", "radiusY")
        (cx, cy), (rx, ry) = self._pixels([(x, y), (radius_x, radius_y)])
        cos, sin = _turn(self._rotation(value))
        turns = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
        points = [(rx * math.cos(turn), ry * math.sin(turn)) for turn in turns]
        return [(cx + dx * cos - dy * sin, cy + dx * sin + dy * cos) for dx, dy in points]

    def _rotation(self, value: dict[str, Any]) -> float:
        return self._numbers(value, "rotation")[0] if value.get("rotation") is not None else 0.0

    def _numbers(self, value: dict[str, Any], *keys: str) -> list[float]:
        numbers: list[Any] = [value.get(key) for key in keys]
        if not all(is_number(number) and abs(number) < COORDINATE for number in numbers):
            raise UserError(f"{self.where}: {', '.join(keys)} must be numbers of percent, got {short(numbers)}; export it again")
        return [float(number) for number in numbers]

    def _pair(self, point: Any) -> tuple[float, float]:
        if not isinstance(point, list) or len(point) != 2:
            raise UserError(f"{self.where}: points must be [x, y] in percent, got {short(point)}; export it again")
        x, y = self._numbers({"x": point[0], "y": point[1]}, "x", "y")
        return x, y

    def _pixels(self, points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
        height, width = self.size
        return [(x * width / 100, y * height / 100) for x, y in points]


def _labels_of(result: dict[str, Any]) -> list[str]:
    """The labels of a region, under the name of its type, such as rectanglelabels or labels."""
    value, kind = result.get("value"), result.get("type")
    labels = value.get(kind) if isinstance(value, dict) and isinstance(kind, str) and kind.endswith("labels") else None
    return [label for label in labels if isinstance(label, str) and label] if isinstance(labels, list) else []


def _turn(degrees: float) -> tuple[float, float]:
    """Cosine and sine; of right angles exactly."""
    if degrees % 90 == 0:
        return ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))[int(degrees // 90) % 4]
    return math.cos(math.radians(degrees)), math.sin(math.radians(degrees))


def _brush_pixels(code: bytes, num_pixels: int) -> NDArray[np.uint8] | None:
    """The pixels of a brush, (num_pixels,) of 0 and 1, row by row; None where the code is damaged.

    The code is that of the package rle-pack (thi.ng/umbrella) on the four bytes red, green, blue, opacity of each pixel: 32 bits
    with the number of values, 5 with their size minus 1, four times 4 with sizes of counts minus 1; then blocks of a bit for
    "repeated", 2 bits for the size of the count, the count minus 1, and one value, or as many as the count. A pixel with opacity
    belongs to the brush.
    """
    bits = "".join(f"{byte:08b}" for byte in code)
    if len(bits) < 53 or int(bits[:32], 2) != 4 * num_pixels:
        return None
    word = int(bits[32:37], 2) + 1
    sizes = [int(bits[start : start + 4], 2) + 1 for start in range(37, 53, 4)]
    opacity = np.zeros(num_pixels, dtype=np.uint8)
    place, done = 53, 0
    while done < 4 * num_pixels:
        if place + 3 > len(bits):
            return None
        repeated, size = bits[place] == "1", sizes[int(bits[place + 1 : place + 3], 2)]
        place += 3
        end = place + size
        count = int(bits[place:end] or "0", 2) + 1
        stop = end + (word if repeated else word * count)
        if stop > len(bits) or done + count > 4 * num_pixels or word > 8:
            return None
        numbers = [int(bits[start : start + word], 2) for start in range(end, stop, word)]
        # Value 4 p + 3 is the opacity of pixel p.
        opacity[done // 4 : (done + count) // 4] = numbers[0] if repeated else numbers[(3 - done) % 4 :: 4]
        place, done = stop, done + count
    return (opacity > 0).astype(np.uint8)
