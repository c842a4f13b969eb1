"""What readers of formats without ids have in common: images and instances one after the other become a COCO dictionary."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Collected"]


@dataclass
class Collected:
    """Images and instances as they are read; classes get the ids 1, 2, ... in the order of their names, or of ``names``."""

    names: tuple[str, ...] = ()
    images: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] = field(default_factory=list)
    lost: Counter[str] = field(default_factory=Counter)
    """What was there and cannot be said in COCO's format."""

    def image(self, file_name: str, height: int, width: int) -> int:
        """Take an image; returns its id."""
        self.images.append({"id": len(self.images) + 1, "file_name": file_name, "height": height, "width": width})
        return len(self.images)

    def box(self, image_id: int, label: str, corners: tuple[float, float, float, float], *, crowd: bool = False) -> None:
        """Take an instance by its box, xyxy in any order of corners."""
        x1, x2 = sorted(corners[::2])
        y1, y2 = sorted(corners[1::2])
        own = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
        self.instances.append({"image_id": image_id, "label": label, "iscrowd": int(crowd), **own})

    def outline(self, image_id: int, label: str, points: list[tuple[float, float]]) -> None:
        """Take an instance by its outline, 3 points or more."""
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self.box(image_id, label, (min(xs), min(ys), max(xs), max(ys)))
        # Twice the area is the sum of the cross products of neighbours.
        area = abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(points))) / 2
        self.instances[-1] |= {"segmentation": [[number for point in points for number in point]], "area": area}

    def mask(self, image_id: int, label: str, code: dict[str, Any], box: list[float], area: int) -> None:
        """Take an instance by its run lengths."""
        own = {"bbox": box, "area": area, "segmentation": code}
        self.instances.append({"image_id": image_id, "label": label, "iscrowd": 0, **own})

    def coco(self) -> tuple[dict[str, Any], list[str]]:
        """The dictionary, and what was lost, in words."""
        found = {instance["label"] for instance in self.instances}
        names = [*self.names, *sorted(found - set(self.names))]
        ids = {name: number for number, name in enumerate(names, start=1)}
        annotations = [
            {"id": number, "category_id": ids[instance["label"]], **{k: v for k, v in instance.items() if k != "label"}}
            for number, instance in enumerate(self.instances, start=1)
        ]
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        lost = [f"{count:,} {what}" for what, count in self.lost.items()]
        return {"images": self.images, "annotations": annotations, "categories": categories}, lost
