"""The configurations of the architectures and their parts.

    ModelConfig            an architecture              rcnn.py, retinanet.py, rfcn.py, proposal_network.py
      BackboneConfig       images -> maps               backbones/config.py
      FPNConfig            maps -> a feature pyramid    fpn.py
      RPNConfig            maps -> proposals            rpn.py
      RoIConfig            proposals -> sampled RoIs    second_stage.py
      RoIHeadConfig        RoI features -> features     heads/config.py
      InstanceTask         RoI features -> a field      tasks/

``build`` imports what it builds, so that a configuration is read, printed and compared without torch. A user-defined architecture,
backbone or head has its configuration beside it, in one file (``examples/``).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, model_validator

from boxwood.config import Component, Config
from boxwood.errors import UserError
from boxwood.models.backbones.config import BackboneConfig, Cells, Layers, Norm, ResNetConfig, Width
from boxwood.models.heads.config import BoxHeadConfig, KeypointHeadConfig, MaskHeadConfig, TwoFCHeadConfig
from boxwood.models.heads.dense_pose_config import DensePoseHeadConfig
from boxwood.models.heads.interaction_config import InteractionHeadConfig
from boxwood.models.inference_config import TestConfig
from boxwood.models.tasks.task import InstanceTask

if TYPE_CHECKING:
    from boxwood.models.detector import Detector
    from boxwood.models.proposal_network import Proposer
    from boxwood.models.rcnn import RCNN
    from boxwood.models.retinanet import RetinaNet
    from boxwood.models.rfcn import RFCN
    from boxwood.structures import Categories, FirstSample

__all__ = [
    "AnchorsConfig",
    "FPNConfig",
    "ModelConfig",
    "ProposerConfig",
    "RCNNConfig",
    "RFCNConfig",
    "RPNConfig",
    "RetinaNetConfig",
    "RetinaNetHeadConfig",
    "RoIConfig",
    "backbone_title",
    "check_proposals",
    "only_built_in",
    "with_training_rules",
    "without_pretrained",
]


# ---------------------------------------------------------------------------------------------------------------- Parts


Positive = Annotated[float, Field(gt=0, le=1e6)]
Sizes = Annotated[tuple[Annotated[tuple[Positive, ...], Field(min_length=1, max_length=100)], ...], Field(max_length=20)]
Rows = Annotated[int, Field(ge=0, le=1_000_000)]
"""A number of anchors, proposals or regions."""


class FPNConfig(Config):
    """The pyramid over a backbone."""

    channels: Width = 256
    norm: Norm | None = None
    """After each convolution, which then has no bias; None for convolutions with bias alone."""
    zero_init_lateral: bool = False
    """Begin with laterals of zeros, so that each level is at first the one above alone; the coarsest is as usual
    (Detectron's ZERO_INIT_LATERAL)."""
    top: Literal["subsampled", "conv_c5", "conv_p5"] = "subsampled"
    """The levels above the backbone's coarsest: one that is every second cell of it (FPN, section 4.1), or two by strided 3x3
    convolutions, of the backbone's map (RetinaNet, section 4) or of the pyramid's."""


class AnchorsConfig(Config):
    """Base of the configurations that have anchors."""

    anchor_sizes: Sizes
    """Square roots of the anchors' areas in pixels, for each level, finest first."""
    anchor_ratios: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=100)] = (0.5, 1.0, 2.0)
    """Height / width."""
    anchor_offset: float = 0.0
    """Where a cell's anchors are centred, in cells from its corner."""
    rounded_anchors: bool = False
    """Round the anchors' corners to whole pixels; torchvision's weights were trained so."""


