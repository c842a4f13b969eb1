"""detectron2's weights (``.pkl`` of its zoo, ``.pth`` of its checkpoints) under our names.

R-CNN with FPN, C4 or DC5, RPN and RetinaNet on ResNets are supported. The differences:

* in detectron2 the anchors of a cell are ordered by size, then ratio; here by ratio, then size;
* detectron2's images are BGR unless its configuration says RGB, so the input channels of the first convolution are reversed.

Background is the last class in detectron2 too, and has no boxes and no masks. The weights hold no settings: those are in the
``config.yaml`` that detectron2 writes beside them (`boxwood.interop.detectron2_config`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.interop.state_dict import Report, Rules, collect, finish, ratio_by_ratio, split_name, their_name
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import AnchorsConfig, ModelConfig, ProposerConfig, RCNNConfig, RetinaNetConfig

__all__ = ["check_architecture", "check_model", "contradictions", "convert", "count_classes"]

UNSUPPORTED = (
    (r"roi_heads\.box_(head|predictor)\.\d+\.", "is a Cascade R-CNN"),
    (r".*\.conv\d_offset\.", "has deformable convolutions"),
    (r"sem_seg_head\.", "has a head of semantic segmentation"),
)
"""Names of tensors, and the architectures that have them."""
HARMLESS = (
    (r"(.*\.)?pixel_(mean|std)", "a setting, compared with the configuration's"),
    (r"(.*\.)?anchor_generator\.cell_anchors\.\d+", "computed from settings, compared with the configuration's"),
    (r".*\.num_batches_tracked", "a counter of batch norm"),
)
"""Tensors that the network does not need, and why."""


def check_architecture(state: Mapping[str, Tensor], where: str) -> None:
    """Raise `UserError` for weights of an architecture that Boxwood does not have, as the names of its tensors tell."""
    for pattern, problem in UNSUPPORTED:
        name = next((name for name in state if re.match(pattern, name)), None)
        if name is not None:
            raise UserError(f"{where}: {problem} ({name}), which Boxwood does not have; use another model")


def check_model(model: ModelConfig, where: str) -> None:
    """Raise `UserError` for a configuration of an architecture that detectron2 does not have."""
    if not isinstance(model, RCNNConfig | RetinaNetConfig | ProposerConfig) or not isinstance(model.backbone, ResNetConfig):
        raise UserError(f"{where}: detectron2 has nothing like {model.title}; use a recipe of R-CNN, RPN or RetinaNet on a ResNet")


def contradictions(state: Mapping[str, Tensor], model: ModelConfig, bgr: bool) -> list[str]:
    """The settings that older versions of detectron2 saved among the weights, where the configuration differs from them."""
    problems = []
    for key, ours in (("pixel_mean", model.pixel_mean), ("pixel_std", model.pixel_std)):
        theirs = next((value for name, value in state.items() if name.rpartition(".")[2] == key), None)
        if theirs is not None:
            numbers = tuple(round(number, 4) for number in theirs.flatten()[:3].tolist()[:: -1 if bgr else 1])
            if numbers != tuple(round(number, 4) for number in ours):
                problems.append(f"{key} is {numbers} in the weights and {ours} in the configuration")
    anchors = _anchors(model)
    for level, sizes in enumerate(anchors.anchor_sizes if anchors is not None else ()):
        name = next((name for name in state if name.endswith(f"anchor_generator.cell_anchors.{level}")), None)
        if anchors is None or name is None:
            continue
        corners = torch.tensor(
            [
                (-size / ratio**0.5 / 2, -size * ratio**0.5 / 2, size / ratio**0.5 / 2, size * ratio**0.5 / 2)
                for size in sizes
                for ratio in anchors.anchor_ratios
            ]
        )
        if state[name].shape != corners.shape or not torch.allclose(state[name].float(), corners, rtol=1e-3, atol=0.01):
            problems.append(f"the anchors of level {level} in the weights differ from the configuration's, of sizes {sizes}")
    return problems


def count_classes(state: Mapping[str, Tensor], model: ModelConfig, where: str) -> int | None:
    """The number of classes of the weights; None where no output has classes (RPN alone).

    Raises `UserError` where the weights lack the output that ``model`` has.
    """
    if isinstance(model, ProposerConfig):
        return None
    one_stage = isinstance(model, RetinaNetConfig)
    bias = state.get("head.cls_score.bias" if one_stage else "roi_heads.box_predictor.cls_score.bias")
    if bias is None:
        raise UserError(f"{where}: has no class logits under detectron2's name; use weights of {model.title}")
    anchors = _anchors(model)
    outputs = bias.numel()
    return outputs // (len(anchors.anchor_sizes[0]) * len(anchors.anchor_ratios)) if one_stage and anchors else outputs - 1


def convert(
    state: Mapping[str, Tensor], model: nn.Module, config: ModelConfig, where: str, *, bgr: bool = True
) -> tuple[dict[str, Tensor], Report]:
    """The state dict of ``model``, which was built from ``config``, from detectron2's; ``bgr``: its images were BGR.

    Raises `UserError` where tensors are missing, unused or of another shape; it names them.
    """
    rules = _rules(config)

    def candidates(name: str) -> list[str]:
        module, part, leaf = split_name(name)
        if module.startswith("dense_pose_head.aspp."):
            return [_of_aspp(module, part, leaf)]
        theirs = their_name(module, rules, f"{config.title}: detectron2")
        return [f"{theirs}.norm.{leaf}" if part == "norm" else f"{theirs}.{leaf}"]

    collected = collect(
        model.state_dict(),
        state,
        candidates,
        lambda value, module: _arrange(value, module, config, bgr),
        lambda name: 0.0 if name.endswith(".num_batches_tracked") else None,
    )
    # RPN alone on C4 does not run the backbone's last stage, so it was saved without.
    excused = {name for name in collected.missing if isinstance(config, ProposerConfig) and name.startswith("backbone.layer4.")}
    return finish(model, collected, state, where, _harmless, excused)


# ------------------------------------------------------------------------------------------------------------ internals


def _harmless(name: str) -> str | None:
    return next((reason for pattern, reason in HARMLESS if re.fullmatch(pattern, name)), None)


def _arrange(value: Tensor, module: str, config: ModelConfig, bgr: bool) -> Tensor:
    """Values in our order of colour channels and anchors; the same tensor where detectron2's order is ours."""
    if module == "backbone.conv1.conv":
        return value.flip(1) if bgr else value
    anchors = _anchors(config)
    of_anchors = ("rpn.objectness", "rpn.deltas") if not isinstance(config, RetinaNetConfig) else ("class_logits", "box_deltas")
    if anchors is None or module not in of_anchors or len(anchors.anchor_sizes[0]) == 1:
        return value
    sizes, ratios = len(anchors.anchor_sizes[0]), len(anchors.anchor_ratios)
    return ratio_by_ratio(value, sizes, ratios)


