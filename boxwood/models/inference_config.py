"""How a network's outputs become detections: thresholds, suppression, test-time augmentation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from boxwood.config import Config

__all__ = [
    "BoxViewsConfig",
    "DensePoseViewsConfig",
    "KeypointViewsConfig",
    "MaskViewsConfig",
    "SoftNMSConfig",
    "TTAConfig",
    "TestConfig",
    "ViewsConfig",
    "VoteConfig",
]


class SoftNMSConfig(Config):
    """Overlapping boxes keep a lower score instead of being dropped (`boxwood.ops.nms.soft_nms`). The IoU from which the
    linear and the hard rule act is ``test.nms_threshold``."""

    decay: Literal["linear", "gaussian", "hard"] = "linear"
    sigma: float = Field(0.5, gt=0)
    """Of the Gaussian rule."""
    floor: float = Field(1e-4, ge=0)
    """Boxes whose score falls below are dropped."""


class VoteConfig(Config):
    """Each surviving box becomes the mean of all boxes that overlap it (`boxwood.ops.nms.vote`)."""

    threshold: float = Field(0.8, gt=0, le=1)
    """The IoU from which a box has a vote."""
    scoring: Literal["id", "avg", "iou_avg", "generalized_avg", "quasi_sum", "temp_avg"] = "id"
    """How the new score is computed."""
    beta: float = Field(1.0, gt=0)
    """A parameter of some of these rules; Detectron had the key and never read it."""


class ViewsConfig(Config):
    """The views of an image besides that of ``data.val.transforms``."""

    flip: bool = False
    """Mirrored."""
    scales: tuple[int, ...] = ()
    """With these shorter sides."""
    long: int = Field(4000, gt=0)
    """At ``scales`` no longer side is longer than this."""
    scale_flip: bool = False
    """Mirrored at ``scales`` too."""
    ratios: tuple[float, ...] = ()
    """Widened by these factors, at the ordinary scale."""
    ratio_flip: bool = False
    """Mirrored at ``ratios`` too."""
    areas: tuple[float, float] | None = None
    """Instances of less than the first area (square pixels of the original) are not taken from views smaller than the ordinary,
    those of the second or more not from larger ones; None: all from all views."""


class BoxViewsConfig(ViewsConfig):
    """Boxes of several views."""

    scores: Literal["union", "avg", "id"] = "union"
    """``union``: the boxes of all views are joined and suppressed together; ``avg``: each proposal's scores are
    averaged; ``id``: those of the ordinary view. The last two need proposals that come with the data."""
    boxes: Literal["union", "avg", "id"] = "union"
    """The same of the boxes; union goes with union alone."""


class MaskViewsConfig(ViewsConfig):
    """Masks of several views, in the final boxes."""

    combine: Literal["soft_avg", "soft_max", "logit_avg"] = "soft_avg"
    """The mean or the largest of the probabilities, or the mean of their logits."""


class KeypointViewsConfig(ViewsConfig):
    """Keypoints of several views, in the final boxes."""

    combine: Literal["avg", "max", "probability_avg"] = "avg"
    """The mean or the largest of the heatmaps' logits; or the mean of their probabilities, each map's softmax (Data Distillation),
    of which a keypoint's score is the logarithm."""


class DensePoseViewsConfig(ViewsConfig):
    """Maps of dense pose of several views, in the final boxes: the mean of the raw maps."""

    symmetry: str | None = None
    """The file ``UV_symmetry_transforms.mat``, without which no view may be mirrored."""


class TTAConfig(Config):
    """Augmentation at test time, in `boxwood eval` and `boxwood predict` (Detectron's BBOX_AUG, MASK_AUG and KPS_AUG); a part
    that is None is predicted in one view."""

    boxes: BoxViewsConfig | None = None
    masks: MaskViewsConfig | None = None
    keypoints: KeypointViewsConfig | None = None
    dense_pose: DensePoseViewsConfig | None = None


class TestConfig(Config):
    """How a network's outputs become detections."""

    __test__: ClassVar[bool] = False  # for pytest, which collects names that begin with Test

    score_threshold: float = 0.05
    """Detections must score above this."""
    nms_threshold: float = 0.5
    """Of two boxes of one class that overlap by more than this IoU, the lower-scored one is dropped."""
    detections_per_image: int = 100
    """At most so many detections an image, over all classes."""
    maxdets: int | None = Field(None, gt=0)
    """How many of an image's best detections of a class count in COCO's AP, and of all classes in LVIS's. None: as many as there
    can be, and at least COCO's 100 or LVIS's 300, so that numbers compare."""
    mask_threshold: float = 0.5
    """A pixel belongs to a mask where its probability is at least this."""
    soft_nms: SoftNMSConfig | None = None
    """Lower the scores of overlapping boxes instead of dropping them."""
    vote: VoteConfig | None = None
    """Move each box to the mean of those that overlap it."""
    keypoint_nms: float | None = None
    """Of two poses that are more similar than this (OKS), the one with the lower peaks is dropped; Detectron's was 0.3."""
    tta: TTAConfig | None = None
    """Predict each image in several views. The val AP during training does not."""
