"""Measures: the rules by which detections are scored. Each is a component that builds an evaluator.

    coco (proposals where boxes have no classes), voc2007, voc2010, lvis, cityscapes, hoi_vcoco, hoi_hico, dense_pose

``evaluator`` of a configuration chooses one for training and `boxwood eval`; ``boxwood eval --measure`` chooses another. A user
adds one as a class in any module (``examples/own_measure.py``). Evaluators are imported when they are built, so that a
configuration can be read without importing torch and hotcoco.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from boxwood.config import Component, did_you_mean
from boxwood.errors import UserError

if TYPE_CHECKING:
    from boxwood.evaluation.evaluator import CollectingEvaluator, Metrics
    from boxwood.evaluation.proposals import ProposalEvaluator
    from boxwood.structures import Categories

__all__ = [
    "CityscapesEvaluatorConfig",
    "CocoEvaluatorConfig",
    "DensePoseEvaluatorConfig",
    "EvaluatorConfig",
    "HicoEvaluatorConfig",
    "LvisEvaluatorConfig",
    "Measure",
    "ProposalEvaluatorConfig",
    "VcocoEvaluatorConfig",
    "Voc2007EvaluatorConfig",
    "Voc2010EvaluatorConfig",
    "choose_measure",
    "make_evaluator",
]


class EvaluatorConfig(Component):
    """Base of all measures: builds the evaluator of a data set, and names the metric that selects the best weights."""

    compares_classes: ClassVar[bool] = True
    """False for a measure of boxes alone, which also scores a detector whose boxes have no classes (RPN alone)."""

    @abstractmethod
    def build(
        self,
        truth: Mapping[str, Any],
        categories: Categories,
        *,
        detections_per_image: int = 100,
        maxdets: int | None = None,
    ) -> CollectingEvaluator | ProposalEvaluator:
        """The evaluator of detections against ``truth``, a COCO dictionary; ``categories`` are the detector's classes.

        ``detections_per_image`` and ``maxdets`` are those of ``test.*``: the largest number of detections of an image, and the
        number of them that count, for measures with such a limit. Raises `UserError` where the truth lacks something that the
        measure needs.
        """

    def primary(self, metrics: Metrics) -> float:
        """The number that selects the best weights, the higher the better; by default the first number of the first table. -1 (no
        truth) selects none."""
        from boxwood.evaluation.table import tables_of

        return next((float(number) for table in tables_of(metrics).values() for number in table.values()), -1.0)


class CocoEvaluatorConfig(EvaluatorConfig):
    """COCO's AP of boxes, masks and keypoints."""

    short_kind: ClassVar[str] = "coco"

    mask_classes: tuple[int | str, ...] | None = None
    """Classes, by name or category id, whose mask AP is given apart from that of the others. None: as ``data.train.mask_classes``
    says."""

    def build(
        self, truth: Mapping[str, Any], categories: Categories, *, detections_per_image: int = 100, maxdets: int | None = None
    ) -> CollectingEvaluator:
        """``maxdets``: how many of an image's best detections of each class count; None: all, at least COCO's 100."""
        from boxwood.evaluation.coco import CocoEvaluator

        limit = maxdets or max(100, detections_per_image)
        return CocoEvaluator(truth, categories, max_detections=limit, mask_classes=self.mask_classes)

    def primary(self, metrics: Metrics) -> float:
        """AP of keypoints where it is known, else of masks, else of boxes."""
        return _first_known(metrics, ("keypoints", "AP"), ("segm", "AP"), ("bbox", "AP"))


class ProposalEvaluatorConfig(EvaluatorConfig):
    """Average recall of boxes without classes."""

    short_kind: ClassVar[str] = "proposals"
    compares_classes: ClassVar[bool] = False

    def build(
        self, truth: Mapping[str, Any], categories: Categories, *, detections_per_image: int = 100, maxdets: int | None = None
    ) -> ProposalEvaluator:
        from boxwood.evaluation.proposals import ProposalEvaluator

        return ProposalEvaluator(truth)

    def primary(self, metrics: Metrics) -> float:
        return _first_known(metrics, ("proposals", "AR1000"))


