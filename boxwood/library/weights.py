"""`boxwood weights`: look into weights files, import those of other programs, change their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from boxwood.data.categories import categories_of
from boxwood.data.coco_file import read_coco_file
from boxwood.errors import UserError
from boxwood.interop import weights as other_programs
from boxwood.interop.open_weights import open_weights
from boxwood.interop.weights import Imported, Source
from boxwood.library.annotations import run_config
from boxwood.run_config import RunConfig
from boxwood.structures import Categories
from boxwood.weights import remap_classes as remap
from boxwood.weights.file import save_weights

__all__ = ["WeightsContent", "import_weights", "inspect_weights", "remap_classes"]


@dataclass(frozen=True)
class WeightsContent:
    """What a weights file holds; another program's file has tensors alone."""

    tensors: dict[str, Tensor]
    categories: Categories | None = None
    config: RunConfig | None = None


def inspect_weights(source: str | Path) -> WeightsContent:
    """The tensors, the classes and the configuration of weights: a run, a ``.safetensors`` file, a name of the zoo; of a ``.pkl``,
    ``.pth`` or ``.pt`` its tensors. Raises `UserError` where it cannot be read."""
    if (path := Path(source)).suffix in (".pkl", ".pth", ".pt"):
        return WeightsContent(other_programs.read_tensors(path))
    saved = open_weights(source).saved
    return WeightsContent(saved.state, saved.categories, saved.config)


def import_weights(
    file: str | Path,
    program: Source,
    out: str | Path,
    *,
    model: str | Path | RunConfig | None = None,
    overrides: Sequence[str] = (),
    categories: str | Path | None = None,
) -> Imported:
    """Write another program's weights as Boxwood's; returns what was written and where each tensor came from.

    ``program`` wrote the file: ``detectron``, ``detectron2``, ``torchvision`` or ``caffe``. ``model`` is the configuration of the
    network; Detectron's files hold it, and torchvision's networks are recognised. ``categories`` is a COCO file with the classes,
    where they are not COCO's or VOC's. Raises `UserError` where the file cannot be read, wants to run code, or does not fit.
    """
    out = Path(out)
    _check_out(out)
    if model is None and overrides:
        raise UserError("KEY=VALUE changes a configuration, and none is named; name one with --model")
    config = None if model is None else run_config(model, overrides)
    classes = None if categories is None else categories_of(read_coco_file(Path(categories)))
    imported = other_programs.import_weights(Path(file), program, config, classes)
    saved = imported.saved
    save_weights(out, saved.state, saved.config, saved.categories)
    return imported


def remap_classes(
    source: str | Path, annotations: str | Path, out: str | Path, take: Mapping[str, str] | None = None
) -> dict[str, str | None]:
    """Write weights for the classes of another data set, to train on from there; returns the old class of each new one.

    ``source`` is what `boxwood.load` takes, ``annotations`` a COCO file with the new classes. A class takes the outputs of the old
    one of its name, or of the one that ``take`` (new name -> old name) names; the outputs of others (None) are randomly
    initialised. Raises `UserError` where a name is unknown, or the model has no outputs per class."""
    out = Path(out)
    _check_out(out)
    saved = open_weights(source).saved
    remapped, old_names = remap.remap_classes(saved, categories_of(read_coco_file(Path(annotations))), take)
    save_weights(out, remapped.state, remapped.config, remapped.categories)
    return old_names


def _check_out(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: weights are written as .safetensors; change the ending")