class RPNConfig(AnchorsConfig):
    """Anchors, their targets, and how many of them become proposals."""

    anchor_sizes: Sizes = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    convs: Layers = 1
    """3x3 convolutions ahead of the two predictors."""
    straddle: float | None = None
    """Learn only from anchors that leave the image by at most so many pixels (Faster R-CNN, section 3.1.3; Detectron: 0); None:
    from all whose centre is in it."""
    foreground_iou: float = 0.7
    background_iou: float = 0.3
    samples_per_image: Rows = 256
    positive_fraction: float = 0.5
    smooth_l1_beta: float = 1 / 9
    nms_threshold: float = 0.7
    train_candidates: Rows = 2000
    """The best anchors of each level that go into suppression."""
    train_proposals: Rows = 1000
    """The best proposals of each image that are kept after it."""
    test_candidates: Rows = 1000
    test_proposals: Rows = 1000
    topk_per_batch: bool | None = None
    """In training on a pyramid, ``train_proposals`` is the number for all images of a process's batch together (Detectron); None:
    as ``geometry`` implies."""
    loss_normalizer: Literal["sampled", "configured"] | None = None
    """The denominator of the losses: the number of sampled anchors, or Detectron's rule: the box loss by the number in the
    anchor's image, objectness on a pyramid by ``samples_per_image`` an image. None: as ``geometry`` implies."""
    ignore_crowd: bool | None = None
    """Negative anchors of which at least half lies in a crowd region are not used; False: they are negatives (Detectron). None:
    as ``geometry`` implies."""

    detectron1_rules: ClassVar[dict[str, Any]] = {"topk_per_batch": True, "loss_normalizer": "configured", "ignore_crowd": False}
    continuous_rules: ClassVar[dict[str, Any]] = {"topk_per_batch": False, "loss_normalizer": "sampled", "ignore_crowd": True}


class RoIConfig(Config):
    """Which regions the second stage learns from, and how features are taken from them."""

    samples_per_image: Rows = 512
    positive_fraction: float = 0.25
    foreground_iou: float = 0.5
    hardest: Rows | None = None
    """Of the sampled regions of an image, learn from so many whose loss is largest (online hard example mining); None: from all."""
    class_agnostic: bool = False
    """Regress one box an RoI instead of one for each class."""
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Factors of dx, dy, dw, dh, with which they vary by about 1."""
    smooth_l1_beta: float = 1.0
    pooling: Literal["align", "max"] = "align"
    """RoIAlign, or the older RoIPool, which knows neither of the following."""
    sampling_ratio: Annotated[int, Field(ge=0, le=64)] = 2
    """Points a cell and side that RoIAlign averages; 0 takes as many as the cell has map pixels."""
    aligned: bool = True
    """RoIAlign with pixel centres at i + 0.5; torchvision's weights were trained without."""
    crowd: Literal["ignored", "background", "class"] | None = None
    """Background regions of which at least half lies in a crowd region are not used, or they are background; or a region that
    overlaps a crowd region most is of that region's class (Detectron). None: as ``geometry`` implies."""

    detectron1_rules: ClassVar[dict[str, Any]] = {"crowd": "class"}
    continuous_rules: ClassVar[dict[str, Any]] = {"crowd": "ignored"}

    @model_validator(mode="before")
    @classmethod
    def _read_ignore_crowd(cls, values: Any) -> Any:
        """``crowd`` was once ``ignore_crowd``, true or false."""
        if isinstance(values, dict) and isinstance(old := values.get("ignore_crowd", ...), bool | None):
            others = {key: value for key, value in values.items() if key != "ignore_crowd"}
            return others if old is None else {**others, "crowd": "ignored" if old else "background"}
        return values


# -------------------------------------------------------------------------------------------------------- Architectures


M = TypeVar("M", bound="ModelConfig")


