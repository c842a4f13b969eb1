"""Imports weights of other programs, with a configuration and classes. No code in the files is run, and a report lists the origin
of every tensor.

file -> its arrays -> (names and order of Detectron, detectron2, torchvision or Caffe -> Boxwood's) -> SavedWeights, Report
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from boxwood import safe_pickle
from boxwood.config import apply_overrides
from boxwood.data import CocoConfig, DataConfig, ResizeShortestEdge
from boxwood.data.known_classes import COCO, published_categories
from boxwood.errors import UserError
from boxwood.interop import caffe, dense_pose, detectron, detectron2, torchvision
from boxwood.interop.detectron2_config import find_config, read_config
from boxwood.interop.detectron_config.pickled import from_embedded
from boxwood.interop.foreign import errors_of_file
from boxwood.interop.network_settings import UNKNOWN_FROM_STATE, differing_settings, settings_of
from boxwood.interop.state_dict import Report
from boxwood.models.config import ModelConfig, without_pretrained
from boxwood.models.inference_config import TestConfig
from boxwood.run_config import RunConfig
from boxwood.structures import Categories
from boxwood.weights.file import SavedWeights
from boxwood.weights.torch_file import read_torch_file

__all__ = ["Imported", "Source", "import_weights", "read_tensors"]

Source = Literal["detectron", "detectron2", "torchvision", "caffe"]


@dataclass(frozen=True)
class Imported:
    """Weights in Boxwood's form, and the origin of every tensor."""

    saved: SavedWeights
    report: Report
    notes: tuple[str, ...] = ()
    """Keys of the other program's configuration that were changed or left out, and settings that differ from it."""