class Voc2010EvaluatorConfig(EvaluatorConfig):
    """PASCAL VOC's AP since 2010: the area under the curve of precision and recall."""

    short_kind: ClassVar[str] = "voc2010"
    rule: ClassVar[Literal["voc2007", "voc2010"]] = "voc2010"

    min_overlap: float = Field(0.5, gt=0, le=1)
    """The least IoU of a right detection with its instance."""

    def build(
        self, truth: Mapping[str, Any], categories: Categories, *, detections_per_image: int = 100, maxdets: int | None = None
    ) -> CollectingEvaluator:
        from boxwood.evaluation.voc import VocEvaluator

        return VocEvaluator(truth, categories, self.rule, self.min_overlap)


class Voc2007EvaluatorConfig(Voc2010EvaluatorConfig):
    """PASCAL VOC's AP until 2009: the mean of the precision at eleven recalls."""

    short_kind: ClassVar[str] = "voc2007"
    rule: ClassVar[Literal["voc2007", "voc2010"]] = "voc2007"


class LvisEvaluatorConfig(EvaluatorConfig):
    """LVIS's AP, also of rare, common and frequent classes."""

    short_kind: ClassVar[str] = "lvis"

    def build(
        self, truth: Mapping[str, Any], categories: Categories, *, detections_per_image: int = 100, maxdets: int | None = None
    ) -> CollectingEvaluator:
        """``maxdets``: how many of an image's best detections of all classes count; None: all, at least LVIS's 300."""
        from boxwood.evaluation.lvis import LvisEvaluator

        return LvisEvaluator(truth, categories, maxdets or max(300, detections_per_image))

    def primary(self, metrics: Metrics) -> float:
        """AP of masks where there are masks, else of boxes."""
        return _first_known(metrics, ("lvis_segm", "AP"), ("lvis_bbox", "AP"))


class CityscapesEvaluatorConfig(EvaluatorConfig):
    """Cityscapes' AP of instance masks."""

    short_kind: ClassVar[str] = "cityscapes"

    def build(
        self, truth: Mapping[str, Any], categories: Categories, *, detections_per_image: int = 100, maxdets: int | None = None
    ) -> CollectingEvaluator:
        from boxwood.evaluation.cityscapes import CityscapesEvaluator

        return CityscapesEvaluator(truth, categories)


class VcocoEvaluatorConfig(EvaluatorConfig):
    """V-COCO's AP of verbs and of their objects; AP_role of scenario 1 selects the best weights."""

    short_kind: ClassVar[str] = "hoi_vcoco"

    min_overlap: float = Field(0.5, gt=0, le=1)
    """The least IoU of a right human, and of a right object."""
    ties: Literal["first", "last"] = "last"
    """Which of two equal scores is compared first, the earlier or the later prediction; V-COCO's program takes the later one."""

    def build(
        self, truth: Mapping[str, Any], categories: Categories, *, detections_per_image: int = 100, maxdets: int | None = None
    ) -> CollectingEvaluator:
        from boxwood.evaluation.vcoco import VcocoEvaluator

        return VcocoEvaluator(truth, categories, self.min_overlap, self.ties)


class HicoEvaluatorConfig(EvaluatorConfig):
    """HICO-DET's mean AP of classes of verb and object, by the settings Default and Known Object."""

    short_kind: ClassVar[str] = "hoi_hico"

    min_overlap: float = Field(0.5, gt=0, le=1)
    """The least IoU of a right human, and of a right object."""
    recall_levels: Literal["multiplied", "exact"] = "multiplied"
    """The eleven recalls: multiples of 0.1 in floating point, as in the official program, whose third is .30000000000000004, or
    exact tenths. AP differs where a recall is exactly .3, .6 or .7."""
    ties: Literal["first", "last"] = "first"
    """Which of two equal scores is compared first, the earlier or the later prediction."""

    def build(
        self, truth: Mapping[str, Any], categories: Categories, *, detections_per_image: int = 100, maxdets: int | None = None
    ) -> CollectingEvaluator:
        from boxwood.evaluation.hico import HicoEvaluator

        return HicoEvaluator(truth, categories, self.min_overlap, self.recall_levels, self.ties)


