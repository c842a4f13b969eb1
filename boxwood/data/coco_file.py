"""A COCO annotation file as flat arrays: read, and written back with the same numbers.

One Python object an annotation costs a kilobyte, and worker processes copy each of them when they touch its reference
count. Here everything is a handful of arrays whose pages all processes share, whatever the number of annotations.

Letters: I images, A annotations, P polygon parts, K keypoints.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hotcoco import mask as coco_mask
from numpy.typing import NDArray

from boxwood.columns import Columns, are_numbers, are_run_lengths, is_area, is_number, read_json
from boxwood.data.coco_variants import Variant, as_meant, without_root_class
from boxwood.data.dense_pose import dense_pose_of, packed_dense_pose
from boxwood.data.interactions import SECTIONS, InteractionTable, read_interactions
from boxwood.data.json_parts import JsonSections
from boxwood.errors import UserError
from boxwood.ops.contours import instance_area

__all__ = [
    "ANNOTATION_EXTRAS",
    "POLYGONS",
    "RLE_COUNTS",
    "RLE_TEXT",
    "CocoFile",
    "Texts",
    "coco_file_in_parts",
    "coco_file_of",
    "origin_keys",
    "read_coco_file",
    "read_coco_tree",
    "read_image_ids",
]

NO_MASK, POLYGONS, RLE_TEXT, RLE_COUNTS = 0, 1, 2, 3
"""How an annotation's mask is given: not at all, as polygons, as compressed or as uncompressed run lengths."""

IMAGE_EXTRAS = ("neg_category_ids", "not_exhaustive_category_ids", "void", "hois")
"""What LVIS's, Cityscapes' and HICO-DET's rules of evaluation ask of images, beyond COCO's keys."""
EXTRA_LEVELS = 8
"""Of lists and mappings in them, at most."""
ANNOTATION_EXTRAS = ("score", "source")
"""Where an annotation comes from, beyond COCO's keys: ``source`` is ``auto`` where a detector made it, with the ``score``."""


@dataclass(slots=True)
class Texts:
    """Many short byte strings in one buffer; text i is ``buffer[offsets[i] : offsets[i + 1]]``."""

    buffer: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Texts:
        return cls(np.frombuffer(b"".join(texts), dtype=np.uint8), _offsets([len(text) for text in texts]))

    def __getitem__(self, index: int) -> bytes:
        return self.buffer[self.offsets[index] : self.offsets[index + 1]].tobytes()


