"""Detectron's weights (``.pkl``, Caffe2): its blobs under our names, in our order of classes, anchors and colour channels.

A file is a pickle of Python 2: ``{"blobs": {name: array}, "cfg": text}``, or the blobs alone (its ImageNet backbones). It is read
by `boxwood.safe_pickle`, which runs no code. The differences:

* in Detectron background is class 0; here it is the last class logit, and has neither boxes nor masks; the transfer function of
  Learning to Segment Every Thing, a program on top of it, reads weights class by class, so that nothing changes for it;
* in Detectron RetinaNet's anchors are ordered by octave, then ratio; here by ratio, then octave;
* Detectron's images are BGR, so the input channels of the first convolution are reversed;
* Detectron's batch norm is a scale and a shift; here it also has a mean of 0 and a variance of 1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from boxwood import safe_pickle
from boxwood.errors import UserError
from boxwood.interop.state_dict import Report, Rules, collect, finish, ratio_by_ratio, split_name, their_name
from boxwood.models.backbones import ResNetConfig
from boxwood.models.backbones.non_local import missing_blocks
from boxwood.models.backbones.resnet import BLOCKS
from boxwood.models.config import ModelConfig, ProposerConfig, RCNNConfig, RetinaNetConfig, RFCNConfig
from boxwood.models.heads import ConvMaskHeadConfig, MaskXHeadConfig

__all__ = ["DetectronFile", "convert", "count_classes", "read_detectron", "with_mask_head"]

HARMLESS = (
    (r".*_momentum|lr", "of the optimizer"),
    (r"(fc1000|fc8|pred)_[wb]", "of ImageNet's classifier"),
    (r"(kps_score|AnnIndex|Index_UV|[UV]_estimated)_[wb]", "a fixed filter"),
    (r".*_jcvbackup", "a copy of weights of more classes"),
)
"""Blobs that the network does not need, and why."""

DENSE_POSE = {"coarse": "AnnIndex", "fine": "Index_UV", "u": "U", "v": "V"}
"""Our names of the maps of dense pose, and those of the DensePose program, which built on Detectron."""

Blobs = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class DetectronFile:
    """The contents of a ``.pkl`` of Detectron."""

    blobs: Blobs
    config: str | None
    """The configuration as Detectron wrote it; None if the file has none."""


def read_detectron(path: Path) -> DetectronFile:
    """Read a ``.pkl`` of either form. Raises `UserError` where it is no pickle of plain data, or holds no blobs."""
    tree = safe_pickle.read(path)
    content = tree.get("blobs", tree) if isinstance(tree, dict) else None
    arrays = {name: value for name, value in (content or {}).items() if isinstance(value, np.ndarray)}
    if not arrays:
        raise UserError(f"{path}: holds no weights of Detectron (a dictionary of arrays, or one called 'blobs')")
    config = tree.get("cfg")
    return DetectronFile(arrays, config if isinstance(config, str) else None)


def convert(blobs: Blobs, model: nn.Module, config: ModelConfig, where: str) -> tuple[dict[str, Tensor], Report]:
    """The state dict of ``model``, which was built from ``config``, from Detectron's blobs.

    A file without any blob of a head is a backbone: the other tensors keep the values of ``model``, and so do non-local blocks,
    which Detectron had not. Raises `UserError` where blobs are missing or of another shape; it names them.
    """
    blocks = [name for tensors in missing_blocks(model, {}).values() for name in tensors]
    rules = _rules(config)
    # A blob may be of float16, or memory-mapped.
    theirs = {name: torch.from_numpy(np.array(blob, dtype=np.float32)) for name, blob in blobs.items() if blob.dtype.kind in "fiu"}
    collected = collect(
        (name for name in model.state_dict() if name not in blocks),
        theirs,
        lambda name: _blobs_of(name, rules, config),
        lambda value, module: arrange(value, module, config),
        _implied,
    )
    missing = collected.missing
    # RPN alone on C4 was saved without the backbone's last stage, which it does not run.
    excused = {name for name in missing if isinstance(config, ProposerConfig) and name.startswith("backbone.layer4.")}
    if all(map(_is_backbone, collected.matched)) and not any(map(_is_backbone, missing.keys() - excused)):
        excused = set(missing)
    trained = {name for name in blobs if f"{name}_momentum" in blobs}
    state, report = finish(model, collected, blobs, where, lambda name: _harmless(name, blobs[name], trained), excused)
    report.initialised += blocks
    return state, report


def count_classes(blobs: Blobs, config: ModelConfig) -> int | None:
    """The number of classes of the blobs, without background; None where no output has classes (RPN alone, a backbone)."""
    if isinstance(config, RetinaNetConfig) and "retnet_cls_pred_fpn3_b" in blobs:
        return blobs["retnet_cls_pred_fpn3_b"].size // (len(config.head.anchor_sizes[0]) * len(config.head.anchor_ratios))
    if isinstance(config, RFCNConfig) and "conv_cls_b" in blobs:
        return blobs["conv_cls_b"].size // config.grid**2 - 1
    return blobs["cls_score_b"].size - 1 if "cls_score_b" in blobs else None


def with_mask_head(model: ModelConfig, blobs: Blobs) -> ModelConfig:
    """The configuration with the mask head of Learning to Segment Every Thing where the blobs are one's, else as it is.

    That program added to Detectron's keys others that say so, and its blobs tell the same: the first layer of the transfer function
    reads 1,024 numbers of a class (``cls``), 4,096 (``box``) or both; a head for all classes has one output.
    """
    head = getattr(model, "mask_head", None)
    if not isinstance(model, RCNNConfig) or not isinstance(head, ConvMaskHeadConfig):
        return model
    layers = [f"bbox2mask_mlp_l{number}_w" for number in (1, 2)] + ["mask_fcn_logits_w_flat_w"]
    layers = [name for name in layers if name in blobs]
    shapes = {name: blob.shape for name, blob in blobs.items()}
    agnostic = "mask_fcn_logits_w" in blobs and shapes["mask_fcn_logits_w"][0] == 1
    if not layers and not agnostic:
        return model
    width = shapes["cls_score_w"][1] if "cls_score_w" in blobs else 1024
    inputs = None if not layers else {width: "cls", 4 * width: "box"}.get(shapes[layers[0]][-1], "cls+box")
    settings = {name: getattr(head, name) for name in type(head).model_fields}
    settings |= {"inputs": inputs, "layers": max(1, len(layers)), "mlp_branch": "mask_mlp_logits_raw_w" in blobs}
    return model.model_copy(update={"mask_head": MaskXHeadConfig(**settings)})


def arrange(value: Tensor, module: str, config: ModelConfig) -> Tensor:
    """A blob's values, weight or bias, in our order; the same tensor where Detectron's order is ours."""
    if module in ("backbone.conv1", "backbone.conv1.conv", "backbone.conv1.0") and value.dim() == 4:
        return value.flip(1)
    if isinstance(config, RetinaNetConfig) and module in ("class_logits", "box_deltas"):
        octaves, ratios = len(config.head.anchor_sizes[0]), len(config.head.anchor_ratios)
        return ratio_by_ratio(value, octaves, ratios)
    if isinstance(config, RFCNConfig) and module in ("class_maps", "box_maps"):
        background = config.grid**2 * (1 if module == "class_maps" else 4)
    elif module == "mask_logits" and _is_agnostic(config):
        return value
    elif module in ("class_logits", "mask_logits", "box_deltas"):
        background = 4 if module == "box_deltas" else 1
    else:
        return value
    first, others = value[:background], value[background:]
    return torch.cat([others, first]) if module.startswith("class_") else others


# ------------------------------------------------------------------------------------------------------------ internals


def _is_agnostic(config: ModelConfig) -> bool:
    """Whether all classes have one mask, so that background has none to leave out."""
    head = getattr(config, "mask_head", None)
    return isinstance(head, MaskXHeadConfig) and head.inputs is None


def _is_backbone(name: str) -> bool:
    return name.startswith(("backbone.", "mask_tail.", "keypoint_tail."))


def _harmless(name: str, blob: np.ndarray[Any, Any], trained: Collection[str]) -> str | None:
    """Why a blob may be unused. Detectron saved also the blobs of the file that it began with and did not train; ``trained`` are
    those with a momentum."""
    for pattern, reason in HARMLESS:
        if re.fullmatch(pattern, name):
            return reason
    if name.endswith("_b") and not blob.any():
        return "a bias of zeros"
    return "of an earlier network, not trained" if trained and name not in trained else None


def _implied(name: str) -> float | None:
    """The values of a norm that Detectron did not save: a mean of 0, and a variance of 1 minus the epsilon that is added to it, so
    that the scale is exactly the blob's."""
    return {"running_mean": 0.0, "running_var": 1 - 1e-5, "num_batches_tracked": 0.0}.get(name.rpartition(".")[2])


