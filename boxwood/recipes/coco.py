"""Detectron's baselines on COCO: a ResNet-50 with a feature pyramid, the 1x schedule.

The settings are those of Detectron's ``configs/12_2017_baselines`` (FAIR, 2017; `Mask R-CNN`, He et al., 2017, and its appendix),
with these departures: the geometry is continuous (boxes without +1, aligned RoIAlign), the backbone is torchvision's
(ImageNet weights with the stride in the 3x3 convolution and RGB means, where Detectron used MSRA's), and COCO 2017's train
set replaces 2014's train and "valminusminival", which are the same images.

The learning rate is for 16 images per step, on any number of GPUs. For fewer images per step, let ``optim.scale_lr=true``
scale it, and increase the steps by the same factor.
"""

from __future__ import annotations

from boxwood.data import CocoConfig, DataConfig, HorizontalFlip, ResizeShortestEdge
from boxwood.models import ProposerConfig, RCNNConfig, RetinaNetConfig
from boxwood.models.heads import ConvKeypointHeadConfig, ConvMaskHeadConfig
from boxwood.run_config import RunConfig, SGDConfig, StepScheduleConfig, TrainConfig

__all__ = [
    "fast_rcnn_r50_fpn_1x",
    "faster_rcnn_r50_fpn_1x",
    "keypoint_rcnn_r50_fpn_1x",
    "mask_rcnn_r50_fpn_1x",
    "retinanet_r50_fpn_1x",
    "rpn_r50_fpn_1x",
]


def faster_rcnn_r50_fpn_1x() -> RunConfig:
    """Faster R-CNN, ResNet-50-FPN, COCO, 90,000 steps of 16 images.

    Detectron's ``e2e_faster_rcnn_R-50-FPN_1x`` published box AP 36.7 on COCO 2014 minival; Boxwood has not completed this
    training yet. Put COCO 2017 under ``data/coco`` (``annotations/``, ``train2017/``, ``val2017/``), then::

        torchrun --nproc-per-node 8 -m boxwood train faster_rcnn_r50_fpn_1x
    """
    resize = ResizeShortestEdge(short=(800,), long=1333)
    return RunConfig(
        model=RCNNConfig(),
        data=DataConfig(
            train=CocoConfig(
                annotations="data/coco/annotations/instances_train2017.json",
                images="data/coco/train2017",
                keep_empty=False,  # Detectron drops the images without annotations
                transforms=(resize, HorizontalFlip(p=0.5)),
            ),
            val=CocoConfig(
                annotations="data/coco/annotations/instances_val2017.json", images="data/coco/val2017", transforms=(resize,)
            ),
        ),
        optim=SGDConfig(
            lr=0.02,
            reference_batch_size=16,
            momentum=0.9,
            weight_decay=1e-4,
            norm_weight_decay=0.0,
            bias_lr_factor=2.0,
            bias_weight_decay=0.0,
            schedule=StepScheduleConfig(drops=(60_000 / 90_000, 80_000 / 90_000), gamma=0.1),
            warmup_steps=500,
            warmup_factor=1 / 3,
        ),
        train=TrainConfig(steps=90_000, batch_size=16),
    )


def mask_rcnn_r50_fpn_1x() -> RunConfig:
    """Mask R-CNN, ResNet-50-FPN, COCO, 90,000 steps of 16 images.

    Detectron's ``e2e_mask_rcnn_R-50-FPN_1x`` published box AP 37.7 and mask AP 33.9 on COCO 2014 minival; Boxwood has not
    completed this training yet. Put COCO 2017 under ``data/coco``, then::

        torchrun --nproc-per-node 8 -m boxwood train mask_rcnn_r50_fpn_1x
    """
    config = faster_rcnn_r50_fpn_1x()
    config.model = RCNNConfig(mask_head=ConvMaskHeadConfig())
    return config


