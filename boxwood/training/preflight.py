"""Checks before training: settings that the device supports, and data that the model can be trained on."""

from __future__ import annotations

import logging

import torch
from torch import nn

from boxwood.data.dataset import Dataset
from boxwood.data.mask_classes import describe_masks
from boxwood.data.mixture import MixtureDataset
from boxwood.distributed import world_size
from boxwood.errors import UserError
from boxwood.models.config import ModelConfig
from boxwood.run_config import RunConfig, TrainConfig
from boxwood.structures import Categories

logger = logging.getLogger(__name__)

__all__ = [
    "check_data",
    "check_measure",
    "check_settings",
    "cpu_has_bf16",
    "log_mask_classes",
    "warn_of_batch_norm",
    "warn_without_instances",
]


def check_settings(config: RunConfig, device: torch.device) -> None:
    """Raise `UserError` where settings contradict each other, or ``device`` does not support them."""
    settings = config.train
    _check_precision(settings.precision, device)
    if settings.batch_size % settings.accumulate:
        raise UserError(f"train.batch_size={settings.batch_size} is no multiple of train.accumulate={settings.accumulate}")
    if settings.sync_bn and world_size() > 1 and device.type != "cuda":
        raise UserError(f"train.sync_bn=true: torch.nn.SyncBatchNorm needs CUDA GPUs, not {device.type}; set it to false")
    if settings.parallel == "fsdp" and settings.compile and world_size() > 1:
        raise UserError(
            "train.parallel=fsdp: the network cannot be compiled with it; set train.compile=false, or train.parallel=ddp"
        )
    config.measure()


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
    if device.type == "cpu" and not cpu_has_bf16():
        logger.warning("train.precision=bf16: this CPU has no bf16 instructions and is several times slower than with fp32")


def cpu_has_bf16() -> bool:
    """Whether this CPU has instructions for bf16."""
    return torch.cpu._is_avx512_bf16_supported()


def check_data(model: ModelConfig, dataset: Dataset, key: str) -> None:
    """Raise `UserError` where the data set at ``key`` is empty, or lacks data that the model needs."""
    if isinstance(dataset, MixtureDataset):
        for number, part in enumerate(dataset.parts):
            check_data(model, part, f"{key}.parts.{number}")
        return
    if not len(dataset):
        raise UserError(f"{key}: has no images; choose annotations that have some (keep_empty=false leaves out those without)")
    model.check_data(dataset.categories, lambda: dataset[0], key)


def check_measure(config: RunConfig, categories: Categories, val_set: Dataset) -> None:
    """Raise `UserError` where the measure cannot be taken of the val set, which is better known before the training."""
    config.measure(categories=categories).build(val_set.to_coco(), val_set.categories)


def warn_of_batch_norm(model: nn.Module, settings: TrainConfig) -> None:
    """Log a warning where an update does not depend on its batch alone: batch norm normalises each process's and each pass's images
    by their own statistics."""
    modules = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    normalises = any(parameter.requires_grad for module in modules for parameter in module.parameters())
    processes = 1 if settings.sync_bn or any(isinstance(module, nn.SyncBatchNorm) for module in modules) else world_size()
    parts = processes * settings.accumulate
    if not normalises or parts == 1:
        return
    advice = "set train.sync_bn=true, or " if processes > 1 and torch.cuda.is_available() else ""
    logger.warning(
        "batch norm: an update's %d images are normalised in %d parts of %d, each by its own mean and variance, so the result is "
        "not that of one process and pass; %suse group norm (norm=gn) or frozen statistics (norm=frozen_bn)",
        *(settings.batch_size, parts, settings.batch_size // parts, advice),
    )


def log_mask_classes(model: ModelConfig, train_set: Dataset) -> None:
    """Log which classes teach masks, where the model predicts masks and the data set knows it (`Dataset`)."""
    counts = getattr(train_set, "mask_counts", None)
    if "masks" in model.task_names and counts is not None:
        logger.info("data.train: %s", describe_masks(train_set.categories, counts))


def warn_without_instances(val_set: Dataset) -> None:
    """Log a warning where the val set has no instance, so that no metric can select the best weights."""
    if all(annotation.get("iscrowd") for annotation in val_set.to_coco()["annotations"]):
        logger.warning(
            "data.val: has no instances, so no metric selects the best weights: the run writes no best.safetensors, and load, eval "
            "and predict use last.safetensors; choose a val set with annotations"
        )
