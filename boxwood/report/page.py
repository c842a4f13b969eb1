"""A page is one file: its style, its script, its data and its pictures lie in it, and it may load nothing else."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from boxwood.files import write_text

__all__ = ["write_page"]


def write_page(template: str, path: Path, **context: Any) -> None:
    """Write ``template`` (a name in ``report/templates``) filled with ``context``, complete or not at all.

    Whatever is not `Markup` is escaped, so that a class or a file with a tag in its name stays a name. Data for scripts go through
    jinja's ``tojson``.
    """
    write_text(path, _environment().get_template(template).render(**context))


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
