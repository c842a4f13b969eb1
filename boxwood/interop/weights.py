"""Imports weights of other programs, with a configuration and classes. No code in the files is run, and a report lists the origin
of every tensor.

file -> its arrays -> (names and order of Detectron, detectron2, torchvision or Caffe -> Boxwood's) -> SavedWeights, Report
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from boxwood import safe_pickle
from boxwood.data import CocoConfig, DataConfig, ResizeShortestEdge
from boxwood.data.known_classes import COCO, published_categories
from boxwood.errors import UserError
from boxwood.interop import caffe, detectron, detectron2, torchvision
from boxwood.interop.detectron_config.pickled import from_embedded
from boxwood.interop.state_dict import Report
from boxwood.models.config import ModelConfig, RetinaNetConfig, RFCNConfig, without_pretrained
from boxwood.models.inference_config import TestConfig
from boxwood.run_config import RunConfig
from boxwood.structures import Categories
from boxwood.weights.file import SavedWeights

__all__ = ["Imported", "Source", "import_weights", "read_pth", "read_tensors"]

Source = Literal["detectron", "detectron2", "torchvision", "caffe"]

MAX_UNPACKED = 16_000_000_000
"""Bytes that a ``.pth`` file, which is a zip archive, may unpack to."""


@dataclass(frozen=True)
class Imported:
    """Weights in Boxwood's form, and the origin of every tensor."""

    saved: SavedWeights
    report: Report
    notes: tuple[str, ...] = ()
    """Keys of the configuration in the file that were changed or left out."""


def import_weights(path: Path, source: Source, config: RunConfig | None = None, categories: Categories | None = None) -> Imported:
    """Read a file of weights that the program ``source`` wrote.

    ``config`` is the configuration of the network; Detectron's files hold it, and torchvision's networks are recognised.
    ``categories`` are the classes; COCO's and VOC's are recognised by their number. Raises `UserError` where the file cannot be
    read, contains code, or does not fit the configuration.
    """
    if source == "detectron":
        return _from_detectron(path, detectron.read_detectron(path), config, categories)
    if source == "caffe":
        return _from_detectron(path, detectron.DetectronFile(caffe.read_caffemodel(path), None), config, categories)
    state = read_tensors(path)
    if source == "detectron2":
        if config is None:
            raise UserError(f"{path}: detectron2's weights hold no configuration; name one with --model")
        config = config.model_copy(deep=True)
        config.model = detectron2.with_conventions(config.model, state, str(path))
        categories = categories or published_categories(_classes(state, config.model, str(path)), str(path))
        model = _built(config.model, categories)
        return _imported(config, categories, *detectron2.convert(state, model, config.model, str(path)))
    recognized = torchvision.recognized(state, str(path))
    config = _coco(recognized) if config is None else config.model_copy(deep=True)
    config.model = recognized
    # The weights published first were trained without an epsilon in the variances of frozen norms.
    first = "_coco-" in path.name and "_v2_" not in path.name
    state, categories = _known_classes(state, categories, str(path))
    model = _built(recognized, categories)
    return _imported(config, categories, *torchvision.convert(state, model, recognized, str(path), eps=0.0 if first else 1e-5))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors, by name, of a ``.pth`` or ``.pt`` file, or of a ``.pkl`` of plain data; of a checkpoint those below the key
    ``model``, ``state_dict`` or ``blobs``. Raises `UserError` where it cannot be read, holds no tensors, or contains code."""
    tree = safe_pickle.read(path) if path.suffix == ".pkl" else read_pth(path)
    for key in ("model", "state_dict", "blobs"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            tree = tree[key]
    values = {name: _tensor(value) for name, value in tree.items()} if isinstance(tree, dict) else {}
    tensors = {str(name): value for name, value in values.items() if value is not None}
    if not tensors:
        raise UserError(f"{path}: holds no tensors by name; name a file of weights")
    return tensors


def read_pth(path: Path) -> Any:
    """The contents of a file of ``torch.save``: only tensors and plain values, on the CPU; reading runs no code.

    Raises `UserError` where the file cannot be read, holds anything else, or unpacks to far more bytes than its size.
    """
    try:
        unpacked = 0
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked <= min(MAX_UNPACKED, 4 * path.stat().st_size + 1_000_000):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); name an existing file") from None
    except pickle.UnpicklingError:
        raise UserError(f"{path}: refused: it holds more than tensors and plain values; save only a state dict") from None
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: is cut short or damaged ({' '.join(str(error).split())[:100]}); copy it again") from None
    raise UserError(f"{path}: refused: it unpacks to far more bytes than its size, which weights do not")


# ------------------------------------------------------------------------------------------------------------ internals


def _from_detectron(path: Path, file: detectron.DetectronFile, config: RunConfig | None, categories: Categories | None) -> Imported:
    where = str(path)
    notes: tuple[str, ...] = ()
    if config is None:
        if file.config is None:
            raise UserError(f"{path}: is an ImageNet backbone without a configuration; name one with --model")
        converted = from_embedded(file.config, f"{path}: cfg")
        config, notes = converted.config, tuple(map(str, converted.notes))
    config = config.model_copy(deep=True)
    config.model = without_pretrained(config.model)
    if categories is None:
        count = detectron.count_classes(file.blobs, config.model)
        categories = COCO if count is None else published_categories(count, where)
    model = _built(config.model, categories)
    state, report = detectron.convert(file.blobs, model, config.model, where)
    return Imported(SavedWeights(state, config, categories), report, notes)


def _imported(config: RunConfig, categories: Categories, state: dict[str, Tensor], report: Report) -> Imported:
    return Imported(SavedWeights(state, config, categories), report)


def _built(config: ModelConfig, categories: Categories) -> nn.Module:
    return without_pretrained(config).build(categories, TestConfig())


def _classes(state: Mapping[str, Tensor], config: ModelConfig, where: str) -> int:
    """The number of classes of detectron2's weights."""
    if isinstance(config, RetinaNetConfig) and "head.cls_score.bias" in state:
        return len(state["head.cls_score.bias"]) // (len(config.head.anchor_sizes[0]) * len(config.head.anchor_ratios))
    if "roi_heads.box_predictor.cls_score.bias" in state:
        return len(state["roi_heads.box_predictor.cls_score.bias"]) - 1
    if isinstance(config, RetinaNetConfig | RFCNConfig) or config.class_agnostic is False:
        raise UserError(f"{where}: has no class logits under detectron2's name; use weights of {config.title}")
    return len(COCO)


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


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value))
    return value.detach() if isinstance(value, Tensor) else None