def _anchors(config: ModelConfig) -> AnchorsConfig | None:
    return config.head if isinstance(config, RetinaNetConfig) else getattr(config, "rpn", None)


DENSE_POSE = {
    "coarse": "ann_index",
    "fine": "index_uv",
    "u": "u",
    "v": "v",
    "sigma": "sigma_2",
    "kappa_u": "kappa_u",
    "kappa_v": "kappa_v",
    "fine_confidence": "fine_segm_confidence",
    "coarse_confidence": "coarse_segm_confidence",
}
"""Our names of the maps of dense pose, and detectron2's of their layers."""
ASPP_BRANCHES = 4
"""Convolutions side by side in DeepLab's head, ahead of the one that reads the region's mean."""


def _of_aspp(module: str, part: str, leaf: str) -> str:
    """detectron2's name of a tensor of DeepLab's head; its branches are numbered layers."""
    aspp = "roi_heads.densepose_head.ASPP"
    if module.endswith(".project"):
        return f"{aspp}.project.0.{leaf}"
    pooled = module.endswith(".pooled")  # which has the pooling as its first layer
    branch = str(ASPP_BRANCHES) if pooled else module.rpartition(".")[2]
    return f"{aspp}.convs.{branch}.{int(part == 'norm') + int(pooled)}.{leaf}"