def _blobs_of(name: str, rules: Rules, config: ModelConfig) -> list[str]:
    """Detectron's possible names of our tensor ``name``; the first that the file has is used."""
    if _implied(name) is not None:
        return []
    module, part, leaf = split_name(name)
    base = their_name(module, rules, f"{config.title}: Detectron")
    if part == "norm":
        group_norm = f"{base}_gn_{'s' if leaf == 'weight' else 'b'}"
        # Only the norm of the stem is named by another rule.
        affine = f"{'res_conv1' if base == 'conv1' else base}_bn_{'s' if leaf == 'weight' else 'b'}"
        names = [affine, group_norm]
    else:
        names = [f"{base}_{'w' if leaf == 'weight' else 'b'}"]
    return [name for name in names for name in (name, name.rpartition("]_")[2])]


def _rules(config: ModelConfig) -> Rules:
    """Patterns of our modules, and Detectron's names of them."""
    assert isinstance(config, RCNNConfig | RetinaNetConfig | ProposerConfig | RFCNConfig)
    backbone, has_pyramid = config.backbone, not isinstance(config, RFCNConfig) and config.fpn is not None
    taps: list[str] = []
    if has_pyramid and isinstance(backbone, ResNetConfig):
        taps = [f"res{stage}_{blocks - 1}_sum" for stage, blocks in enumerate(BLOCKS[backbone.depth], start=2)]
        taps = taps[1:] if isinstance(config, RetinaNetConfig) else taps
    level = "_fpn2" if has_pyramid else ""
    one_stage = isinstance(config, RetinaNetConfig)
    masks = "_mask_fcn" if getattr(getattr(config, "mask_head", None), "norm", None) == "gn" else "_[mask]_fcn"
    return (
        *_backbone_rules(),
        (r"fpn\.inner\.(\d)", lambda m: f"fpn_inner_{taps[int(m[1])]}" + ("" if int(m[1]) == len(taps) - 1 else "_lateral")),
        (r"fpn\.outer\.(\d)", lambda m: f"fpn_{taps[int(m[1])]}"),
        (r"fpn\.p(\d)", lambda m: f"fpn_{m[1]}"),
        (r"rpn\.convs\.0", lambda m: f"conv_rpn{level}"),
        (r"rpn\.objectness", lambda m: f"rpn_cls_logits{level}"),
        (r"rpn\.deltas", lambda m: f"rpn_bbox_pred{level}"),
        (r"(class|box)_tower\.(\d)", lambda m: f"retnet_{ {'class': 'cls', 'box': 'bbox'}[m[1]] }_conv_n{m[2]}_fpn3"),
        (r"box_head\.(fc[67])", lambda m: m[1]),
        (r"box_head\.fc", lambda m: "fc6"),
        (r"box_head\.convs\.(\d)", lambda m: f"head_conv{int(m[1]) + 1}"),
        (r"class_logits", lambda m: "retnet_cls_pred_fpn3" if one_stage else "cls_score"),
        (r"box_deltas", lambda m: "retnet_bbox_pred_fpn3" if one_stage else "bbox_pred"),
        (r"mask_head\.convs\.(\d)", lambda m: f"{masks}{int(m[1]) + 1}"),
        (r"mask_head\.deconv", lambda m: "conv5_mask"),
        (r"mask_logits", lambda m: "mask_fcn_logits"),
        (r"mask_transfer\.layers\.(\d)", lambda m: _transfer_layer(int(m[1]), config)),
        (r"mask_mlp", lambda m: "mask_mlp_logits_raw"),
        (r"keypoint_head\.convs\.(\d)", lambda m: f"conv_fcn{int(m[1]) + 1}"),
        (r"keypoint_logits", lambda m: "kps_score_lowres"),
        (r"dense_pose_head\.convs\.(\d)", lambda m: f"body_conv_fcn{int(m[1]) + 1}"),
        (r"dense_pose_maps\.layers\.(\w+)", lambda m: f"{DENSE_POSE.get(m[1], m[1])}_lowres"),
        (r"reduce", lambda m: "conv_dim_reduce"),
        (r"class_maps", lambda m: "conv_cls"),
        (r"box_maps", lambda m: "conv_bbox_pred"),
    )