class ModelConfig(Component):
    """Base of every architecture's configuration."""

    class_agnostic: ClassVar[bool] = False
    """Its boxes have no classes (RPN alone): they are evaluated as proposals."""

    geometry: Literal["continuous", "detectron1"] = "continuous"
    """The box convention: continuous coordinates, or inclusive pixels as Detectron has them (`boxwood.ops.detectron1`), for its
    weights. Rules of training that are null follow it: continuous ones are Boxwood's, the others Detectron's."""
    size_divisor: int = Field(32, gt=0, le=4096)
    """A batch's height and width are multiples of it; Detectron padded to 32 with a pyramid, to 128 for RetinaNet, else not at
    all (1)."""
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from each channel of an image in 0..255."""
    pixel_std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """Divides each channel after the mean is subtracted."""

    @property
    def title(self) -> str:
        """Its usual name: Faster R-CNN, ResNet-50-FPN."""
        return type(self).__name__.removesuffix("Config")

    @property
    def task_names(self) -> tuple[str, ...]:
        """The fields it predicts for each instance besides class and box: ``masks``, ``keypoints``, ..."""
        return ()

    @property
    def needs_proposals(self) -> bool:
        """Whether proposals have to come with the data."""
        return False

    def check_data(self, categories: Categories, first: FirstSample, key: str) -> None:
        """Raise `UserError` where the data set at ``key`` lacks what the model is trained on or reads; ``first`` gives its first
        sample."""

    @abstractmethod
    def build(self, categories: Categories, test: TestConfig) -> Detector:
        """The network for these classes, with randomly initialised weights where no pretrained backbone is asked for."""


class RCNNConfig(ModelConfig):
    """A two-stage detector; with a mask head it is Mask R-CNN, with a keypoint head Keypoint R-CNN, or both."""

    short_kind: ClassVar[str] = "rcnn"

    backbone: BackboneConfig = Field(default_factory=ResNetConfig)
    fpn: FPNConfig | None = Field(default_factory=FPNConfig)
    """None: everything reads the backbone's last map (C4, dilated C5, VGG); ``rpn.anchor_sizes`` then has one level."""
    rpn: RPNConfig | None = Field(default_factory=RPNConfig)
    """None: proposals come with the data (Fast R-CNN)."""
    rois: RoIConfig = Field(default_factory=RoIConfig)
    box_head: BoxHeadConfig = Field(default_factory=TwoFCHeadConfig)
    mask_head: MaskHeadConfig | None = None
    keypoint_head: KeypointHeadConfig | None = None
    dense_pose_head: DensePoseHeadConfig | None = None
    interaction_head: InteractionHeadConfig | None = None
    tasks: Annotated[tuple[InstanceTask, ...], Field(max_length=100)] = ()
    """Further predictions for each instance."""

    def all_tasks(self) -> tuple[InstanceTask, ...]:
        """Masks, keypoints, dense pose and interactions where there are heads for them, then ``tasks``."""
        from boxwood.models.tasks.keypoint import KeypointTask

        masks = [self.mask_head.task()] if self.mask_head else []
        keypoints = [KeypointTask(head=self.keypoint_head)] if self.keypoint_head else []
        dense_pose = [self.dense_pose_head.task()] if self.dense_pose_head else []
        interactions = [self.interaction_head.task()] if self.interaction_head else []
        return (*masks, *keypoints, *dense_pose, *interactions, *self.tasks)

    @property
    def title(self) -> str:
        names = [self.mask_head.title] if self.mask_head else []
        names += ["Keypoint"] if self.keypoint_head else []
        names += ["DensePose"] if self.dense_pose_head else []
        names += ["InteractNet"] if self.interaction_head else []
        names += [task.title for task in self.tasks if task.title]
        algorithm = " and ".join(names) if names else "Fast" if self.rpn is None else "Faster"
        given = " on given proposals" if names and self.rpn is None else ""
        return f"{algorithm} R-CNN{given}, {backbone_title(self.backbone, self.fpn)}"

    @property
    def task_names(self) -> tuple[str, ...]:
        names = ["masks"] if self.mask_head else []
        names += ["keypoints"] if self.keypoint_head else []
        names += ["dense_pose"] if self.dense_pose_head else []
        names += ["interactions"] if self.interaction_head else []
        return (*names, *(task.name for task in self.tasks))

    @property
    def needs_proposals(self) -> bool:
        return self.rpn is None

    def check_data(self, categories: Categories, first: FirstSample, key: str) -> None:
        for task in reversed(self.all_tasks()):
            task.check_data(categories, first, key)
        if self.rpn is None:
            check_proposals(first, key)

    def build(self, categories: Categories, test: TestConfig) -> RCNN:
        from boxwood.models.rcnn import RCNN

        return RCNN(self, categories, test)


