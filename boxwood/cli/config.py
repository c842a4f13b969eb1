"""boxwood config: list, show, compare and describe configurations."""

from __future__ import annotations

import json
from typing import Any

import click

from boxwood.cli.arguments import config_argument, imports_option, overrides_argument

__all__ = ["config"]

CONFIG_HELP = "CONFIG is a recipe's name, module:function, a YAML file, or a run."


@click.group()
def config() -> None:
    """List, show, compare and describe configurations."""


@config.command("list")
def list_() -> None:
    """The recipes, one a line, under what they have in common."""
    from boxwood import recipes

    width = max(map(len, recipes.names()))
    for index, module in enumerate(recipes.MODULES):
        click.echo(("\n" if index else "") + _first_sentence(module))
        for name in module.__all__:
            click.echo(f"  {name:{width}}  {_first_sentence(getattr(module, name))}")


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
    """Print the JSON Schema of a configuration file, for the completion of an editor."""
    from boxwood.run import RunConfig

    described = RunConfig.model_json_schema()
    described["properties"]["base"] = {"type": "string", "description": "The recipe or file that this one changes."}
    described.pop("required", None)  # the base has what the file leaves out
    click.echo(json.dumps(_without_defaults(described), indent=2, ensure_ascii=False))


def _first_sentence(documented: Any) -> str:
    return " ".join((documented.__doc__ or "").split("\n\n")[0].split()).partition(". ")[0].removesuffix(".")


def _without_defaults(node: Any) -> Any:
    """Pydantic writes a component's default without its kind; no default is better than a wrong one."""
    if isinstance(node, dict):
        wrong = {"default"} if isinstance(node.get("default"), dict | list) else set()
        return {key: _without_defaults(value) for key, value in node.items() if key not in wrong}
    return [_without_defaults(item) for item in node] if isinstance(node, list) else node
