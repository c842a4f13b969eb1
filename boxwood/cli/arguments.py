"""Arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["config_argument", "default_out", "imports_option", "overrides_argument"]

F = TypeVar("F", bound=Callable[..., Any])


def config_argument(command: F) -> F:
    """CONFIG: a recipe's name, module:function, a YAML file, or a run."""
    return click.argument("config")(command)


def overrides_argument(command: F) -> F:
    """Any number of dotted.key=value."""
    return click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)


def imports_option(command: F) -> F:
    """--import MODULE, run before anything else, so that configurations may name the module's components."""

    def run_imports(ctx: click.Context, param: click.Parameter, modules: tuple[str, ...]) -> None:
        if modules and not ctx.resilient_parsing:
            from boxwood.recipes import import_module

            for module in modules:
                import_module(module)

    return click.option(
        "--import",
        "modules",
        multiple=True,
        metavar="MODULE",
        callback=run_imports,
        expose_value=False,
        is_eager=True,
        help="Import your module, with its components, first. The current folder is searched.",
    )(command)


def default_out(config: str) -> Path:
    """The run directory of a CONFIG: ``runs/NAME``, or the run itself where CONFIG is one.

    >>> default_out("my_work:mine").as_posix(), default_out("nuts.yaml").as_posix()
    ('runs/mine', 'runs/nuts')
    """
    path = Path(config)
    if path.name == "config.yaml" and path.is_file():
        return path.parent
    if (path / "config.yaml").is_file():
        return path
    return Path("runs") / (path.stem if path.suffix in {".yaml", ".yml"} else config.rpartition(":")[2])