class RFCNConfig(ModelConfig):
    """A two-stage detector that is convolutional to the end. The defaults are the paper's."""

    short_kind: ClassVar[str] = "rfcn"

    backbone: BackboneConfig = Field(default_factory=lambda: ResNetConfig(last_stage="dilated"))
    """The score maps read its last map, the RPN the one before (section 2: res5 with stride 16, and res4)."""
    rpn: RPNConfig | None = Field(
        default_factory=lambda: RPNConfig(
            anchor_sizes=((128.0, 256.0, 512.0),),
            train_candidates=6000,
            train_proposals=300,
            test_candidates=6000,
            test_proposals=300,
        )
    )
    """None: proposals come with the data."""
    rois: RoIConfig = Field(
        default_factory=lambda: RoIConfig(samples_per_image=300, positive_fraction=1.0, hardest=128, class_agnostic=True)
    )
    """``pooling``, ``sampling_ratio`` and ``aligned`` are not used. With ``hardest`` all proposals are compared; for training
    without it, sample as Faster R-CNN does: ``samples_per_image`` 128, ``positive_fraction`` 0.25."""
    width: Width | None = 1024
    """Channels of a 1x1 convolution ahead of the score maps; None for none."""
    grid: Cells = 7
    """k, cells a side of an RoI."""
    interpolate: bool = False
    """Read the score maps at exact positions, as RoIAlign does, and not whole cells as in the paper: for objects of a few cells,
    whose scores would not change with a small shift of the region."""

    @property
    def title(self) -> str:
        return f"R-FCN, {self.backbone.title}"

    @property
    def needs_proposals(self) -> bool:
        return self.rpn is None

    def check_data(self, categories: Categories, first: FirstSample, key: str) -> None:
        if self.rpn is None:
            check_proposals(first, key)

    def build(self, categories: Categories, test: TestConfig) -> RFCN:
        from boxwood.models.rfcn import RFCN

        return RFCN(self, categories, test)


OCTAVES = tuple(2 ** (third / 3) for third in range(3))


class RetinaNetHeadConfig(AnchorsConfig):
    """Anchors, the towers, the losses, and how many anchors become candidates."""

    anchor_sizes: Sizes = tuple(tuple(4 * stride * o for o in OCTAVES) for stride in (8, 16, 32, 64, 128))
    """Square roots of the anchors' areas in pixels, for each level, finest first: three an octave (section 4)."""
    convs: Layers = 4
    """3x3 convolutions of a tower, as wide as the pyramid."""
    norm: Norm | None = None
    """After each of them, which then has no bias; None for convolutions with bias alone."""
    shared_tower: bool = False
    """One tower for classes and boxes instead of one each."""
    prior: float = Field(0.01, gt=0, lt=1)
    """The initial score of each class at each anchor, so that negatives do not dominate the first steps (section 4.1)."""
    foreground_iou: float = 0.5
    background_iou: float = 0.4
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    smooth_l1_beta: float = 0.11
    test_candidates: Rows = 1000
    """The best (anchor, class) pairs of each level that go into NMS."""
    low_quality_matches: bool | None = None
    """Each instance's best anchors are positive whatever their IoU; False: from ``background_iou`` on (Detectron). None: as
    ``geometry`` implies."""
    ignore_crowd_and_padding: bool | None = None
    """Background anchors that are centred in the padding, or of which half lies in a crowd region, are not used; False: they are
    background (Detectron). None: as ``geometry`` implies."""
    loss_normalizer: Literal["positives", "positives_plus_one"] | None = None
    """The denominator of the losses: the number of positives, or of positives (before ``low_quality_matches`` drops any) and one
    more an image (Detectron). None: as ``geometry`` implies."""
    threshold_coarsest_level: bool | None = None
    """``test.score_threshold`` holds for the coarsest level too; False: it may give detections of any score (Detectron). None: as
    ``geometry`` implies."""

    continuous_rules: ClassVar[dict[str, Any]] = {
        "low_quality_matches": True,
        "ignore_crowd_and_padding": True,
        "loss_normalizer": "positives",
        "threshold_coarsest_level": True,
    }
    detectron1_rules: ClassVar[dict[str, Any]] = {
        "low_quality_matches": False,
        "ignore_crowd_and_padding": False,
        "loss_normalizer": "positives_plus_one",
        "threshold_coarsest_level": False,
    }


