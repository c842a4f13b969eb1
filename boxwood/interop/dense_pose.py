"""Published weights of DensePose recognised by their tensors, which tell the network; the conventions are those of all published
models.

detectron2's read RoIs by 2 x 2 points without the shift by half a pixel, for boxes too, on a backbone that strides in its 1x1
convolutions. The program before it built on Detectron and has that one's geometry.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from boxwood.data import CocoConfig, DataConfig, ResizeShortestEdge
from boxwood.errors import UserError
from boxwood.models import RCNNConfig
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import RoIConfig, RPNConfig
from boxwood.models.heads import (
    ConvDensePoseHeadConfig,
    ConvKeypointHeadConfig,
    ConvMaskHeadConfig,
    DeepLabDensePoseHeadConfig,
)
from boxwood.run_config import RunConfig

__all__ = ["NOTE", "of_blobs", "of_state"]

NOTE = "settings: those of all published models of DensePose; the network is recognised by the names of its tensors"
DEPTHS = {6: 50, 23: 101, 36: 152}
"""By the number of residual blocks of res4."""


def of_state(state: Mapping[str, Any], where: str) -> RunConfig | None:
    """The configuration of detectron2's weights of DensePose, by the shapes of their tensors; None for other weights. Raises
    `UserError` where the backbone is unknown."""
    maps = "roi_heads.densepose_predictor"
    if f"{maps}.ann_index_lowres.bias" not in state:
        return None
    improved = "roi_heads.decoder.predictor.weight" in state
    kind = DeepLabDensePoseHeadConfig if "roi_heads.densepose_head.ASPP.project.0.weight" in state else ConvDensePoseHeadConfig
    isotropic, oriented = (f"{maps}.{name}_lowres.bias" in state for name in ("sigma_2", "kappa_u"))
    head = kind(
        resolution=28 if improved else 14,
        decoder=improved,
        coarse=_size(state[f"{maps}.ann_index_lowres.bias"]),
        confidence="indep_aniso" if oriented else "iid_iso" if isotropic else None,
        segmentation_confidence=f"{maps}.fine_segm_confidence_lowres.bias" in state,
        coarse_weight=5.0 if improved else 2.0,
        fine_weight=1.0 if improved else 0.3,
        uv_weight=0.0005 if isotropic else 0.01 if improved else 0.1,
    )
    blocks = {name.split(".")[3] for name in state if name.startswith("backbone.bottom_up.res4.")}
    model = RCNNConfig(
        backbone=ResNetConfig(depth=_depth(len(blocks), where), stride_in="1x1", weights=None),
        rpn=RPNConfig(smooth_l1_beta=0.0),
        rois=RoIConfig(smooth_l1_beta=0.0, aligned=False),
        dense_pose_head=head,
        pixel_std=(1.0, 1.0, 1.0),
    )
    return _run(model, antialias=True)


def of_blobs(blobs: Mapping[str, Any], where: str) -> RunConfig | None:
    """The configuration of the weights of the program that built on Detectron, by the names of their blobs; None for other
    weights. Raises `UserError` where the backbone is unknown."""
    if "AnnIndex_lowres_w" not in blobs:
        return None
    blocks = {name.split("_")[1] for name in blobs if name.startswith("res4_") and "branch2a_w" in name}
    widths = blobs["res2_0_branch2b_w"].shape if "res2_0_branch2b_w" in blobs else (64, 64)
    groups = widths[0] // widths[1]
    model = RCNNConfig(
        backbone=ResNetConfig(
            depth=_depth(len(blocks), where),
            groups=groups,
            width_per_group=widths[1] if groups > 1 else 64,
            stride_in="1x1" if groups == 1 else "3x3",
            weights=None,
        ),
        rpn=RPNConfig() if "conv_rpn_fpn2_w" in blobs else None,
        rois=RoIConfig(aligned=False),
        mask_head=ConvMaskHeadConfig() if "mask_fcn_logits_w" in blobs else None,
        keypoint_head=ConvKeypointHeadConfig() if "kps_score_lowres_w" in blobs else None,
        dense_pose_head=ConvDensePoseHeadConfig(
            resolution=14, decoder=False, coarse=15, coarse_weight=2.0, fine_weight=0.3, uv_weight=0.1
        ),
        geometry="detectron1",
        pixel_mean=(122.7717, 115.9465, 102.9801),
        pixel_std=(1.0, 1.0, 1.0),
    )
    return _run(model, antialias=False)


# ------------------------------------------------------------------------------------------------------------ internals


def _depth(blocks: int, where: str) -> Any:
    if blocks not in DEPTHS:
        raise UserError(
            f"{where}: has {blocks} residual blocks in res4, where published models have 6 or 23; name the network with --model"
        )
    return DEPTHS[blocks]


def _size(bias: Any) -> Any:
    return int(bias.shape[0])


def _run(model: RCNNConfig, *, antialias: bool) -> RunConfig:
    resize = (ResizeShortestEdge(short=(800,), long=1333, antialias=antialias),)
    sets = {
        part: CocoConfig(
            annotations=f"data/coco/annotations/densepose_{name}2014.json", images=f"data/coco/{part}2014", transforms=resize
        )
        for part, name in (("train", "train"), ("val", "minival"))
    }
    return RunConfig(model=model, data=DataConfig(train=sets["train"], val=sets["val"]))
