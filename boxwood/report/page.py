"""Pages: one HTML file with its style, script, data and pictures in it, which loads nothing else."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from boxwood.files import write_text
from boxwood.printable import printable

__all__ = ["write_page"]


def write_page(template: str, path: Path, **context: Any) -> None:
    """Write ``template`` (a name in ``report/templates``) filled with ``context``, completely or not at all.

    Everything but `Markup` is escaped, so that tags in the names of classes and files do no harm, and control characters are
    written as their codes. Data for scripts go through
    jinja's ``tojson``.
    """
    write_text(path, _environment().get_template(template).render(**_printable(context)))


def _printable(value: Any) -> Any:
    """The value with all its text `printable`, that of keys too."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(inner) for key, inner in value.items()}
    return type(value)(map(_printable, value)) if type(value) in (list, tuple) else value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("boxwood.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    environment.filters["number"] = lambda value: "-" if value is None or value < 0 else f"{value:.3f}"
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.globals["read"] = lambda name: Markup(files("boxwood.report").joinpath("templates", name).read_text("utf-8"))
    return environment