@dataclass(slots=True)
class CocoFile:
    """The numbers of a COCO file, unchanged, in the order of its rows."""

    path: str
    categories: list[dict[str, Any]]
    """As in the file; the only part that is kept as objects."""
    image_ids: NDArray[np.int64]
    image_sizes: NDArray[np.int64]
    """(I, 2) height, width."""
    file_names: Texts
    image_extras: Texts
    """(I) JSON of what an image has of `IMAGE_EXTRAS`; empty where it has nothing."""
    ids: NDArray[np.int64]
    image_rows: NDArray[np.int64]
    """(A,) row of each annotation's image; -1 where the file has no such image."""
    annotation_image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    """(A, 4) x, y, width, height."""
    areas: NDArray[np.float64]
    """(A,) as in the file; NaN where it has none, or no number."""
    crowd: NDArray[np.bool_]
    ignore: NDArray[np.bool_]
    """Instances that count neither as right nor as wrong, such as those that VOC calls difficult; crowd regions are apart."""
    mask_kinds: NDArray[np.uint8]
    parts: NDArray[np.int64]
    """(A + 1,) annotation a has the polygon parts ``parts[a] : parts[a + 1]``."""
    points: NDArray[np.int64]
    """(P + 1,) part p has the numbers ``points[p] : points[p + 1]`` of ``coordinates``."""
    coordinates: NDArray[np.float64]
    rles: Texts
    """(A) run lengths: COCO's text, or uint32 counts; empty for other masks."""
    rle_sizes: NDArray[np.int64]
    """(A, 2) height, width; zeros for other masks."""
    keypoint_rows: NDArray[np.int64]
    """(A,) row of ``keypoints``, -1 for annotations without."""
    keypoints: NDArray[np.float64]
    """(., 3K) x, y, visibility."""
    annotation_extras: Texts
    """(A) JSON of what an annotation has of `ANNOTATION_EXTRAS` (`origin_keys`); empty where it has nothing."""
    dense_pose: Texts
    """(A) what an annotation has of dense pose (`boxwood.data.dense_pose.dense_pose_of`); empty where it has nothing."""
    by_image: NDArray[np.int64]
    """(A,) annotation rows, those of one image side by side in the order of the file."""
    starts: NDArray[np.int64]
    """(I + 1,) image i has the annotations ``by_image[starts[i] : starts[i + 1]]``."""
    readings: tuple[Variant, ...] = ()
    """What was written in another way than COCO's, and how it was read."""
    interactions: InteractionTable | None = None

    def file_name(self, image: int) -> str:
        return self.file_names[image].decode()

    def num_automatic(self) -> int:
        """How many annotations a detector made (``source: auto``)."""
        rows = np.flatnonzero(np.diff(self.annotation_extras.offsets)).tolist()
        return sum(json.loads(self.annotation_extras[row]).get("source") == "auto" for row in rows)

    def extra_of(self, key: str) -> NDArray[np.bool_]:
        """(A,) whether an annotation has the value true under one of `origin_keys`."""
        extras = (self.annotation_extras[row] for row in range(len(self.ids)))
        return np.array([bool(extra) and json.loads(extra).get(key) is True for extra in extras], dtype=np.bool_)

    def describe(self, annotation: int) -> str:
        """The words by which a message names an annotation."""
        row = int(self.image_rows[annotation])
        name = f" '{self.file_name(row)}'" if row >= 0 else ""
        return f"annotation {self.ids[annotation]} (row {annotation}) of image {self.annotation_image_ids[annotation]}{name}"

    def polygon_parts(self, annotation: int) -> list[NDArray[np.float64]]:
        """Each part's numbers x, y, x, y, ... as in the file."""
        return [
            self.coordinates[self.points[part] : self.points[part + 1]]
            for part in range(int(self.parts[annotation]), int(self.parts[annotation + 1]))
        ]

    def segmentation(self, annotation: int) -> Any:
        """The mask as COCO writes it, or None."""
        kind = self.mask_kinds[annotation]
        if kind == NO_MASK:
            return None
        if kind == POLYGONS:
            return [part.tolist() for part in self.polygon_parts(annotation)]
        code = self.rles[annotation]
        counts = code.decode("ascii") if kind == RLE_TEXT else np.frombuffer(code, dtype=np.uint32).tolist()
        return {"size": self.rle_sizes[annotation].tolist(), "counts": counts}

    def decoded(self, annotation: int) -> NDArray[np.uint8]:
        """The pixels of a run-length mask: (H, W) uint8 of 0 and 1. Raises ValueError where its code is damaged."""
        code = self.segmentation(annotation)
        if self.mask_kinds[annotation] == RLE_COUNTS:
            code = coco_mask.frPyObjects(code, *code["size"])
        pixels: NDArray[np.uint8] = coco_mask.decode(code)
        return pixels

    def to_coco(self) -> dict[str, Any]:
        """The file's images, annotations and categories as a COCO dictionary; boxes with nan or inf are left out. An
        area that is missing or not a positive number is computed from the mask, or else from the box."""
        finite = np.isfinite(self.boxes).all(axis=1)
        images: list[dict[str, Any]] = [
            {"id": image_id, "file_name": self.file_name(row), "height": height, "width": width}
            for row, (image_id, (height, width)) in enumerate(zip(self.image_ids.tolist(), self.image_sizes.tolist(), strict=True))
        ]
        for row in np.flatnonzero(np.diff(self.image_extras.offsets)).tolist():
            images[row] |= json.loads(self.image_extras[row])
        return {
            "images": images,
            "annotations": [self.annotation(row) for row in np.flatnonzero(finite).tolist()],
            "categories": [dict(category) for category in self.categories],
            **({} if self.interactions is None else self.interactions.sections()),
        }

    def annotation(self, row: int) -> dict[str, Any]:
        """A row of the annotations as COCO writes it, with the area of `to_coco`."""
        area, box, segmentation = float(self.areas[row]), self.boxes[row].tolist(), self.segmentation(row)
        annotation: dict[str, Any] = {
            "id": int(self.ids[row]),
            "image_id": int(self.annotation_image_ids[row]),
            "category_id": int(self.category_ids[row]),
            "bbox": box,
            "area": area if is_area(area) else instance_area(segmentation, box),
            "iscrowd": int(self.crowd[row]),
        }
        if self.ignore[row]:
            annotation["ignore"] = 1
        if segmentation is not None:
            annotation["segmentation"] = segmentation
        if self.keypoint_rows[row] >= 0:
            keypoints = self.keypoints[self.keypoint_rows[row]]
            annotation["keypoints"] = keypoints.tolist()
            annotation["num_keypoints"] = int((keypoints[2::3] > 0).sum())
        if extras := self.annotation_extras[row]:
            annotation |= json.loads(extras)
        return annotation | dense_pose_of(self.dense_pose[row])


