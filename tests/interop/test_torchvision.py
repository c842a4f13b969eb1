"""torchvision's tensors under our names: all are used, and background is last."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

from boxwood.interop.torchvision import rcnn_config, rcnn_state
from boxwood.models.inference_config import TestConfig
from boxwood.structures import Categories

CLASSES = Categories(tuple(range(1, 5)), tuple(f"class{i}" for i in range(1, 5)))


@pytest.mark.parametrize("masks", [False, True])
def test_every_tensor_is_renamed(masks: bool) -> None:
    build: Any = maskrcnn_resnet50_fpn if masks else fasterrcnn_resnet50_fpn
    with torch.device("meta"):
        theirs = build(weights=None, weights_backbone=None, num_classes=5).state_dict()
        ours = rcnn_config(masks=masks).build(CLASSES, TestConfig()).state_dict()
        renamed = rcnn_state(theirs)
    shapes = {name: value.shape for name, value in renamed.items() if not name.endswith("num_batches_tracked")}
    assert shapes == {name: value.shape for name, value in ours.items()}
    assert len(renamed) == len(theirs)


def test_background_is_the_last_logit_and_has_no_boxes_and_no_masks() -> None:
    rows = torch.arange(3.0)  # background, and two classes
    state = {
        "roi_heads.box_predictor.cls_score.bias": rows,
        "roi_heads.box_predictor.bbox_pred.bias": rows.repeat_interleave(4),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": rows,
    }
    ours = {name: value.tolist() for name, value in rcnn_state(state).items()}
    assert ours == {"class_logits.bias": [1, 2, 0], "box_deltas.bias": [1] * 4 + [2] * 4, "mask_logits.bias": [1, 2]}


def test_an_unknown_tensor_is_named() -> None:
    with pytest.raises(ValueError, match=r"roi_heads\.relation_head\.0\.weight"):
        rcnn_state({"roi_heads.relation_head.0.weight": torch.zeros(1)})
