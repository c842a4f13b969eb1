"""Checks before training: a precision that the device has, and data that the model can learn from."""

from __future__ import annotations

import logging

import torch

from boxwood.data.dataset import Dataset
from boxwood.data.mixture import MixtureDataset
from boxwood.errors import UserError
from boxwood.models.detector import ModelConfig

logger = logging.getLogger(__name__)

__all__ = ["check_data", "check_precision"]


def check_precision(precision: str, device: torch.device) -> None:
    """Raise `UserError` where ``device`` cannot train in ``precision``; warn where it can but slowly."""
    if precision == "fp32":
        return
    if precision == "fp16" and device.type != "cuda":
        raise UserError(f"train.precision=fp16: needs a CUDA GPU, not {device.type}; choose fp32 or bf16")
    if precision == "bf16" and device.type == "mps":
        raise UserError("train.precision=bf16: needs a CUDA GPU or a CPU, not mps; choose fp32")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError(f"train.precision=bf16: {torch.cuda.get_device_name(device)} lacks it; choose fp16 or fp32")
    if device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        logger.warning("train.precision=bf16: this CPU has no bf16 instructions and is several times slower than with fp32")


def check_data(model: ModelConfig, dataset: Dataset, key: str) -> None:
    """Raise `UserError` where the data set under ``key`` lacks data that the model needs."""
    if isinstance(dataset, MixtureDataset):
        for number, part in enumerate(dataset.parts):
            check_data(model, part, f"{key}.parts.{number}")
        return
    needs = model.needs()
    if "keypoints" in needs and dataset.categories.keypoints is None:
        raise UserError(
            f"{key}: has no keypoints, which a keypoint head needs; take a recipe without one, such as "
            "faster_rcnn_mobilenetv2_fpn or faster_rcnn_r50_fpn_1x, or set model.keypoint_head=null"
        )
    if not needs or not len(dataset):
        return
    sample = dataset[0]
    if "masks" in needs and "masks" not in sample.fields:
        raise UserError(
            f"{key}: has no masks, which a mask head needs; take a recipe without one, such as "
            "faster_rcnn_mobilenetv2_fpn or faster_rcnn_r50_fpn_1x, or set model.mask_head=null"
        )
    if "proposals" in needs and "proposals" not in sample.image_fields:
        raise UserError(
            f"{key}: has no proposals, and this detector has no RPN to make them; set {key}.proposals to a file of them (boxwood "
            "eval of an RPN writes one), or take a recipe with an RPN, such as faster_rcnn_mobilenetv2_fpn"
        )
    if missing := sorted(needs - sample.fields.keys() - sample.image_fields.keys()):
        raise UserError(
            f"{key}: its samples lack the field {', '.join(map(repr, missing))}, which {model.title} needs; add it to the "
            "data set's samples (Sample.fields), or choose another recipe"
        )
