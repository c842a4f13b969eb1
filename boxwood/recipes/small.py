"""Detectors for CPUs and small data sets: a MobileNetV2 with a narrow feature pyramid.

The sizes come from measurements, not papers: on two cores a step of 4 images takes about 2.5 s with 128 channels and 128 RoIs
per image, and over 6 s with the 256 channels and 512 RoIs of the COCO recipes. 400 steps take about a quarter of an hour,
which is enough for a few hundred images of a few classes; for more, raise ``train.steps``.
"""

from __future__ import annotations

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.models import ProposerConfig, RCNNConfig, RetinaNetConfig, RFCNConfig
from boxwood.models.backbones import MobileNetV2Config, ResNetConfig
from boxwood.models.config import FPNConfig, RetinaNetHeadConfig, RoIConfig, RPNConfig
from boxwood.models.heads import ConvFCHeadConfig, ConvKeypointHeadConfig, ConvMaskHeadConfig, MaskXHeadConfig
from boxwood.recipes.coco import on_proposals
from boxwood.run_config import AdamWConfig, RunConfig, SGDConfig, StepScheduleConfig, TrainConfig

__all__ = [
    "fast_rcnn_mobilenetv2_fpn",
    "faster_rcnn_mobilenetv2_fpn",
    "keypoint_rcnn_mobilenetv2_fpn",
    "mask_rcnn_mobilenetv2_fpn",
    "mask_rcnn_r18_fpn_gn_scratch",
    "mask_x_rcnn_mobilenetv2_fpn",
    "retinanet_mobilenetv2_fpn",
    "rfcn_mobilenetv2",
    "rpn_mobilenetv2_fpn",
]


def faster_rcnn_mobilenetv2_fpn() -> RunConfig:
    """Faster R-CNN, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    The backbone starts from torchvision's ImageNet weights. Run it on your boxes in COCO's format::

        boxwood train faster_rcnn_mobilenetv2_fpn \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
    """
    resize = ResizeShortestEdge(short=(320,), long=533)
    return RunConfig(
        model=RCNNConfig(
            backbone=MobileNetV2Config(),
            fpn=FPNConfig(channels=128),
            rois=RoIConfig(samples_per_image=128, smooth_l1_beta=1 / 9),
        ),
        data=DataConfig(
            train=CocoConfig(annotations="data/train.json", images="data/images", transforms=(resize, HorizontalFlip(p=0.5))),
            val=CocoConfig(annotations="data/val.json", images="data/images", transforms=(resize,)),
        ),
        optim=SGDConfig(
            lr=0.01,
            reference_batch_size=4,
            schedule=StepScheduleConfig(drops=(0.66, 0.9)),
            warmup_steps=50,
            warmup_factor=0.1,
            clip_norm=5.0,
        ),
        train=TrainConfig(steps=400, batch_size=4, eval_every=0, checkpoint_every=100, log_every=10),
    )


def mask_rcnn_mobilenetv2_fpn() -> RunConfig:
    """Mask R-CNN, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    As `faster_rcnn_mobilenetv2_fpn`, with a mask head as narrow as the pyramid. It needs polygons or RLE in the annotations::

        boxwood train mask_rcnn_mobilenetv2_fpn \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
    """
    config = faster_rcnn_mobilenetv2_fpn()
    config.model = RCNNConfig(
        backbone=MobileNetV2Config(),
        fpn=FPNConfig(channels=128),
        rois=RoIConfig(samples_per_image=128, smooth_l1_beta=1 / 9),
        mask_head=ConvMaskHeadConfig(width=128),
    )
    return config


def mask_x_rcnn_mobilenetv2_fpn() -> RunConfig:
    """Mask^X R-CNN, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    As `mask_rcnn_mobilenetv2_fpn`, for data in which some classes have boxes alone: their masks are predicted from what detects
    them. The branch for all classes is left out, since it would have 80 million weights. Where every class has masks and some
    should not teach, name those that do::

        boxwood train mask_x_rcnn_mobilenetv2_fpn \\
            data.train.annotations=train.json data.train.images=photos "data.train.mask_classes=[cat, dog]" \\
            data.val.annotations=val.json data.val.images=photos
    """
    config = mask_rcnn_mobilenetv2_fpn()
    assert isinstance(config.model, RCNNConfig)
    config.model.mask_head = MaskXHeadConfig(width=128, mlp_branch=False)
    return config


def retinanet_mobilenetv2_fpn() -> RunConfig:
    """RetinaNet, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    As `faster_rcnn_mobilenetv2_fpn`, with towers as wide as the pyramid, group norm in the towers, so that they learn in a few
    hundred steps, and gradient clipping, since gradients are large at first; anchors begin at half the published size, as the
    images are smaller::

        boxwood train retinanet_mobilenetv2_fpn \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
    """
    config = faster_rcnn_mobilenetv2_fpn()
    sizes = tuple(tuple(2 * stride * 2 ** (third / 3) for third in range(3)) for stride in (8, 16, 32, 64, 128))
    config.model = RetinaNetConfig(
        backbone=MobileNetV2Config(),
        fpn=FPNConfig(channels=128, top="conv_c5"),
        head=RetinaNetHeadConfig(anchor_sizes=sizes, norm="gn"),
    )
    config.optim.clip_norm = 2.0
    return config


