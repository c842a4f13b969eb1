"""boxwood weights: inspect weights files, import those of other programs, change their classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from boxwood.cli.arguments import imports_option, overrides_argument
from boxwood.errors import UserError

__all__ = ["weights"]

logger = logging.getLogger(__name__)

SOURCES = ("detectron", "detectron2", "torchvision", "caffe")


@click.group()
def weights() -> None:
    """Inspect weights files, import those of other programs, and change their classes."""


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@imports_option
def inspect(file: Path) -> None:
    """Print the tensors, the classes and the configuration that FILE holds; of a .pkl or .pth of another program its tensors."""
    from boxwood.config import to_yaml
    from boxwood.library.weights import inspect_weights

    content = inspect_weights(file)
    width = max(map(len, content.tensors), default=0)
    for name, tensor in content.tensors.items():
        kind, shape = str(tensor.dtype).removeprefix("torch."), " x ".join(map(str, tensor.shape)) or "scalar"
        click.echo(f"{name:{width}}  {kind:8} {shape}")
    click.echo(f"\n{len(content.tensors)} tensors, {sum(tensor.numel() for tensor in content.tensors.values()):,} numbers")
    if content.categories is not None:
        click.echo(f"\n{len(content.categories)} classes:\n{content.categories.table()}\n")
    if content.config is not None:
        click.echo(to_yaml(content.config), nl=False)


@weights.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@overrides_argument
@click.option("--from", "program", type=click.Choice(SOURCES), required=True, help="The program that wrote it.")
@click.option(
    "--model",
    metavar="CONFIG",
    help="The configuration of the network, instead of the one that is found or recognised.",
)
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), metavar="FILE", help="detectron2's config.yaml, if not beside FILE."
)
@click.option("--categories", type=click.Path(path_type=Path), metavar="FILE", help="A COCO file with the classes, if not COCO's.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.safetensors")
@imports_option
def import_(
    file: Path,
    overrides: tuple[str, ...],
    program: str,
    model: str | None,
    config_file: Path | None,
    categories: Path | None,
    out: Path,
) -> None:
    """Write another program's weights as Boxwood's, and print where every tensor came from.

    Detectron's files hold their configuration, detectron2's is in the config.yaml beside them, torchvision's networks are
    recognised; KEY=VALUE changes it.

    \b
      boxwood weights import model_final.pkl --from detectron --out mask_rcnn.safetensors
      boxwood weights import output/model_final.pth --from detectron2 --out mask_rcnn.safetensors
      boxwood weights import ResNet-50-model.caffemodel --from caffe --model faster_rcnn_r50_fpn_1x --out r50.safetensors
    """
    from boxwood.library.weights import import_weights

    imported = import_weights(
        file,
        program,  # type: ignore[arg-type]  # one of SOURCES
        out,
        model=model,
        overrides=overrides,
        categories=categories,
        config=config_file,
    )
    click.echo(imported.report.table())
    for note in imported.notes:
        click.echo(f"note: {note}")
    saved = imported.saved
    click.echo(f"\n{out}: {saved.config.model.title}, {len(saved.categories)} classes; {imported.report.summary()}")


@weights.command("remap-classes")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--annotations", type=click.Path(path_type=Path), required=True, metavar="DATA.json", help="A COCO file with the new classes."
)
@click.option("--take", multiple=True, metavar="NEW=OLD", help="Use the outputs of class OLD for NEW, where their names differ.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE.safetensors")
@imports_option
def remap_classes(file: Path, annotations: Path, take: tuple[str, ...], out: Path) -> None:
    """Write weights for the classes of another data set, to train on from there.

    A class takes the outputs of the old one of its name; those of other classes are randomly initialised.

    \b
      boxwood weights remap-classes coco.safetensors --annotations cityscapes.json --take rider=person --out start.safetensors
      boxwood train CONFIG train.weights=start.safetensors ...
    """
    from boxwood.library.weights import remap_classes as remap

    if wrong := [pair for pair in take if "=" not in pair]:
        raise UserError(f"--take {wrong[0]}: must be NEW=OLD, such as rider=person")
    old_names = remap(file, annotations, out, dict(pair.split("=", 1) for pair in take))
    width = max(map(len, old_names))
    for new, old in old_names.items():
        click.echo(f"  {new:{width}}  {'randomly initialised' if old is None else f'of {old}'}")
    num_new = sum(old is None for old in old_names.values())
    click.echo(f"\n{out}: {len(old_names)} classes, {num_new} of them with randomly initialised outputs")


@weights.command("reclass", hidden=True, params=remap_classes.params)
def reclass(**arguments: Any) -> None:
    """The name of remap-classes in version 0.1."""
    logger.warning("boxwood weights reclass is now called boxwood weights remap-classes")
    remap_classes.callback(**arguments)  # type: ignore[misc]  # a command has one