def import_weights(
    path: Path,
    source: Source,
    config: RunConfig | None = None,
    categories: Categories | None = None,
    *,
    detectron2_config: Path | None = None,
    overrides: Sequence[str] = (),
) -> Imported:
    """Read a file of weights that the program ``source`` wrote.

    ``config`` is the configuration of the network, which is taken as it is, and a note names its settings that differ from the
    other program's. Without one, Detectron's files hold it, detectron2's is in ``detectron2_config`` or the ``config.yaml`` beside
    the weights, torchvision's networks are recognised; ``overrides`` (``model.rois.aligned=true``) are applied to it.
    ``categories`` are the classes; COCO's and VOC's are recognised by their number. Raises `UserError` where a file cannot be read,
    contains code, or does not fit the configuration.
    """
    if detectron2_config is not None and (source != "detectron2" or config is not None):
        reason = "--model names the network already" if source == "detectron2" else f"--from {source} reads no config.yaml"
        raise UserError(f"{detectron2_config}: {reason}; leave --config out")
    if source == "detectron":
        file = detectron.read_detectron(path)
        return _from_detectron(path, file, config, categories, overrides)
    if source == "caffe":
        with errors_of_file(path):
            file = detectron.DetectronFile(caffe.read_caffemodel(path), None)
        return _from_detectron(path, file, config, categories, overrides)
    if source == "detectron2":
        return _from_detectron2(path, detectron2_config, config, categories, overrides)
    return _from_torchvision(path, config, categories, overrides)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors, by name, of a ``.pth`` or ``.pt`` file, or of a ``.pkl`` of plain data; of a checkpoint those below the key
    ``model``, ``state_dict`` or ``blobs``. Raises `UserError` where it cannot be read, holds no tensors, or contains code."""
    tree = safe_pickle.read(path) if path.suffix == ".pkl" else read_torch_file(path)
    for key in ("model", "state_dict", "blobs"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    values = {name: _tensor(name, value, str(path)) for name, value in tree.items()} if isinstance(tree, dict) else {}
    tensors = {str(name): value for name, value in values.items() if value is not None}
    if not tensors:
        raise UserError(f"{path}: holds no tensors by name; name a file of weights")
    return tensors


# ------------------------------------------------------------------------------------------------------------ internals


def _from_detectron(
    path: Path, file: detectron.DetectronFile, config: RunConfig | None, categories: Categories | None, overrides: Sequence[str]
) -> Imported:
    where = str(path)
    notes: tuple[str, ...] = ()
    if config is None and (recognized := dense_pose.of_blobs(file.blobs, where)) is not None:
        config, notes = apply_overrides(recognized, overrides), (dense_pose.NOTE,)
    if config is None:
        if file.config is None:
            raise UserError(f"{path}: is an ImageNet backbone without a configuration; name one with --model")
        converted = from_embedded(file.config, f"{path}: cfg")
        converted.config.model = detectron.with_mask_head(converted.config.model, file.blobs)
        config, notes = apply_overrides(converted.config, overrides), tuple(map(str, converted.notes))
    if categories is None:
        count = detectron.count_classes(file.blobs, config.model)
        categories = COCO if count is None else published_categories(count, where)

    def convert(model: nn.Module, config: ModelConfig) -> tuple[dict[str, Tensor], Report]:
        return detectron.convert(file.blobs, model, config, where)

    return _imported(config, categories, notes, convert)


def _from_detectron2(
    path: Path, config_file: Path | None, config: RunConfig | None, categories: Categories | None, overrides: Sequence[str]
) -> Imported:
    where, state = str(path), read_tensors(path)
    detectron2.check_architecture(state, where)
    beside = find_config(path)
    notes: tuple[str, ...]
    recognized = dense_pose.of_state(state, where) if config is None and config_file is None and beside is None else None
    if recognized is not None:
        config, bgr, notes = apply_overrides(recognized, overrides), True, (dense_pose.NOTE,)
        count = detectron2.count_classes(state, config.model, where)
    elif config is not None:
        bgr, notes = True, tuple(_notes_of_callers(config.model, beside))
        detectron2.check_model(config.model, where)
        notes += tuple(f"differs: {problem}" for problem in detectron2.contradictions(state, config.model, bgr))
        count = detectron2.count_classes(state, config.model, where)
    else:
        file = config_file or beside
        if file is None:
            raise UserError(
                f"{path}: detectron2's weights hold no settings (stride, means, RoIAlign, anchors); name the config.yaml that it "
                "wrote beside them with --config, or a complete configuration with --model"
            )
        read = read_config(file)
        config, bgr, notes = apply_overrides(read.config, overrides), read.bgr, (f"settings: read from {file}", *read.notes)
        if problems := detectron2.contradictions(state, read.config.model, bgr):
            raise UserError(f"{path}: {'; '.join(problems)}; name the config.yaml of these weights with --config")
        count = detectron2.count_classes(state, read.config.model, where)
        if count != read.num_classes:
            raise UserError(f"{path}: has {count} classes, and {file} {read.num_classes}; name the config.yaml of these weights")
        if categories is None and count is not None and not read.published_classes:
            raise UserError(
                f"{path}: has {count} classes, whose names detectron2 does not save; name a COCO file with --categories"
            )
    if categories is None:
        categories = COCO if count is None else published_categories(count, where)

    def convert(model: nn.Module, config: ModelConfig) -> tuple[dict[str, Tensor], Report]:
        return detectron2.convert(state, model, config, where, bgr=bgr)

    return _imported(config, categories, notes, convert)


def _from_torchvision(path: Path, config: RunConfig | None, categories: Categories | None, overrides: Sequence[str]) -> Imported:
    where, state = str(path), read_tensors(path)
    recognized = torchvision.recognized(state, where)
    notes: tuple[str, ...] = ()
    if config is None:
        config = apply_overrides(_coco(recognized), overrides)
    elif type(config.model) is not type(recognized):
        raise UserError(f"{path}: is {recognized.title}, and --model names {config.model.title}; leave --model out")
    else:
        notes = tuple(differing_settings(config.model, recognized, "torchvision's"))
    # The weights published first were trained without an epsilon in the variances of frozen norms.
    first = "_coco-" in path.name and "_v2_" not in path.name
    if first:
        notes += ("settings: frozen norms without an epsilon, as torchvision's first weights have, since the file has their name",)
    with errors_of_file(path):  # tensors of unexpected shapes
        state, categories = _known_classes(state, categories, where)

    def convert(model: nn.Module, config: ModelConfig) -> tuple[dict[str, Tensor], Report]:
        with errors_of_file(path):  # as above
            return torchvision.convert(state, model, config, where, eps=0.0 if first else 1e-5)

    return _imported(config, categories, notes, convert)


def _imported(
    config: RunConfig,
    categories: Categories,
    notes: tuple[str, ...],
    convert: Callable[[nn.Module, ModelConfig], tuple[dict[str, Tensor], Report]],
) -> Imported:
    """Convert to a network without memory for its weights: those of the file are compared with it before any is made."""
    config = config.model_copy(deep=True)
    config.model = without_pretrained(config.model)
    with torch.device("meta"):
        model = config.model.build(categories, TestConfig())
    assert isinstance(model, nn.Module)
    state, report = convert(model, config.model)
    if report.initialised:
        network = config.model.build(categories, TestConfig())
        assert isinstance(network, nn.Module)
        initial = network.state_dict()
        state |= {name: initial[name] for name in report.initialised}
    return Imported(SavedWeights(state, config, categories), report, notes)


def _notes_of_callers(model: ModelConfig, beside: Path | None) -> list[str]:
    """How a configuration that the caller named differs from the ``config.yaml`` beside the weights; without one the settings that
    the weights do not tell."""
    if beside is None:
        settings = {key: value for key, value in settings_of(model).items() if key in UNKNOWN_FROM_STATE}
        stated = ", ".join(f"{key}={value}" for key, value in settings.items())
        return [
            f"settings: of --model ({stated}), and channels in the order BGR; detectron2's own are in its config.yaml (--config)"
        ]
    try:
        read = read_config(beside)
    except UserError as error:
        return [f"settings: of --model; the file beside the weights was not read ({error})"]
    rgb = (
        []
        if read.bgr
        else [f"differs: {beside} says INPUT.FORMAT RGB; the channels are taken in the order BGR (--config reads it)"]
    )
    return differing_settings(model, read.config.model, f"{beside}'s") + rgb


def _known_classes(state: dict[str, Tensor], categories: Categories | None, where: str) -> tuple[dict[str, Tensor], Categories]:
    """The state dict and its classes; COCO's without the outputs for the ten unused category ids, which torchvision has.

    Where scores are a softmax, the other classes share the scores of the removed ones, which are close to 0.
    """
    retinanet = "head.classification_head.cls_logits.bias" in state
    per_cell = len(state["head.regression_head.bbox_reg.bias"]) // 4 if retinanet else 1
    logits = "head.classification_head.cls_logits." if retinanet else "roi_heads.box_predictor.cls_score."
    count = len(state[f"{logits}bias"]) // per_cell
    if categories is not None or count != 91:
        return state, categories or published_categories(count - 1, where)
    used_ids = torch.tensor([0, *COCO.ids])
    reduced = dict(state)
    per_class = {logits: per_cell, "roi_heads.box_predictor.bbox_pred.": 1, "roi_heads.mask_predictor.mask_fcn_logits.": 1}
    for prefix, cells in per_class.items():
        for name, value in state.items():
            if name.startswith(prefix):
                reduced[name] = value.reshape(cells, 91, -1, *value.shape[1:])[:, used_ids].flatten(0, 2)
    return reduced, COCO


def _coco(model: ModelConfig) -> RunConfig:
    """A configuration with COCO 2017 as data, resized as in torchvision."""
    resize, folder = (ResizeShortestEdge(short=(800,), long=1333, antialias=False),), "data/coco"
    sets = {
        part: CocoConfig(
            annotations=f"{folder}/annotations/instances_{part}2017.json", images=f"{folder}/{part}2017", transforms=resize
        )
        for part in ("train", "val")
    }
    return RunConfig(model=model, data=DataConfig(train=sets["train"], val=sets["val"]))


def _tensor(name: str, value: Any, where: str) -> Tensor | None:
    """A tensor of the file; None for another value. Raises `UserError` for a tensor that does not hold all its numbers."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor):
        return None
    dense = value.layout == torch.strided and not value.is_quantized and not value.is_meta and not value.is_complex()
    if not dense or value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise UserError(
            f"{where}: {name!r:.100} is not an ordinary tensor with all its numbers, as weights are; save the state dict again"
        )
    return value.detach()