def read_coco_file(path: str | Path) -> CocoFile:
    """Read a COCO annotation file into arrays.

    Raises `UserError` where the file is missing, is not JSON or not COCO, naming the row and the key that is wrong.
    `boxwood.data.quality.checks` finds what is inconsistent between well-formed rows.
    """
    file = coco_file_in_parts(Path(path), path)
    return coco_file_of(read_coco_tree(Path(path)), path) if file is None else file


def coco_file_in_parts(path: Path, name: str | Path) -> CocoFile | None:
    """As `read_coco_file`, with a few thousand annotations as objects at a time; ``name`` is what messages call the file.

    None where the file is not COCO as it is written, or anything in it is wrong: it must then be read as a whole.
    """
    collecting = gc.isenabled()
    gc.disable()  # as in `read_json`
    try:
        sections = JsonSections(path, ("images", "annotations"), ("categories", *SECTIONS))
        categories = _section(sections.others, "categories", name)
        if without_root_class({"categories": categories.records, "annotations": []})[1]:
            return None
        parts = {key: (_CocoColumns(rows, name, key) for rows in sections.rows(key)) for key in ("images", "annotations")}
        return _arrays(parts["images"], parts["annotations"], categories, sections.others, name, ())
    except (OSError, ValueError, KeyError, RecursionError, UserError, msgspec.MsgspecError):
        return None
    finally:
        if collecting:
            gc.enable()


def coco_file_of(tree: dict[str, Any], path: str | Path) -> CocoFile:
    """A COCO dictionary, such as those that the readers of other formats make, as arrays; ``path`` is what messages call it.

    What other programs write in place of COCO is read where it means one thing only (`boxwood.data.coco_variants`). Raises
    `UserError` as `read_coco_file` does.
    """
    tree, readings = without_root_class(tree)
    try:
        return _arrays_of(tree, path, readings)
    except UserError:
        # Only files that are not COCO as it is written pay for the search.
        meant, more = as_meant(tree)
        if not more:
            raise
    return _arrays_of(meant, path, [*readings, *more])


def _arrays_of(tree: dict[str, Any], path: str | Path, readings: Sequence[Variant]) -> CocoFile:
    images, annotations, categories = (_section(tree, key, path) for key in ("images", "annotations", "categories"))
    if not images.records:
        raise UserError(f"{path}: 'images' is empty; a data set needs at least one image")
    return _arrays([images], [annotations], categories, tree, path, readings)


def _arrays(
    images: Iterable[_CocoColumns],
    annotations: Iterable[_CocoColumns],
    categories: _CocoColumns,
    others: dict[str, Any],
    path: str | Path,
    readings: Sequence[Variant],
) -> CocoFile:
    """The arrays of a file whose images and annotations come in parts; ``others`` has its other sections."""
    if not categories.records:
        raise UserError(f"{path}: 'categories' is empty; a data set needs at least one class")
    categories.integers("id")
    categories.texts("name")
    of_images = _joined(part.image_arrays() for part in images)
    of_annotations = _joined(part.annotation_arrays() for part in annotations)
    image_ids = of_images["image_ids"]
    image_rows = _lookup(image_ids, of_annotations["annotation_image_ids"])
    by_image = np.argsort(image_rows, kind="stable")
    file = CocoFile(
        path=str(path),
        categories=list(categories.records),
        **of_images,
        **of_annotations,
        image_rows=image_rows,
        by_image=by_image,
        starts=np.searchsorted(image_rows[by_image], np.arange(len(image_ids) + 1)),
        readings=tuple(readings),
    )
    columns = {"ids": file.ids, "image_ids": file.annotation_image_ids, "category_ids": file.category_ids}
    known = file.extra_of("verbs_known") if "verbs" in others else np.zeros(0, dtype=np.bool_)
    file.interactions = read_interactions(others, file.path, **columns, known=known, categories=file.categories)
    return file


class _Growing:
    """A column whose rows come in parts: one buffer that grows in place, so that no row is there twice."""

    def __init__(self, first: NDArray[Any]) -> None:
        self._buffer, self._count, self._dtype, self._row = bytearray(), 0, first.dtype, first.shape[1:]

    def add(self, rows: NDArray[Any]) -> None:
        """Append rows. Raises ValueError where they have another length than those before."""
        if len(rows) and rows.shape[1:] != self._row:
            if self._count:
                raise ValueError("rows of several lengths")
            self._row = rows.shape[1:]
        self._buffer += rows.tobytes()
        self._count += len(rows)

    def array(self) -> NDArray[Any]:
        """All rows."""
        return np.frombuffer(self._buffer, dtype=self._dtype).reshape(self._count, *self._row)


