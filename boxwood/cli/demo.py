"""boxwood demo: train, evaluate and draw on generated pictures, in minutes, without a network."""

from __future__ import annotations

from pathlib import Path

import click

from boxwood.cli.arguments import overrides_argument

__all__ = ["demo"]


@click.command(short_help="Everything once, on generated pictures: train, score, draw.")
@overrides_argument
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, metavar="DIR")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The seed of the pictures and of the training.")
def demo(overrides: tuple[str, ...], out: Path, seed: int) -> None:
    """Generate pictures, train a small Mask R-CNN on them, evaluate it on unseen ones, and draw its detections.

    An interrupted demo resumes when it is run again with the same DIR. KEY=VALUE changes the recipe demo_shapes.
    """
    from boxwood.library.demo import demo as run

    result, folder = run(out, overrides, seed=seed), out / "run" / "eval"
    click.echo()
    click.echo(result.table())
    click.echo(f"\n{result.about}; written to {folder}, with the report {folder / 'report.html'}")
    click.echo(
        f"Look at {out / 'pictures'} (the truth on the left, the detector on the right), then try your own pictures: "
        "boxwood train mask_rcnn_mobilenetv2_fpn --help"
    )
