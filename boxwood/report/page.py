"""Pages: one HTML file with its style, script, data and pictures in it, which loads nothing else."""

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
    """Write ``template`` (a name in ``report/templates``) filled with ``context``, completely or not at all.

    Everything but `Markup` is escaped, so that tags in the names of classes and files do no harm. Data for scripts go through
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