class RetinaNetConfig(ModelConfig):
    """A one-stage detector on a pyramid from stride 8 on."""

    short_kind: ClassVar[str] = "retinanet"

    backbone: BackboneConfig = Field(default_factory=ResNetConfig)
    """Its maps of stride 8 and coarser are used."""
    fpn: FPNConfig = Field(default_factory=lambda: FPNConfig(top="conv_c5"))
    head: RetinaNetHeadConfig = Field(default_factory=RetinaNetHeadConfig)

    @property
    def title(self) -> str:
        return f"RetinaNet, {backbone_title(self.backbone, self.fpn)}"

    def build(self, categories: Categories, test: TestConfig) -> RetinaNet:
        from boxwood.models.retinanet import RetinaNet

        return RetinaNet(self, categories, test)


class ProposerConfig(ModelConfig):
    """A region proposal network alone."""

    short_kind: ClassVar[str] = "rpn"
    class_agnostic: ClassVar[bool] = True

    backbone: BackboneConfig = Field(default_factory=ResNetConfig)
    fpn: FPNConfig | None = Field(default_factory=FPNConfig)
    """None: the RPN reads the backbone's last map; ``rpn.anchor_sizes`` then has one level."""
    rpn: RPNConfig = Field(default_factory=lambda: RPNConfig(test_proposals=2000))
    """``rpn.test_proposals`` and not ``test.detections_per_image`` is the number of boxes."""

    @property
    def title(self) -> str:
        return f"RPN, {backbone_title(self.backbone, self.fpn)}"

    def build(self, categories: Categories, test: TestConfig) -> Proposer:
        from boxwood.models.proposal_network import Proposer

        return Proposer(self, categories, test)


# ------------------------------------------------------------------------------------------ Functions of configurations


def backbone_title(backbone: BackboneConfig, fpn: FPNConfig | None) -> str:
    """The title of a backbone and the maps that are read of it: ResNet-50-FPN, ResNet-50-C4, VGG16."""
    return backbone.title_alone if fpn is None else f"{backbone.title}-FPN"


def check_proposals(first: FirstSample, key: str) -> None:
    """Raise `UserError` where the data set at ``key`` has no proposals; ``first`` gives its first sample."""
    sample = first()
    if sample is not None and sample.proposals is None:
        raise UserError(
            f"{key}: has no proposals, and this detector has no RPN to make them; set {key}.proposals to a file of them (boxwood "
            "eval of an RPN writes one), or take a recipe with an RPN, such as faster_rcnn_mobilenetv2_fpn"
        )


def without_pretrained(model: M) -> M:
    """A copy of the configuration with randomly initialised weights: for a network whose weights come from a file."""
    copy = model.model_copy(deep=True)
    for part in _parts(copy):
        if "weights" in type(part).model_fields:
            part.weights = None  # type: ignore[attr-defined]  # of backbones that have such a field
    return copy


def only_built_in(config: Config) -> bool:
    """Whether no part of a configuration is of a class outside Boxwood."""
    return all(":" not in part.kind() for part in _parts(config) if isinstance(part, Component))


def with_training_rules(model: M) -> M:
    """A copy of the configuration in which rules of training that are None follow ``geometry``."""
    copy = model.model_copy(deep=True)
    for part in _parts(copy):
        for name, rule in getattr(part, f"{model.geometry}_rules", {}).items():
            if getattr(part, name) is None:
                setattr(part, name, rule)
    return copy


def _parts(config: Config) -> list[Config]:
    """The configuration and those in it, at any depth."""
    parts = [config]
    for part in parts:
        for _, value in part:
            parts += [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, Config)]
    return parts