class DensePoseEvaluatorConfig(EvaluatorConfig):
    """AP of dense pose by geodesic point similarity (GPS), and COCO's AP."""

    short_kind: ClassVar[str] = "dense_pose"

    surface: str | None = None
    """The folder with ``SMPL_subdiv.mat``, ``SMPL_SUBDIV_TRANSFORM.mat`` and ``Pdist_matrix.pkl``, which are not for commercial use
    and lie at https://dl.fbaipublicfiles.com/densepose/data/; or the ``body.npz`` of generated bodies. None: without GPS."""
    kappa: float | None = Field(None, gt=0)
    """Metres at which a point counts e^-0.5; None: by part, as in all released evaluators. The paper has 0.255."""
    lowest_threshold: float = Field(0.5, ge=0.05, le=0.95)
    """AP is the mean over thresholds from this to 0.95, 0.05 apart; detectron2 has 0.2 for animals."""

    def build(
        self, truth: Mapping[str, Any], categories: Categories, *, detections_per_image: int = 100, maxdets: int | None = None
    ) -> CollectingEvaluator:
        """``maxdets`` is of boxes, masks and keypoints, as of ``coco``."""
        from boxwood.evaluation.dense_pose import DensePoseEvaluator
        from boxwood.evaluation.surface import read_surface

        surface = None if self.surface is None else read_surface(self.surface)
        limit = maxdets or max(100, detections_per_image)
        return DensePoseEvaluator(truth, categories, surface, self.kappa, self.lowest_threshold, limit)

    def primary(self, metrics: Metrics) -> float:
        """AP by GPSm where it is known, else by the masks' IoU, else of boxes."""
        return _first_known(metrics, ("dense_pose_gpsm", "AP"), ("dense_pose_iou", "AP"), ("bbox", "AP"))


Measure: TypeAlias = str | EvaluatorConfig
"""The kind of a measure, ``coco`` or ``module:Class``, or its configuration."""


def choose_measure(measure: Measure | None = None, class_agnostic: bool = False) -> EvaluatorConfig:
    """The configuration of a measure; None is ``coco``. With ``class_agnostic`` (a detector whose boxes have no classes) ``coco``
    becomes ``proposals``.

    Raises `UserError` where the kind is unknown, or the measure compares classes and the detector has none.

    >>> choose_measure("voc2007"), choose_measure(class_agnostic=True)
    (Voc2007EvaluatorConfig(min_overlap=0.5), ProposalEvaluatorConfig())
    """
    if isinstance(measure, str):
        kinds = EvaluatorConfig.kinds()
        if measure not in kinds:
            hint = (
                f"; import its module first (--import {measure.split(':')[0]})" if ":" in measure else did_you_mean(measure, kinds)
            )
            raise UserError(f"unknown measure {measure!r}{hint}")
        measure = kinds[measure]()
    measure = measure or CocoEvaluatorConfig()
    if class_agnostic and isinstance(measure, CocoEvaluatorConfig):
        return ProposalEvaluatorConfig()
    if class_agnostic and measure.compares_classes:
        raise UserError(f"the measure {measure.kind()} compares classes, and this detector's boxes have none; choose proposals")
    return measure


def make_evaluator(
    truth: Mapping[str, Any],
    categories: Categories,
    *,
    measure: Measure | None = None,
    class_agnostic: bool = False,
    detections_per_image: int = 100,
    maxdets: int | None = None,
) -> CollectingEvaluator | ProposalEvaluator:
    """The evaluator of `choose_measure`. Raises `UserError` where the truth lacks something that the measure needs."""
    config = choose_measure(measure, class_agnostic)
    return config.build(truth, categories, detections_per_image=detections_per_image, maxdets=maxdets)


def _first_known(metrics: Metrics, *numbers: tuple[str, str]) -> float:
    """The first of ``numbers``, by table and name, that is not -1 (no truth); -1 where there is none."""
    known = (metrics[table][name] for table, name in numbers if table in metrics)
    return float(next((number for number in known if number >= 0), -1.0))