def _joined(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The columns of all parts one after the other. Raises ValueError where parts do not go together."""
    columns: dict[str, _Growing] = {}
    ends: dict[str, int] = {}

    def add(key: str, rows: NDArray[Any], *, first: int = 0, counted: int | None = None) -> None:
        """Append rows, from the row ``first`` on in all parts but the first; ``counted`` is what the numbers in them go on from."""
        known = key in columns
        column = columns.setdefault(key, _Growing(rows))
        start = ends.get(key, 0)
        column.add(np.where(rows < 0, rows, rows + start)[first if known else 0 :] if counted is not None else rows)
        ends[key] = start + (counted or 0)

    texts: set[str] = set()
    for part in parts:
        for key, rows in part.items():
            if isinstance(rows, Texts):
                texts.add(key)
                add(f"{key}.buffer", rows.buffer)
                add(f"{key}.offsets", rows.offsets, first=1, counted=int(rows.offsets[-1]))
            elif key in ("parts", "points"):
                add(key, rows, first=1, counted=int(rows[-1]))
            else:
                add(key, rows, counted=len(part["keypoints"]) if key == "keypoint_rows" else None)
    arrays = {key: column.array() for key, column in columns.items()}
    return arrays | {key: Texts(arrays.pop(f"{key}.buffer"), arrays.pop(f"{key}.offsets")) for key in texts}


def origin_keys(row: dict[str, Any]) -> dict[str, Any]:
    """What an annotation has of `ANNOTATION_EXTRAS`, a score that is a number and a source that is a text, and of the keys of
    interactions, verbs_known that is true or false and a group that is a whole number; others are not read.

    >>> origin_keys({"id": 3, "score": 0.5, "source": ["auto"]})
    {'score': 0.5}
    """
    scored = {"score": row["score"]} if is_number(row.get("score")) else {}
    typed = {"source": row.get("source")} if isinstance(row.get("source"), str) else {}
    typed |= {"verbs_known": row["verbs_known"]} if isinstance(row.get("verbs_known"), bool) else {}
    return scored | typed | ({"group": row["group"]} if type(row.get("group")) is int else {})


def read_image_ids(path: str | Path) -> set[int]:
    """The ids of a file's images; of COCO's test sets there are files without annotations.

    Raises `UserError` where the file is missing or has no images.
    """
    tree, _ = as_meant({"images": read_coco_tree(Path(path), ("images",))["images"]})
    return set(_section(tree, "images", path).integers("id").tolist())


def read_coco_tree(path: Path, keys: Sequence[str] = ("images", "annotations", "categories")) -> dict[str, Any]:
    """A COCO file's dictionary, in which nothing but the ``keys`` is sure. Raises `UserError` where it is none."""
    tree = read_json(path, "name a COCO annotation file")
    if not isinstance(tree, dict):
        got = type(tree).__name__
        raise UserError(f"{path}: is not COCO: expected a mapping with 'images', 'annotations' and 'categories', got a {got}")
    missing = [f"'{key}'" for key in keys if key not in tree]
    if missing:
        raise UserError(f"{path}: is not COCO: {', '.join(missing)} missing; its keys are {sorted(tree)[:8]}")
    return tree


def _section(tree: dict[str, Any], key: str, path: str | Path) -> _CocoColumns:
    rows = tree[key]
    if not isinstance(rows, list):
        raise UserError(f"{path}: is not COCO: '{key}' must be a list, got a {type(rows).__name__}")
    return _CocoColumns(rows, path, key)


class _CocoColumns(Columns):
    """The columns that only COCO files have."""

    @property
    def advice(self) -> str:
        if not str(self.path).endswith(".json"):
            return "correct the file"
        return f"correct the file, or repair a copy with: boxwood data check {self.path} --images DIR --fix OUT.json"

    def image_arrays(self) -> dict[str, Any]:
        """The columns of `CocoFile` that are of images."""
        ids, sizes = self.integers("id"), [self.integers("height"), self.integers("width")]
        names = Texts.of([name.encode() for name in self.texts("file_name")])
        return {
            "image_ids": ids,
            "image_sizes": np.stack(sizes, axis=1),
            "file_names": names,
            "image_extras": self.image_extras(),
        }

    def annotation_arrays(self) -> dict[str, Any]:
        """The columns of `CocoFile` that are of annotations and can be read without the images."""
        return {
            "annotation_image_ids": self.integers("image_id"),
            "boxes": self.boxes(),
            "ids": self.integers("id"),
            "category_ids": self.integers("category_id"),
            "areas": self.areas(),
            "crowd": self.integers("iscrowd", default=0) != 0,
            "ignore": np.array([bool(row.get("ignore")) for row in self.records], dtype=np.bool_),
            "annotation_extras": _json_texts([origin_keys(row) for row in self.records]),
            "dense_pose": Texts.of(packed_dense_pose(self)),
            **self.masks(),
            **self.keypoints(),
        }

    def image_extras(self) -> Texts:
        extras = [{key: row[key] for key in IMAGE_EXTRAS if key in row} for row in self.records]
        for index, extra in enumerate(extras):
            for key, value in extra.items():
                if _is_deeper(value, EXTRA_LEVELS):
                    self.refuse(index, key, f"lists and mappings of at most {EXTRA_LEVELS} levels")
        return _json_texts(extras)

    def boxes(self) -> NDArray[np.float64]:
        return self.vectors("bbox", 4, "four numbers x, y, w, h")

    def areas(self) -> NDArray[np.float64]:
        values = [row.get("area") for row in self.records]
        return np.array([value if is_number(value) else np.nan for value in values], dtype=np.float64)

    def masks(self) -> dict[str, Any]:
        kinds = np.zeros(len(self.records), dtype=np.uint8)
        sizes = np.zeros((len(self.records), 2), dtype=np.int64)
        parts: list[list[float]] = []
        part_counts: list[int] = []
        codes: list[bytes] = []
        for index, row in enumerate(self.records):
            mask, code, before = row.get("segmentation"), b"", len(parts)
            if isinstance(mask, list) and all(isinstance(part, list) for part in mask):
                kinds[index] = POLYGONS
                parts.extend(mask)
            elif isinstance(mask, dict) and are_run_lengths(mask):
                counts = mask["counts"]
                kinds[index] = RLE_TEXT if isinstance(counts, str) else RLE_COUNTS
                sizes[index] = mask["size"]
                code = counts.encode("ascii") if isinstance(counts, str) else np.array(counts, dtype=np.uint32).tobytes()
            elif mask is not None:
                self.refuse(index, "segmentation", _expected_mask(mask))
            codes.append(code)
            part_counts.append(len(parts) - before)
        points = _offsets([len(part) for part in parts])
        try:
            coordinates = np.fromiter(chain.from_iterable(parts), dtype=np.float64, count=int(points[-1]))
        except (OverflowError, TypeError, ValueError):
            masks = [row.get("segmentation") for row in self.records]
            self.check("segmentation", masks, lambda v: not isinstance(v, list) or all(map(are_numbers, v)), "polygons of numbers")
        return {
            "mask_kinds": kinds,
            "parts": _offsets(part_counts),
            "points": points,
            "coordinates": coordinates,
            "rles": Texts.of(codes),
            "rle_sizes": sizes,
        }

    def keypoints(self) -> dict[str, Any]:
        values = [row.get("keypoints") or None for row in self.records]
        present = [value for value in values if value is not None]
        lengths = Counter(len(value) for value in present if isinstance(value, list) and len(value) % 3 == 0)
        width, like_it = lengths.most_common(1)[0] if lengths else (0, 0)
        expected = "3 numbers x, y, visibility for each keypoint"
        if width:
            expected = f"{width} numbers, x, y, visibility for each of {width // 3} keypoints, as in {like_it} annotations"

        def right(value: Any) -> bool:
            return value is None or (isinstance(value, list) and len(value) == width and are_numbers(value))

        self.check("keypoints", values, right, expected)
        rows = np.cumsum([value is not None for value in values], dtype=np.int64) - 1
        rows[[value is None for value in values]] = -1
        return {"keypoint_rows": rows, "keypoints": np.array(present, dtype=np.float64).reshape(len(present), width)}


def _json_texts(rows: Iterable[dict[str, Any]]) -> Texts:
    return Texts.of([json.dumps(row).encode() if row else b"" for row in rows])


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and mappings are nested in more than so many levels; Python's JSON fails at some hundreds."""
    if not isinstance(value, list | dict):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(part, levels - 1) for part in inner)


def _expected_mask(mask: Any) -> str:
    if isinstance(mask, dict) and {"size", "counts"} <= mask.keys():
        return "run lengths with a 'size' of two whole numbers, height and width, and 'counts', COCO's text or whole numbers from 0"
    return "polygons [[x, y, ...], ...] or run lengths {'size', 'counts'}"


def _lookup(known: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index in ``known`` of each of ``wanted``; -1 where there is none."""
    order = np.argsort(known, kind="stable")
    positions = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
    indices = order[positions]
    return np.where(known[indices] == wanted, indices, -1)


def _offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
