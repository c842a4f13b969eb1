"""Detectors on one map of the backbone instead of a pyramid: C4 and R-FCN on ResNets, and R-CNN on VGG.

C4 settings are those of Detectron's ``configs/12_2017_baselines`` (FAIR, 2017), with the departures of `boxwood.recipes.coco`; the
others are those of the papers, or Detectron's where the papers do not state them. The papers trained the RPN and the second stage
alternately, Boxwood trains them together. The numbers are those that Detectron or the paper published; Boxwood has not completed
the training of any of these recipes yet.
"""

from __future__ import annotations

from boxwood.data import CocoConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.models import ProposerConfig, RCNNConfig, RFCNConfig
from boxwood.models.backbones import BackboneConfig, ResNetConfig, VGG16Config, VGGCNNM1024Config
from boxwood.models.config import RoIConfig, RPNConfig
from boxwood.models.heads import AverageHeadConfig, ConvMaskHeadConfig
from boxwood.recipes.coco import faster_rcnn_r50_fpn_1x, on_proposals
from boxwood.run_config import RunConfig, StepScheduleConfig

__all__ = [
    "fast_rcnn_r50_c4_1x",
    "fast_rcnn_vgg16",
    "fast_rcnn_vgg_cnn_m_1024",
    "faster_rcnn_r50_c4_1x",
    "faster_rcnn_vgg16",
    "mask_rcnn_r50_c4_1x",
    "rfcn_r50",
    "rfcn_r101",
    "rpn_r50_c4_1x",
]


# ---------------------------------------------------------------------------------------------------------------------- C4


def _rpn_of_c4(*, test_candidates: int = 6000, test_proposals: int = 1000) -> RPNConfig:
    return RPNConfig(
        anchor_sizes=((32.0, 64.0, 128.0, 256.0, 512.0),),
        train_candidates=12_000,
        train_proposals=2000,
        test_candidates=test_candidates,
        test_proposals=test_proposals,
    )


def _c4() -> RCNNConfig:
    """RoIAlign of 14 x 14 cells, with as many sampling points per cell as it has map pixels, then res5 and the mean."""
    return RCNNConfig(
        backbone=ResNetConfig(last_stage="tail"),
        fpn=None,
        rpn=_rpn_of_c4(),
        rois=RoIConfig(sampling_ratio=0),
        box_head=AverageHeadConfig(),
    )


def _steps_of_8_images() -> RunConfig:
    config = faster_rcnn_r50_fpn_1x()
    config.optim.lr, config.optim.reference_batch_size = 0.01, 8
    config.train.batch_size, config.train.steps = 8, 180_000
    return config


def rpn_r50_c4_1x() -> RunConfig:
    """RPN alone, ResNet-50-C4, 90,000 steps of 16 images. Detectron's ``rpn_R-50-C4_1x`` published AR 51.6."""
    config = faster_rcnn_r50_fpn_1x()
    config.model = ProposerConfig(
        backbone=ResNetConfig(last_stage="tail"), fpn=None, rpn=_rpn_of_c4(test_candidates=12_000, test_proposals=2000)
    )
    return config


def fast_rcnn_r50_c4_1x() -> RunConfig:
    """Fast R-CNN, ResNet-50-C4, 180,000 steps of 8 images. Detectron's ``fast_rcnn_R-50-C4_1x`` published box AP 34.4."""
    config = _steps_of_8_images()
    model = _c4()
    model.rpn = None
    config.model = model
    return on_proposals(config)


def faster_rcnn_r50_c4_1x() -> RunConfig:
    """Faster R-CNN, ResNet-50-C4, 180,000 steps of 8 images.

    Detectron's ``e2e_faster_rcnn_R-50-C4_1x`` published box AP 34.8.
    """
    config = _steps_of_8_images()
    config.model = _c4()
    return config


def mask_rcnn_r50_c4_1x() -> RunConfig:
    """Mask R-CNN, ResNet-50-C4, 180,000 steps of 8 images; the mask head shares res5 with the box head.

    Detectron's ``e2e_mask_rcnn_R-50-C4_1x`` published box AP 35.8 and mask AP 31.4.
    """
    config = _steps_of_8_images()
    model = _c4()
    model.mask_head = ConvMaskHeadConfig(convs=0, source="tail")
    config.model = model
    return config


# --------------------------------------------------------------------------------------------------------- before Detectron


