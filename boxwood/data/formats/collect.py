"""Shared by the readers of formats without ids: images and instances, added one by one, become a COCO dictionary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from boxwood.columns import is_number
from boxwood.data.formats.reading import descriptions

__all__ = ["Collected", "origin_of"]


def origin_of(score: Any, source: Any) -> dict[str, Any]:
    """The keys of an annotation that say who made it (`boxwood.data.coco_file.ANNOTATION_EXTRAS`): a score that is a number, a
    source that is a text. Nothing for what people drew, ``manual``.

    >>> origin_of(0.75, "auto"), origin_of(None, "manual")
    ({'score': 0.75, 'source': 'auto'}, {})
    """
    scored = {"score": score} if is_number(score) else {}
    return scored | ({"source": source} if isinstance(source, str) and source not in ("", "manual") else {})


@dataclass
class Collected:
    """The images and instances read so far. Classes get the ids 1, 2, ...: first those of ``names``, then others by name."""

    names: tuple[str, ...] = ()
    images: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    """Counts, by description, of parts of the source that COCO's format cannot hold."""

    def image(self, file_name: str, height: int, width: int) -> int:
        """Add an image; returns its id."""
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, "height": height, "width": width})
        return len(self.images)

    def box(self, image_id: int, label: str, corners: tuple[float, float, float, float], *, crowd: bool = False) -> None:
        """Add an instance by two opposite corners of its box (x, y, x, y), in pixels."""
        x1, x2 = sorted(corners[::2])
        y1, y2 = sorted(corners[1::2])
        geometry = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        self.instances.append({"image_id": image_id, "label": label, "iscrowd": int(crowd), **geometry})

    def outline(self, image_id: int, label: str, points: list[tuple[float, float]]) -> None:
        """Add an instance by its outline, 3 points (x, y) or more, in pixels."""
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self.box(image_id, label, (min(xs), min(ys), max(xs), max(ys)))
        # Twice the area is the sum of the cross products of neighbouring points.
        area = abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(points))) / 2
        self.instances[-1] |= {"segmentation": [[number for point in points for number in point]], "area": area}

    def mask(self, image_id: int, label: str, code: dict[str, Any], box: list[float], area: int) -> None:
        """Add an instance by its mask (COCO run lengths), its box (x, y, width, height) and its area, in pixels."""
        geometry = {"bbox": box, "area": area, "segmentation": code}
        self.instances.append({"image_id": image_id, "label": label, "iscrowd": 0, **geometry})

    def coco(self) -> tuple[dict[str, Any], list[str]]:
        """The COCO dictionary, and a description of what it lacks."""
        labels = {instance["label"] for instance in self.instances}
        names = [*self.names, *sorted(labels - set(self.names))]
        ids = {name: number for number, name in enumerate(names, start=1)}
        annotations = [
            {"id": number, "category_id": ids[instance["label"]], **{k: v for k, v in instance.items() if k != "label"}}
            for number, instance in enumerate(self.instances, start=1)
        ]
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        return {"images": self.images, "annotations": annotations, "categories": categories}, descriptions(self.lost)