def keypoint_rcnn_mobilenetv2_fpn() -> RunConfig:
    """Keypoint R-CNN, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    As `faster_rcnn_mobilenetv2_fpn`, with half the layers of the paper's keypoint head, a quarter as wide. Gradients are clipped:
    without clipping, training with 2 images per step diverged within 50 steps. It needs keypoints in the annotations::

        boxwood train keypoint_rcnn_mobilenetv2_fpn \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
    """
    config = faster_rcnn_mobilenetv2_fpn()
    config.model = RCNNConfig(
        backbone=MobileNetV2Config(),
        fpn=FPNConfig(channels=128),
        rois=RoIConfig(samples_per_image=128, smooth_l1_beta=1 / 9),
        keypoint_head=ConvKeypointHeadConfig(convs=4, width=128),
    )
    config.optim.clip_norm = 5.0
    return config


def rpn_mobilenetv2_fpn() -> RunConfig:
    """RPN alone, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    ``boxwood eval`` writes its proposals, for `fast_rcnn_mobilenetv2_fpn`, also of the train set::

        boxwood train rpn_mobilenetv2_fpn --out runs/rpn \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
        boxwood eval runs/rpn --out proposals/val
        boxwood eval runs/rpn --out proposals/train data.val.annotations=train.json data.val.images=photos
    """
    config = faster_rcnn_mobilenetv2_fpn()
    config.model = ProposerConfig(backbone=MobileNetV2Config(), fpn=FPNConfig(channels=128))
    return config


def fast_rcnn_mobilenetv2_fpn() -> RunConfig:
    """Fast R-CNN, MobileNetV2-FPN, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    As `faster_rcnn_mobilenetv2_fpn`, on the proposals that `rpn_mobilenetv2_fpn` wrote, or any others::

        boxwood train fast_rcnn_mobilenetv2_fpn \\
            data.train.annotations=train.json data.train.images=photos \\
            data.train.proposals=proposals/train/proposals.safetensors \\
            data.val.annotations=val.json data.val.images=photos \\
            data.val.proposals=proposals/val/proposals.safetensors
    """
    config = faster_rcnn_mobilenetv2_fpn()
    config.model = RCNNConfig(
        backbone=MobileNetV2Config(),
        fpn=FPNConfig(channels=128),
        rpn=None,
        rois=RoIConfig(samples_per_image=128, smooth_l1_beta=1 / 9),
    )
    return on_proposals(config)


def rfcn_mobilenetv2() -> RunConfig:
    """R-FCN, MobileNetV2 with its last stage dilated, 320 pixels, 400 steps of 4 images: for CPUs and small data.

    Anchors have 32 to 256 pixels, on the map of stride 16; the score maps have 3 x 3 cells per class and are interpolated, since
    an object covers few of their pixels. AdamW and random sampling of regions differ from the paper: with SGD and the hardest
    regions it hardly learnt in a few hundred steps. These settings were found together, by trial on one data set::

        boxwood train rfcn_mobilenetv2 \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
    """
    config = faster_rcnn_mobilenetv2_fpn()
    config.model = RFCNConfig(
        backbone=MobileNetV2Config(dilated=True),
        rpn=RPNConfig(anchor_sizes=((32.0, 64.0, 128.0, 256.0),), train_proposals=500, test_proposals=300),
        rois=RoIConfig(samples_per_image=128, class_agnostic=True, smooth_l1_beta=1 / 9),
        width=256,
        grid=3,
        interpolate=True,
    )
    config.optim = AdamWConfig(
        lr=3e-4,
        weight_decay=0.01,
        reference_batch_size=config.optim.reference_batch_size,
        schedule=config.optim.schedule,
        warmup_steps=config.optim.warmup_steps,
        warmup_factor=config.optim.warmup_factor,
    )
    return config


def mask_rcnn_r18_fpn_gn_scratch() -> RunConfig:
    """Mask R-CNN, a ResNet-18-FPN of half its width with group norm, from random weights: for CPUs and small data.

    320 pixels, 800 steps of 4 images; no weights are downloaded. It needs polygons or RLE in the annotations::

        boxwood train mask_rcnn_r18_fpn_gn_scratch \\
            data.train.annotations=train.json data.train.images=photos \\
            data.val.annotations=val.json data.val.images=photos
    """
    config = faster_rcnn_mobilenetv2_fpn()
    config.model = RCNNConfig(
        backbone=ResNetConfig(depth=18, width=32, norm="gn", frozen_stages=0, weights=None),
        fpn=FPNConfig(channels=96, norm="gn"),
        rois=RoIConfig(samples_per_image=128, smooth_l1_beta=1 / 9),
        box_head=ConvFCHeadConfig(convs=2, conv_width=96, width=512, norm="gn"),
        mask_head=ConvMaskHeadConfig(convs=2, width=96, norm="gn"),
    )
    config.train.steps = 800
    return config