def _rules(config: ModelConfig) -> Rules:
    assert isinstance(config, RCNNConfig | RetinaNetConfig | ProposerConfig) and isinstance(config.backbone, ResNetConfig)
    c4 = config.backbone.last_stage == "tail"
    convs = 1 if isinstance(config, RetinaNetConfig) or config.rpn is None else config.rpn.convs
    backbone = "backbone." if config.fpn is None else "backbone.bottom_up."
    finest = 3 if isinstance(config, RetinaNetConfig) else 2
    box, mask, keypoint = "roi_heads.box_head", "roi_heads.mask_head", "roi_heads.keypoint_head"
    dense_pose = "roi_heads.densepose"
    one_stage = isinstance(config, RetinaNetConfig)
    predictor = "head" if one_stage else "roi_heads.box_predictor"

    def stage(layer: str) -> str:
        return "roi_heads.res5" if layer == "4" and c4 else f"{backbone}res{int(layer) + 1}"

    return (
        (r"backbone\.conv1", lambda m: f"{backbone}stem.conv1"),
        (r"backbone\.layer(\d)\.(\d+)\.downsample", lambda m: f"{stage(m[1])}.{m[2]}.shortcut"),
        (r"backbone\.layer(\d)\.(\d+)\.(conv\d)", lambda m: f"{stage(m[1])}.{m[2]}.{m[3]}"),
        (r"fpn\.inner\.(\d)", lambda m: f"backbone.fpn_lateral{int(m[1]) + finest}"),
        (r"fpn\.outer\.(\d)", lambda m: f"backbone.fpn_output{int(m[1]) + finest}"),
        (r"fpn\.(p\d)", lambda m: f"backbone.top_block.{m[1]}"),
        (r"rpn\.convs\.(\d+)", lambda m: f"proposal_generator.rpn_head.conv{'' if convs == 1 else f'.conv{m[1]}'}"),
        (r"rpn\.objectness", lambda m: "proposal_generator.rpn_head.objectness_logits"),
        (r"rpn\.deltas", lambda m: "proposal_generator.rpn_head.anchor_deltas"),
        (r"class_tower\.(\d+)", lambda m: f"head.cls_subnet.{2 * int(m[1])}"),
        (r"box_tower\.(\d+)", lambda m: f"head.bbox_subnet.{2 * int(m[1])}"),
        (r"box_head\.fc([67])", lambda m: f"{box}.fc{int(m[1]) - 5}"),
        (r"box_head\.fc", lambda m: f"{box}.fc1"),
        (r"box_head\.convs\.(\d+)", lambda m: f"{box}.conv{int(m[1]) + 1}"),
        (r"class_logits", lambda m: f"{predictor}.cls_score"),
        (r"box_deltas", lambda m: f"{predictor}.bbox_pred"),
        (r"mask_head\.convs\.(\d+)", lambda m: f"{mask}.mask_fcn{int(m[1]) + 1}"),
        (r"mask_head\.deconv", lambda m: f"{mask}.deconv"),
        (r"mask_logits", lambda m: f"{mask}.predictor"),
        (r"keypoint_head\.convs\.(\d+)", lambda m: f"{keypoint}.conv_fcn{int(m[1]) + 1}"),
        (r"keypoint_logits", lambda m: f"{keypoint}.score_lowres"),
        (r"dense_pose_decoder\.levels\.(\d)\.(\d)", lambda m: f"roi_heads.decoder.p{int(m[1]) + 2}.{2 * int(m[2])}"),
        (r"dense_pose_decoder\.predictor", lambda m: "roi_heads.decoder.predictor"),
        (r"dense_pose_head\.convs\.(\d+)", lambda m: f"{dense_pose}_head.body_conv_fcn{int(m[1]) + 1}"),
        (r"dense_pose_maps\.layers\.(\w+)", lambda m: f"{dense_pose}_predictor.{DENSE_POSE[m[1]]}_lowres"),
    )
