"""The published models by name: their architecture, published results and address.

``models.tsv`` has one row for each: the 85 of Detectron's tables, its 7 ImageNet backbones, and torchvision's detectors. A name is
``detectron/`` and the name of the configuration. Rows that share a configuration have an ending: ``+tta`` with augmentation at test
time, ``+gn-readme`` listed a second time beside the models with group norm, ``+frozen`` from an earlier run that was struck out.
``dense_pose.tsv`` has detectron2's 22 models of DensePose on COCO and the 7 of the program before it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from boxwood.errors import UserError

__all__ = ["DENSEPOSE", "LICENCE", "PREFIX", "SOURCES", "TASKS", "Entry", "entries", "find", "md5_prefix", "select"]

SOURCES = ("detectron", "torchvision", "densepose")
TASKS = ("box", "mask", "keypoint", "dense_pose", "proposals", "imagenet")
PREFIX = "https://dl.fbaipublicfiles.com/detectron/"
"""The address of Detectron's published files."""
DENSEPOSE = "https://dl.fbaipublicfiles.com/densepose/"
"""That of DensePose's."""
LICENCE = {
    "detectron": "CC BY-SA 3.0",
    "torchvision": "BSD 3-Clause, as torchvision; its data have terms of their own",
    "densepose": (
        "CC BY-SA 3.0, which allows commercial use under the same licence;\n"
        "the annotations they learnt from (DensePose-COCO) are not for commercial use"
    ),
    "densepose/caffe2": (
        "none is stated; the program that made them is CC BY-NC, not for commercial use,\n"
        "and so are the annotations they learnt from (DensePose-COCO)"
    ),
}


@dataclass(frozen=True)
class Entry:
    """A published model. Numbers are as published: AP and AR in percent on COCO 2014 minival, which is COCO 2017's val set; those
    of DensePose on the persons with dense pose in it."""

    name: str
    task: Literal["box", "mask", "keypoint", "dense_pose", "proposals", "imagenet"]
    backbone: str
    schedule: str
    box_ap: float | None
    mask_ap: float | None
    keypoint_ap: float | None
    ar_1000: float | None
    """Average recall of 1,000 proposals."""
    train_memory_gb: float | None
    train_seconds: float | None
    """Seconds of a step on 8 P100; of DensePose's models on the GPUs of its makers."""
    net_seconds: float | None
    """Seconds of the network for an image, on one P100."""
    other_seconds: float | None
    """Seconds of all other work for an image."""
    results: tuple[str, ...]
    """The kinds of result files beside the weights."""
    path: str
    """The path of the weights below `PREFIX`, or a whole URL; empty if they were not published."""
    remark: str
    gps_ap: float | None = None
    """By geodesic point similarity, with kappa by part."""
    gpsm_ap: float | None = None
    """By GPS and the mask's IoU together; ``mask_ap`` is then that by the IoU alone."""

    @property
    def licence(self) -> str:
        return LICENCE["densepose/caffe2" if self.name.startswith("densepose/caffe2/") else self.source]

    @property
    def source(self) -> str:
        return self.name.partition("/")[0]

    @property
    def url(self) -> str | None:
        """The URL of the weights; None if they were not published."""
        return None if not self.path else PREFIX + self.path if self.source == "detectron" else self.path

    @property
    def recipe(self) -> str | None:
        """The name of the configuration that trains it; None for a backbone and for models of torchvision and of Caffe2."""
        if match := re.fullmatch(r"densepose/R_(\d+)_FPN_(?:(\w+)_)?s1x(?:_(\w+))?", self.name):
            variant = (match[2] or match[3] or "").lower()
            return f"dense_pose_rcnn_r{match[1]}_fpn_s1x{'_' if variant else ''}{variant}"
        return self.name.partition("+")[0] if self.source == "detectron" and self.task != "imagenet" else None

    @property
    def proposals(self) -> dict[str, str]:
        """The URLs of an RPN's proposals by data set; empty for other models."""
        if self.task != "proposals" or self.url is None:
            return {}
        root, _, trained = self.url.partition("/output/train/")
        sets, kind, _ = trained.split("/")
        names = sets.split("%3A")
        minival = names[0].removesuffix("_train") + "_minival"
        return {name: f"{root}/output/test/{name}/{kind}/rpn_proposals.pkl" for name in (*names, minival)}

    @property
    def result_urls(self) -> tuple[str, ...]:
        """The URLs of its detections on minival, in COCO's results format."""
        if self.url is None or not self.results:
            return ()
        root, _, trained = self.url.partition("/output/train/")
        sets, kind, _ = trained.split("/")
        tested = sets.split("%3A")[0].removesuffix("_train") + "_minival"
        return tuple(f"{root}/output/test/{tested}/{kind}/{sort}_{tested}_results.json" for sort in self.results)

    def facts(self) -> dict[str, Any]:
        """All fields and derived values, as in JSON."""
        facts = asdict(self)
        del facts["path"]
        return facts | {
            "source": self.source,
            "recipe": self.recipe,
            "licence": self.licence,
            "url": self.url,
            "md5_url": f"{self.url}.md5sum" if self.url and self.source == "detectron" else None,
            "md5_prefix": md5_prefix(self.url or "") or None,
            "proposals": self.proposals,
            "results": list(self.result_urls),
        }


def md5_prefix(url: str) -> str:
    """The first letters of a file's MD5 sum, where its name ends with them, as those of detectron2's models do; else nothing.

    >>> md5_prefix("https://dl.fbaipublicfiles.com/densepose/densepose_rcnn_R_50_FPN_s1x/165712039/model_final_162be9.pkl")
    '162be9'
    """
    match = re.fullmatch(r".*/model_final_([0-9a-f]{6})\.pkl", url)
    return match[1] if match else ""


@cache
def entries() -> tuple[Entry, ...]:
    """All published models, in the order of the published tables.

    >>> len([entry for entry in entries() if entry.source == "detectron" and entry.task != "imagenet"])
    85
    """
    found: list[Entry] = []
    for name in ("models.tsv", "dense_pose.tsv"):
        head, *rows = files("boxwood.zoo").joinpath(name).read_text(encoding="utf-8").splitlines()
        columns = head.split("\t")
        found += [_entry(dict(zip(columns, row.split("\t"), strict=True))) for row in rows]
    return tuple(found)


def find(name: str) -> Entry:
    """The published model of this name. Raises `UserError` with the nearest name where there is none."""
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(f"the zoo has no {name!r}{hint}; boxwood zoo list shows all")
    return known[name]


def select(
    task: str | None = None, source: str | None = None, backbone: str | None = None, schedule: str | None = None
) -> list[Entry]:
    """The published models of a task (one of `TASKS`), a source (one of `SOURCES`), a part of the backbone's name, a schedule.

    >>> [entry.name for entry in select(task="mask", backbone="X-152")][-1]
    'detectron/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x'
    """
    return [
        entry
        for entry in entries()
        if task in (None, entry.task)
        and source in (None, entry.source)
        and (backbone is None or backbone.lower() in entry.backbone.lower())
        and schedule in (None, entry.schedule)
    ]


def _entry(row: dict[str, str]) -> Entry:
    values: dict[str, object] = dict(row)
    aps = ("box_ap", "mask_ap", "keypoint_ap", "ar_1000", "gps_ap", "gpsm_ap")
    for key in (*aps, "train_memory_gb", "train_seconds", "net_seconds", "other_seconds"):
        values[key] = float(row[key]) if row.get(key) else None
    values["results"] = tuple(filter(None, row.get("results", "").split(",")))
    return Entry(**values)  # type: ignore[arg-type]  # the columns are the fields