def _transfer_layer(index: int, config: ModelConfig) -> str:
    """The blob of a layer of Mask^X's transfer function; the last is named after the kernels that it predicts."""
    head = getattr(config, "mask_head", None)
    assert isinstance(head, MaskXHeadConfig)
    return "mask_fcn_logits_w_flat" if index == head.layers - 1 else f"bbox2mask_mlp_l{index + 1}"


def _backbone_rules() -> Rules:
    tails = {"mask": "_[mask]_", "keypoint": "_[pose]_"}
    return (
        (r"backbone\.conv1", lambda m: "conv1"),
        (r"backbone\.layer(\d)\.(\d+)\.conv(\d)", lambda m: f"res{int(m[1]) + 1}_{m[2]}_branch2{'abc'[int(m[3]) - 1]}"),
        (r"backbone\.layer(\d)\.(\d+)\.downsample", lambda m: f"res{int(m[1]) + 1}_{m[2]}_branch1"),
        (r"(mask|keypoint)_tail\.(\d+)\.conv(\d)", lambda m: f"{tails[m[1]]}res5_{m[2]}_branch2{'abc'[int(m[3]) - 1]}"),
        (r"(mask|keypoint)_tail\.(\d+)\.downsample", lambda m: f"{tails[m[1]]}res5_{m[2]}_branch1"),
        (r"backbone\.conv(\d)\.(\d)", lambda m: f"conv{m[1]}_{int(m[2]) + 1}"),
        (r"backbone\.conv(\d)", lambda m: f"conv{m[1]}"),
        (r"backbone\.(fc[67])", lambda m: m[1]),
    )
