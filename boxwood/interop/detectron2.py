"""detectron2's weights (``.pkl`` of its zoo, ``.pth`` of its checkpoints) under our names, and the settings that they require.

R-CNN with FPN or C4, RPN and RetinaNet are supported, with frozen batch norm or group norm. The differences:

* in detectron2 the anchors of a cell are ordered by size, then ratio; here by ratio, then size;
* detectron2's images are BGR, so the input channels of the first convolution are reversed.

Background is the last class in detectron2 too, and has no boxes and no masks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.interop.state_dict import Report, Rules, collect, finish, ratio_by_ratio, split_name, their_name
from boxwood.models.backbones import ResNetConfig
from boxwood.models.config import AnchorsConfig, ModelConfig, ProposerConfig, RCNNConfig, RetinaNetConfig

__all__ = ["convert", "with_conventions"]


def with_conventions(model: ModelConfig, state: Mapping[str, Tensor], where: str) -> ModelConfig:
    """A copy of the configuration with the settings that detectron2's weights were trained with: aligned RoIAlign with as many
    sampling points as a cell has map pixels, detectron2's pixel means and deviations, its anchors, and the stride of the backbone
    (MSRA's ResNets have it in the 1x1 convolution, the others in the 3x3).

    Raises `UserError` for an architecture that detectron2 does not have.
    """
    if not isinstance(model, RCNNConfig | RetinaNetConfig | ProposerConfig) or not isinstance(model.backbone, ResNetConfig):
        raise UserError(f"{where}: detectron2 has nothing like {model.title}; use a recipe of R-CNN, RPN or RetinaNet on a ResNet")
    changed = model.model_copy(deep=True)
    assert isinstance(changed, RCNNConfig | RetinaNetConfig | ProposerConfig) and isinstance(changed.backbone, ResNetConfig)
    msra = changed.backbone.groups == 1 and changed.backbone.norm == "frozen_bn"
    changed.backbone.stride_in = "1x1" if msra else "3x3"
    changed.backbone.weights = None
    changed.geometry = "continuous"
    changed.pixel_mean, changed.pixel_std = (123.675, 116.28, 103.53), (1.0, 1.0, 1.0)
    if changed.backbone.groups > 1:
        changed.pixel_std = (58.395, 57.12, 57.375)
    for key in ("pixel_mean", "pixel_std"):
        if key in state:
            blue, green, red = (round(float(value), 6) for value in state[key].flatten())
            setattr(changed, key, (red, green, blue))
    if isinstance(changed, RCNNConfig):
        changed.rois.aligned, changed.rois.sampling_ratio = True, 0
    if changed.fpn is None:
        changed.size_divisor = 1
    anchors = _anchors(changed)
    if anchors is not None:
        anchors.rounded_anchors, anchors.anchor_offset = False, 0.0
    return changed


def convert(state: Mapping[str, Tensor], model: nn.Module, config: ModelConfig, where: str) -> tuple[dict[str, Tensor], Report]:
    """The state dict of ``model``, which was built from ``config``, from detectron2's.

    Raises `UserError` for a Cascade R-CNN, and where tensors are missing or of another shape; it names them.
    """
    if any(re.match(r"roi_heads\.box_(head|predictor)\.\d\.", name) for name in state):
        raise UserError(f"{where}: is a Cascade R-CNN, which Boxwood does not have; use another model")
    rules = _rules(config)

    def candidates(name: str) -> list[str]:
        module, part, leaf = split_name(name)
        theirs = their_name(module, rules, f"{config.title}: detectron2")
        return [f"{theirs}.norm.{leaf}" if part == "norm" else f"{theirs}.{leaf}"]

    collected = collect(
        model.state_dict(),
        state,
        candidates,
        lambda value, module: _arrange(value, module, config),
        lambda name: 0.0 if name.endswith(".num_batches_tracked") else None,
    )
    # RPN alone on C4 does not run the backbone's last stage, so it was saved without.
    excused = {name for name in collected.missing if isinstance(config, ProposerConfig) and name.startswith("backbone.layer4.")}
    return finish(model, collected, state, where, excused)


# ------------------------------------------------------------------------------------------------------------ internals


def _arrange(value: Tensor, module: str, config: ModelConfig) -> Tensor:
    """Values in our order of colour channels and anchors; the same tensor where detectron2's order is ours."""
    if module == "backbone.conv1.conv":
        return value.flip(1)
    anchors = _anchors(config)
    of_anchors = ("rpn.objectness", "rpn.deltas") if not isinstance(config, RetinaNetConfig) else ("class_logits", "box_deltas")
    if anchors is None or module not in of_anchors or len(anchors.anchor_sizes[0]) == 1:
        return value
    sizes, ratios = len(anchors.anchor_sizes[0]), len(anchors.anchor_ratios)
    return ratio_by_ratio(value, sizes, ratios)


def _anchors(config: ModelConfig) -> AnchorsConfig | None:
    return config.head if isinstance(config, RetinaNetConfig) else getattr(config, "rpn", None)


def _rules(config: ModelConfig) -> Rules:
    assert isinstance(config, RCNNConfig | RetinaNetConfig | ProposerConfig)
    backbone = "backbone." if config.fpn is None else "backbone.bottom_up."
    finest = 3 if isinstance(config, RetinaNetConfig) else 2
    box, mask, keypoint = "roi_heads.box_head", "roi_heads.mask_head", "roi_heads.keypoint_head"
    one_stage = isinstance(config, RetinaNetConfig)
    predictor = "head" if one_stage else "roi_heads.box_predictor"

    def stage(layer: str) -> str:
        return "roi_heads.res5" if layer == "4" and config.fpn is None else f"{backbone}res{int(layer) + 1}"

    return (
        (r"backbone\.conv1", lambda m: f"{backbone}stem.conv1"),
        (r"backbone\.layer(\d)\.(\d+)\.downsample", lambda m: f"{stage(m[1])}.{m[2]}.shortcut"),
        (r"backbone\.layer(\d)\.(\d+)\.(conv\d)", lambda m: f"{stage(m[1])}.{m[2]}.{m[3]}"),
        (r"fpn\.inner\.(\d)", lambda m: f"backbone.fpn_lateral{int(m[1]) + finest}"),
        (r"fpn\.outer\.(\d)", lambda m: f"backbone.fpn_output{int(m[1]) + finest}"),
        (r"fpn\.(p\d)", lambda m: f"backbone.top_block.{m[1]}"),
        (r"rpn\.convs\.0", lambda m: "proposal_generator.rpn_head.conv"),
        (r"rpn\.objectness", lambda m: "proposal_generator.rpn_head.objectness_logits"),
        (r"rpn\.deltas", lambda m: "proposal_generator.rpn_head.anchor_deltas"),
        (r"class_tower\.(\d)", lambda m: f"head.cls_subnet.{2 * int(m[1])}"),
        (r"box_tower\.(\d)", lambda m: f"head.bbox_subnet.{2 * int(m[1])}"),
        (r"box_head\.fc([67])", lambda m: f"{box}.fc{int(m[1]) - 5}"),
        (r"box_head\.fc", lambda m: f"{box}.fc1"),
        (r"box_head\.convs\.(\d)", lambda m: f"{box}.conv{int(m[1]) + 1}"),
        (r"class_logits", lambda m: f"{predictor}.cls_score"),
        (r"box_deltas", lambda m: f"{predictor}.bbox_pred"),
        (r"mask_head\.convs\.(\d)", lambda m: f"{mask}.mask_fcn{int(m[1]) + 1}"),
        (r"mask_head\.deconv", lambda m: f"{mask}.deconv"),
        (r"mask_logits", lambda m: f"{mask}.predictor"),
        (r"keypoint_head\.convs\.(\d)", lambda m: f"{keypoint}.conv_fcn{int(m[1]) + 1}"),
        (r"keypoint_logits", lambda m: f"{keypoint}.score_lowres"),
    )
