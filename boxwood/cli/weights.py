"""boxwood weights: what is in a weights file, and weights of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from boxwood.cli.arguments import imports_option, overrides_argument
from boxwood.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["weights"]

SOURCES = ("detectron", "detectron2", "torchvision", "caffe")


@click.group()
def weights() -> None:
    """Look into weights files, and import those of other programs."""


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@imports_option
def inspect(file: Path) -> None:
    """Print the tensors, the classes and the configuration that FILE holds; of a .pkl or .pth of another program its tensors."""
    from boxwood.config import to_yaml
    from boxwood.weights.file import read_weights

    if file.suffix in (".pkl", ".pth", ".pt"):
        from boxwood.interop.weights import read_tensors

        _print_tensors(read_tensors(file))
        return
    saved = read_weights(file)
    _print_tensors(saved.state)
    click.echo(f"\n{len(saved.categories)} classes:\n{saved.categories.table()}\n")
    click.echo(to_yaml(saved.config), nl=False)


@weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@overrides_argument
@click.option("--from", "program", type=click.Choice(SOURCES), required=True, help="The program that wrote it.")
@click.option("--model", metavar="CONFIG", help="What it is of: Detectron's files say so, and of torchvision's it is seen.")
@click.option("--categories", type=click.Path(path_type=Path), metavar="FILE", help="A COCO file with its classes, if not COCO's.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.safetensors")
@imports_option
def import_(file: Path, overrides: tuple[str, ...], program: str, model: str | None, categories: Path | None, out: Path) -> None:
    """Write another program's weights as Boxwood's, and print what became of every tensor.

    \b
      boxwood weights import model_final.pkl --from detectron --out mask_rcnn.safetensors
      boxwood weights import model_final_a54504.pkl --from detectron2 --model mask_rcnn_r50_fpn_1x --out mask_rcnn.safetensors
      boxwood weights import ResNet-50-model.caffemodel --from caffe --model faster_rcnn_r50_fpn_1x --out r50.safetensors
    """
    from boxwood.data.coco import categories_of
    from boxwood.data.coco_file import read_coco_file
    from boxwood.interop.weights import import_weights
    from boxwood.recipes import resolve
    from boxwood.weights.file import save_weights

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: weights are written as .safetensors; name it so")
    if model is None and overrides:
        raise UserError("KEY=VALUE changes a configuration, and none is named; name one with --model")
    config = None if model is None else resolve(model, overrides)
    classes = None if categories is None else categories_of(read_coco_file(categories))
    imported = import_weights(file, program, config, classes)  # type: ignore[arg-type]  # one of SOURCES
    saved = imported.saved
    save_weights(out, saved.state, saved.config, saved.categories)
    click.echo(imported.report.table())
    for note in imported.notes:
        click.echo(f"note: {note}")
    click.echo(f"\n{out}: {saved.config.model.title}, {len(saved.categories)} classes; {imported.report.summary()}")


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--annotations", type=click.Path(path_type=Path), required=True, metavar="DATA.json", help="A COCO file of the classes."
)
@click.option("--take", multiple=True, metavar="NEW=OLD", help="The outputs of class OLD for NEW, whose name it does not have.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.safetensors")
@imports_option
def reclass(file: Path, annotations: Path, take: tuple[str, ...], out: Path) -> None:
    """Write weights for the classes of another data set, to train on from there.

    Each class keeps the outputs of the old one of its name; those of a new one are drawn anew.

    \b
      boxwood weights reclass coco.safetensors --annotations cityscapes.json --take rider=person --out start.safetensors
      boxwood train CONFIG train.weights=start.safetensors ...
    """
    from boxwood.data.coco import categories_of
    from boxwood.data.coco_file import read_coco_file
    from boxwood.weights.file import read_weights, save_weights
    from boxwood.weights.remap_classes import reclass as reclassed

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: weights are written as .safetensors; name it so")
    if wrong := [pair for pair in take if "=" not in pair]:
        raise UserError(f"--take {wrong[0]}: must be NEW=OLD, such as rider=person")
    saved, source = reclassed(
        read_weights(file), categories_of(read_coco_file(annotations)), dict(pair.split("=", 1) for pair in take)
    )
    save_weights(out, saved.state, saved.config, saved.categories)
    width = max(map(len, source))
    for new, old in source.items():
        click.echo(f"  {new:{width}}  {'anew' if old is None else f'of {old}'}")
    click.echo(f"\n{out}: {len(source)} classes, {sum(old is None for old in source.values())} of them with outputs drawn anew")


def _print_tensors(state: dict[str, Tensor]) -> None:
    width = max(map(len, state), default=0)
    for name, tensor in state.items():
        click.echo(f"{name:{width}}  {str(tensor.dtype).removeprefix('torch.'):8} {' x '.join(map(str, tensor.shape)) or 'scalar'}")
    click.echo(f"\n{len(state)} tensors, {sum(tensor.numel() for tensor in state.values()):,} numbers")