def _before_detectron(*, lr: float, batch_size: int, steps: int, drops: tuple[int, ...]) -> RunConfig:
    """Common settings of the papers of 2015 and 2016: images of 600 pixels, a weight decay of 0.0005, no warm-up, and NMS at an IoU
    of 0.3 (as in py-faster-rcnn)."""
    config = faster_rcnn_r50_fpn_1x()
    resize = ResizeShortestEdge(short=(600,), long=1000)
    assert isinstance(config.data.train, CocoConfig)
    config.data.train.transforms, config.data.val.transforms = (resize, HorizontalFlip(p=0.5)), (resize,)
    config.optim.lr, config.optim.reference_batch_size = lr, batch_size
    config.optim.weight_decay, config.optim.warmup_steps = 5e-4, 0
    config.optim.schedule = StepScheduleConfig(drops=tuple(drop / steps for drop in drops))
    config.train.batch_size, config.train.steps = batch_size, steps
    config.test.nms_threshold = 0.3
    return config


# ------------------------------------------------------------------------------------------------------------------- R-FCN


def _rfcn(depth: int) -> RunConfig:
    """Dai et al. (2016), section 4.2: 8 images per step, a learning rate of 0.001 for 90,000 steps and 0.0001 for 30,000. The
    anchors are those of Faster R-CNN on COCO."""
    config = _before_detectron(lr=0.001, batch_size=8, steps=120_000, drops=(90_000,))
    config.model = RFCNConfig(
        backbone=ResNetConfig.model_validate({"depth": depth, "last_stage": "dilated", "frozen_stages": 2}),
        rpn=RPNConfig(
            anchor_sizes=((64.0, 128.0, 256.0, 512.0),),
            train_candidates=6000,
            train_proposals=300,
            test_candidates=6000,
            test_proposals=300,
        ),
    )
    return config


def rfcn_r50() -> RunConfig:
    """R-FCN, ResNet-50 with res5 dilated, online hard example mining, 120,000 steps of 8 images. No AP on COCO is published."""
    return _rfcn(50)


def rfcn_r101() -> RunConfig:
    """R-FCN, ResNet-101 with res5 dilated, online hard example mining, 120,000 steps of 8 images.

    The paper published box AP 29.2 on COCO's test-dev, trained on train and val at one scale (Dai et al., 2016, table 6).
    """
    return _rfcn(101)


# --------------------------------------------------------------------------------------------------------------------- VGG


def _vgg(backbone: BackboneConfig, resolution: int) -> RCNNConfig:
    """RoIPool and the backbone's fully connected layers."""
    return RCNNConfig(
        backbone=backbone,
        fpn=None,
        rpn=None,
        rois=RoIConfig(samples_per_image=64, pooling="max"),
        box_head=AverageHeadConfig(resolution=resolution),
    )


def _fast_on_vgg(backbone: BackboneConfig, resolution: int) -> RunConfig:
    """Girshick (2015), section 2.3: 2 images and 128 RoIs per step, a learning rate of 0.001, weight decay of biases too, about
    2,000 proposals per image; section 5.6: 240,000 steps on COCO, without a drop of the learning rate, as none is stated."""
    config = on_proposals(_before_detectron(lr=0.001, batch_size=2, steps=240_000, drops=()))
    config.model = _vgg(backbone, resolution)
    config.optim.bias_weight_decay = 5e-4
    assert isinstance(config.data.val, CocoConfig)
    config.data.val.proposal_limit = 2000
    return config


def fast_rcnn_vgg16() -> RunConfig:
    """Fast R-CNN, VGG16, 240,000 steps of 2 images.

    The paper published box AP 19.7 on COCO's test-dev, with the proposals of Selective Search (Girshick, 2015, section 5.6); these
    can be given as a file of COCO results.
    """
    return _fast_on_vgg(VGG16Config(), 7)


def fast_rcnn_vgg_cnn_m_1024() -> RunConfig:
    """Fast R-CNN, VGG-CNN-M-1024, 240,000 steps of 2 images, from random weights, since torchvision has none.

    The paper's settings for VGG16; no AP on COCO is published.
    """
    return _fast_on_vgg(VGGCNNM1024Config(frozen_stages=0), 6)


def faster_rcnn_vgg16() -> RunConfig:
    """Faster R-CNN, VGG16, 320,000 steps of 8 images, learning rate 0.003, 0.0003 after 240,000 (Ren et al., 2015, section 4.2).

    The paper published box AP 21.2 on COCO's val set, trained on train (table 11).
    """
    config = _before_detectron(lr=0.003, batch_size=8, steps=320_000, drops=(240_000,))
    model = _vgg(VGG16Config(), 7)
    model.rois.samples_per_image = 128
    model.rpn = RPNConfig(
        anchor_sizes=((64.0, 128.0, 256.0, 512.0),),
        train_candidates=12_000,
        train_proposals=2000,
        test_candidates=6000,
        test_proposals=300,
    )
    config.model = model
    return config
