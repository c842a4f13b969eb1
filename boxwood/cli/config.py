"""boxwood config: list, show, compare, describe and import configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from boxwood.cli.arguments import config_argument, imports_option, overrides_argument

__all__ = ["config"]

CONFIG_HELP = "CONFIG is a recipe's name, module:function, a YAML file, or a run."


@click.group()
def config() -> None:
    """List, show, compare, describe and import configurations."""


@config.command("list")
@click.argument("beginning", required=False, metavar="[BEGINNING]")
def list_(beginning: str | None) -> None:
    """The recipes, one a line, in groups; of Detectron's 87 configurations, how many there are of each kind.

    With BEGINNING, the recipes whose names begin with it, such as detectron/e2e_mask.
    """
    from boxwood import recipes
    from boxwood.config import did_you_mean
    from boxwood.errors import UserError

    known = recipes.names()
    if beginning is not None:
        matching = [name for name in known if name.startswith(beginning)]
        if not matching:
            raise UserError(f"no recipe begins with {beginning!r}{did_you_mean(beginning, known)}")
        for name in matching:
            click.echo(f"{name:{max(map(len, matching))}}  {recipes.describe(name)}")
        return
    width = max(len(recipe.__name__) for recipe in recipes.RECIPES)
    for module in recipes.MODULES:
        click.echo(_first_sentence(module))
        for name in module.__all__:
            click.echo(f"  {name:{width}}  {_first_sentence(getattr(module, name))}")
        click.echo()
    click.echo(f"{_first_sentence(recipes.detectron)}: boxwood config list detectron names them")
    for sort, names in recipes.detectron.sorts().items():
        click.echo(f"  {f'{sort}*':{width}}  {len(names)}, such as {names[0]}")


@config.command(epilog=CONFIG_HELP)
@config_argument
@overrides_argument
@imports_option
def show(config: str, overrides: tuple[str, ...]) -> None:
    """Print a complete configuration as YAML; it can be trained as it is."""
    from boxwood.config import to_yaml
    from boxwood.recipes import resolve

    click.echo(to_yaml(resolve(config, overrides)), nl=False)


@config.command(epilog=CONFIG_HELP)
@click.argument("a", metavar="CONFIG_A")
@click.argument("b", metavar="CONFIG_B")
@imports_option
def diff(a: str, b: str) -> None:
    """Print each key whose value differs: key: A -> B."""
    from boxwood.config import differences
    from boxwood.recipes import resolve

    for key, left, right in differences(resolve(a), resolve(b)):
        click.echo(f"{key}: {json.dumps(left, ensure_ascii=False)} -> {json.dumps(right, ensure_ascii=False)}")


@config.command()
@imports_option
def schema() -> None:
    """Print the JSON Schema of a configuration file, for completion in an editor."""
    from boxwood.library.configuration import config_schema

    click.echo(json.dumps(config_schema(), indent=2, ensure_ascii=False))


@config.command("import-detectron", context_settings={"ignore_unknown_options": True}, epilog="KEY VALUE as Detectron took them.")
@click.argument("old", metavar="OLD.yaml", type=click.Path(path_type=Path))
@click.argument("pairs", nargs=-1, metavar="[KEY VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), metavar="NEW.yaml", help="Where to write; else it is printed.")
@click.option(
    "--leave-out",
    multiple=True,
    metavar="KEY",
    help="A key that need not be honoured, or the beginning of several: TEST.BBOX_AUG.",
)
def import_detectron(old: Path, pairs: tuple[str, ...], out: Path | None, leave_out: tuple[str, ...]) -> None:
    """Turn a YAML file of Detectron's (2018) into one of Boxwood's, which can be trained as it is.

    Nothing is written while there is a key that cannot be honoured; all such are listed. What is ignored or left out is named in
    comments at the top of the new file.
    """
    from boxwood.library.imports import import_detectron_config

    text = import_detectron_config(old, pairs, leave_out, out=out)
    if out is None:
        click.echo(text, nl=False)
        return
    comments = [line for line in text.splitlines()[1:] if line.startswith("# ")]
    click.echo("".join(f"{comment.removeprefix('# ')}\n" for comment in comments) + f"written: {out}")


def _first_sentence(documented: Any) -> str:
    return " ".join((documented.__doc__ or "").split("\n\n")[0].split()).partition(". ")[0].removesuffix(".")
