"""boxwood zoo: the published models."""

from __future__ import annotations

import json
from typing import Any

import click

from boxwood.zoo.table import SOURCES, TASKS, Entry, find, select

__all__ = ["zoo"]


@click.group()
def zoo() -> None:
    """The models that Detectron, torchvision and DensePose published: list, look up, download."""


@zoo.command("list")
@click.option("--task", type=click.Choice(TASKS), help="What it detects; imagenet: backbones to start training from.")
@click.option("--source", type=click.Choice(SOURCES))
@click.option("--backbone", metavar="TEXT", help="Part of the backbone's name, such as R-50 or X-101.")
@click.option("--schedule", metavar="TEXT", help="1x, 2x, s1x, 3x.")
@click.option("--json", "as_json", is_flag=True, help="All facts, for programs.")
def list_(task: str | None, source: str | None, backbone: str | None, schedule: str | None, as_json: bool) -> None:
    """The models, one a line, with the AP that their authors published (COCO val 2017, percent)."""
    selected = select(task, source, backbone, schedule)
    if as_json:
        click.echo(json.dumps([entry.facts() for entry in selected], indent=1))
        return
    width = max((len(entry.name) for entry in selected), default=4)
    heads = ("box", "mask", "kpt", "AR", *(("GPS",) if any(entry.gps_ap is not None for entry in selected) else ()))
    column = 5 if len(heads) > 4 else 6  # the lines stay within 80 columns
    click.echo(f"{'name':{width}}" + "".join(f"{head:>{column}}" for head in heads))
    for entry in selected:
        numbers = (entry.box_ap, entry.mask_ap, entry.keypoint_ap, entry.ar_1000, entry.gps_ap)[: len(heads)]
        cells = "".join(f"{'' if number is None else f'{number:.1f}':>{column}}" for number in numbers)
        click.echo(f"{entry.name:{width}}{cells}".rstrip() + ("" if entry.url else "  -"))
    if any(entry.url is None for entry in selected):
        click.echo("- its weights are not published")


@zoo.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(name: str, as_json: bool) -> None:
    """All facts about a model."""
    from boxwood.zoo.download import local_path

    entry = find(name)
    if as_json:
        click.echo(json.dumps(entry.facts(), indent=1))
        return
    by = {"detectron": "Detectron", "torchvision": "torchvision", "densepose": "DensePose"}[entry.source]
    aps = {
        "box AP": entry.box_ap,
        "mask AP": entry.mask_ap,
        "keypoint AP": entry.keypoint_ap,
        "AR@1000": entry.ar_1000,
        "GPS AP": entry.gps_ap,
        "GPSm AP": entry.gpsm_ap,
    }
    speeds = (
        (entry.train_seconds, "{} s a training step"),
        (entry.net_seconds, "{} s an image in the network"),
        (entry.other_seconds, "{} s an image besides"),
        (entry.train_memory_gb, "{} GB in training"),
    )
    machine = "on 8 P100 (2017)" if entry.source == "detectron" else "on its makers' GPUs"
    rows = {
        "task": entry.task,
        "backbone": entry.backbone,
        "schedule": entry.schedule,
        f"published by {by}": ", ".join(f"{key} {value:.1f}" for key, value in aps.items() if value is not None),
        machine: ", ".join(text.format(f"{value:g}") for value, text in speeds if value is not None),
        "recipe": entry.recipe or "",
        "licence": entry.licence,
        "weights": entry.url or "not published",
        "here": _where(entry, local_path),
        "results": "\n".join(entry.result_urls),
        "proposals": "\n".join(entry.proposals.values()),
        "remark": entry.remark,
    }
    width = max(map(len, rows))
    click.echo(entry.name)
    for key, value in rows.items():
        for index, line in enumerate(value.splitlines()):
            click.echo(f"  {'' if index else key:{width}}  {line}")


@zoo.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--proposals", is_flag=True, help="Download the proposals of an RPN instead of its weights.")
def download(names: tuple[str, ...], proposals: bool) -> None:
    """Download models into the cache, and verify them. An interrupted download resumes when it is run again."""
    from boxwood.zoo.download import download_model

    for name in names:
        for path in download_model(name, proposals=proposals):
            click.echo(path)


def _where(entry: Entry, local_path: Any) -> str:
    if entry.url is None:
        return ""
    path = local_path(entry.url)
    return str(path) if path.is_file() else f"not yet; boxwood zoo download {entry.name}"