def retinanet_r50_fpn_1x() -> RunConfig:
    """RetinaNet, ResNet-50-FPN, COCO, 90,000 steps of 16 images.

    Detectron's ``retinanet_R-50-FPN_1x`` published box AP 35.7 on COCO 2014 minival; Boxwood has not completed this training
    yet. Put COCO 2017 under ``data/coco``, then::

        torchrun --nproc-per-node 8 -m boxwood train retinanet_r50_fpn_1x
    """
    config = faster_rcnn_r50_fpn_1x()
    config.model = RetinaNetConfig()
    config.optim.lr = 0.01
    return config


def keypoint_rcnn_r50_fpn_1x() -> RunConfig:
    """Keypoint R-CNN, ResNet-50-FPN, COCO's persons, 90,000 steps of 16 images of 640 to 800 pixels.

    Detectron's ``e2e_keypoint_rcnn_R-50-FPN_1x`` published box AP 53.6 and keypoint AP 64.2 (of persons) on COCO 2014 minival;
    Boxwood has not completed this training yet. Put COCO 2017 under ``data/coco``, then::

        torchrun --nproc-per-node 8 -m boxwood train keypoint_rcnn_r50_fpn_1x
    """
    config = faster_rcnn_r50_fpn_1x()
    config.model = RCNNConfig(keypoint_head=ConvKeypointHeadConfig())
    jitter = ResizeShortestEdge(short=(640, 672, 704, 736, 768, 800), long=1333)
    config.data = DataConfig(
        train=CocoConfig(
            annotations="data/coco/annotations/person_keypoints_train2017.json",
            images="data/coco/train2017",
            keep_empty=False,
            transforms=(jitter, HorizontalFlip(p=0.5)),
        ),
        val=CocoConfig(
            annotations="data/coco/annotations/person_keypoints_val2017.json",
            images="data/coco/val2017",
            transforms=(ResizeShortestEdge(short=(800,), long=1333),),
        ),
    )
    return config


def rpn_r50_fpn_1x() -> RunConfig:
    """RPN alone, ResNet-50-FPN, COCO, 90,000 steps of 16 images.

    Detectron's ``rpn_R-50-FPN_1x`` published AR 57.2 (of 1,000 proposals) on COCO 2014 minival; Boxwood has not completed this
    training yet. Put COCO 2017 under ``data/coco``, train, then write the proposals of both sets for `fast_rcnn_r50_fpn_1x`::

        torchrun --nproc-per-node 8 -m boxwood train rpn_r50_fpn_1x --out runs/rpn
        torchrun --nproc-per-node 8 -m boxwood eval runs/rpn --out proposals/val
        torchrun --nproc-per-node 8 -m boxwood eval runs/rpn --out proposals/train \\
            data.val.annotations=data/coco/annotations/instances_train2017.json data.val.images=data/coco/train2017
    """
    config = faster_rcnn_r50_fpn_1x()
    config.model = ProposerConfig()
    return config


def fast_rcnn_r50_fpn_1x() -> RunConfig:
    """Fast R-CNN, ResNet-50-FPN, on given proposals, COCO, 90,000 steps of 16 images.

    Detectron's ``fast_rcnn_R-50-FPN_1x`` published box AP 36.4 on COCO 2014 minival, with the proposals of its
    ``rpn_R-50-FPN_1x``; Boxwood has not completed this training yet. Make proposals with `rpn_r50_fpn_1x`, then::

        torchrun --nproc-per-node 8 -m boxwood train fast_rcnn_r50_fpn_1x
    """
    config = faster_rcnn_r50_fpn_1x()
    config.model = RCNNConfig(rpn=None)
    return on_proposals(config)


def on_proposals(config: RunConfig) -> RunConfig:
    """``config``, changed to read given proposals: 2,000 per image in training, 1,000 in testing, as in Detectron."""
    for data, part, limit in ((config.data.train, "train", 2000), (config.data.val, "val", 1000)):
        assert isinstance(data, CocoConfig)
        data.proposals, data.proposal_limit = f"proposals/{part}/proposals.safetensors", limit
    return config
