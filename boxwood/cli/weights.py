"""boxwood weights: what is in a weights file."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.cli.arguments import imports_option

__all__ = ["weights"]


@click.group()
def weights() -> None:
    """Look into weights files."""


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@imports_option
def inspect(file: Path) -> None:
    """Print the tensors, the classes and the configuration that FILE holds."""
    from boxwood.config import to_yaml
    from boxwood.weights.file import read_weights

    saved = read_weights(file)
    width = max(map(len, saved.state), default=0)
    for name, tensor in saved.state.items():
        click.echo(f"{name:{width}}  {str(tensor.dtype).removeprefix('torch.'):8} {' x '.join(map(str, tensor.shape)) or 'scalar'}")
    numbers = sum(tensor.numel() for tensor in saved.state.values())
    click.echo(
        f"\n{len(saved.state)} tensors, {numbers:,} numbers\n\n{len(saved.categories)} classes:\n{saved.categories.table()}\n"
    )
    click.echo(to_yaml(saved.config), nl=False)
