"""Checks before training: settings that the device supports, and data that the model can be trained on."""

from __future__ import annotations

import logging

import torch

from boxwood.data.dataset import Dataset
from boxwood.data.mixture import MixtureDataset
from boxwood.errors import UserError
from boxwood.evaluation import choose_measure
from boxwood.models.config import ModelConfig
from boxwood.run_config import RunConfig

logger = logging.getLogger(__name__)

__all__ = ["check_data", "check_settings", "warn_without_instances"]


def check_settings(config: RunConfig, device: torch.device) -> None:
    """Raise `UserError` where settings contradict each other, or ``device`` does not support them."""
    settings = config.train
    _check_precision(settings.precision, device)
    if settings.batch_size % settings.accumulate:
        raise UserError(f"train.batch_size={settings.batch_size} is no multiple of train.accumulate={settings.accumulate}")
    choose_measure(config.evaluator, config.model.class_agnostic)


def _check_precision(precision: str, device: torch.device) -> None:
    """Warns where ``device`` trains in ``precision`` but slowly."""
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
    """Raise `UserError` where the data set at ``key`` is empty, or lacks data that the model needs."""
    if isinstance(dataset, MixtureDataset):
        for number, part in enumerate(dataset.parts):
            check_data(model, part, f"{key}.parts.{number}")
        return
    if not len(dataset):
        raise UserError(f"{key}: has no images; choose annotations that have some (keep_empty=false leaves out those without)")
    model.check_data(dataset.categories, lambda: dataset[0], key)


def warn_without_instances(val_set: Dataset) -> None:
    """Log a warning where the val set has no instance, so that no metric can select the best weights."""
    if all(annotation.get("iscrowd") for annotation in val_set.to_coco()["annotations"]):
        logger.warning(
            "data.val: has no instances, so no metric selects the best weights: the run writes no best.safetensors, and load, eval "
            "and predict use last.safetensors; choose a val set with annotations"
        )
