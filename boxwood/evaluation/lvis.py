"""LVIS's average precision (Gupta et al., arXiv 1908.03195, section 4), by hotcoco, which agrees with the ``lvis`` API.

LVIS is federated: each image is annotated for some classes only. A detection counts where the image has instances of its class, or
is known to have none (``neg_category_ids``). Where the instances of a class are not all annotated
(``not_exhaustive_category_ids``), its unmatched detections are left out.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import hotcoco

from boxwood.errors import UserError
from boxwood.evaluation.backend import columns_of, records_of
from boxwood.evaluation.coco import class_precision, mean_of_known
from boxwood.evaluation.diagnosis import about_areas, some
from boxwood.evaluation.evaluator import CollectingEvaluator, Metrics
from boxwood.structures import Categories

__all__ = ["LvisEvaluator"]

IMAGE_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


class LvisEvaluator(CollectingEvaluator):
    """AP of boxes and masks over all, rare, common and frequent classes, of an image's best ``max_detections`` detections.

    ``truth`` is a COCO dictionary with LVIS's keys: ``frequency`` (r, c or f) of each category, and of each image the two lists of
    category ids above. `compute` gives ``{"lvis_bbox": {...}, "lvis_segm": {...}, "per_class", "max_detections", "notes"}``: AP,
    AP50, AP75, APs, APm, APl, APr, APc, APf and AR300, fractions; -1 where there is no truth. Raises `UserError` where a key is
    missing.
    """

    def __init__(self, truth: Mapping[str, Any], categories: Categories, max_detections: int = 300) -> None:
        super().__init__(truth, categories, with_masks=True)
        self.max_detections = max_detections
        for category in self.truth.categories:
            if category.get("frequency") not in ("r", "c", "f"):
                raise UserError(
                    f"category id {category['id']}: LVIS's rule needs 'frequency' (r, c or f), got {category.get('frequency')!r}; "
                    "name LVIS's own annotations, or leave --measure lvis out"
                )
        for image in self.truth.images:
            for key in IMAGE_KEYS:
                ids = image.get(key)
                if not isinstance(ids, list) or not all(type(number) is int for number in ids):
                    raise UserError(
                        f"image id {image['id']}: LVIS's rule needs '{key}', a list of category ids, got {ids!r:.60}; "
                        "name LVIS's own annotations, or leave --measure lvis out"
                    )

    def compute(self) -> Metrics:
        """The metrics of all detections; images of the truth that were not added count as images without detections."""
        metrics: Metrics = {}
        per_class: dict[str, dict[str, Any]] = {name: {} for name in self.truth.names()}
        with_masks = all(detections.rles is not None or not len(detections) for detections in self.results.values())
        for task in ("bbox", "segm") if with_masks else ("bbox",):
            metrics[f"lvis_{task}"], aps = self._numbers(task)
            for row, ap in zip(per_class.values(), aps, strict=True):
                row[f"lvis_{task}"] = ap
        for row, count, category in zip(per_class.values(), self.truth.counts(), self.truth.categories, strict=True):
            row |= {"count": count, "frequency": category["frequency"]}
        notes = [
            f"AP by LVIS's rule: the best {self.max_detections} detections of an image, in the classes that it is annotated for"
        ]
        notes += about_areas(self.truth)
        if missing := [image_id for image_id in self.truth.image_position if image_id not in self.results]:
            notes.append(f"{len(missing)} of the truth's {len(self.truth.images)} images were not evaluated (ids {some(missing)})")
        return metrics | {"per_class": per_class, "max_detections": self.max_detections, "notes": notes}

    def _numbers(self, task: str) -> tuple[dict[str, float], list[float]]:
        """The metrics of a task, and the AP of each class."""
        dataset = self.truth.coco(task)
        for image, original in zip(dataset["images"], self.truth.images, strict=True):
            for key in IMAGE_KEYS:
                image[key] = [self.truth.category_position[c] for c in original[key] if c in self.truth.category_position]
        for category, original in zip(dataset["categories"], self.truth.categories, strict=True):
            category["frequency"] = original["frequency"]
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of hotcoco: that 300 detections are usual
            coco = hotcoco.COCO(dataset)
            columns, shapes = columns_of(self.truth, self.results, self.positions, task)
            detections = hotcoco.LVISResults(coco, records_of(columns, shapes, task), max_dets=self.max_detections)
            evaluation = hotcoco.COCOeval(coco, detections, task, lvis_style=True)
            evaluation.params.max_dets = [self.max_detections]
            evaluation.run()
        numbers: dict[str, float] = evaluation.get_results()
        curves: Any = evaluation.eval
        table = {name: numbers[name] for name in NUMBERS}
        table[f"AR{self.max_detections}"] = mean_of_known(curves["recall"][:, :, 0, 0])
        return table, class_precision((curves["precision"], curves["recall"]), 0)
