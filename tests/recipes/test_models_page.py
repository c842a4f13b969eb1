"""docs/models.md says what the recipes say. A new table is printed by ``python -m pytest -s tests/recipes/test_models_page.py``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from boxwood import recipes
from boxwood.recipes import demo, small

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
NAMES = [recipe.__name__ for recipe in recipes.RECIPES]
NOTES = {"gn": "group norm", "gn_scratch": "group norm, from random weights"}
"""What is not in a model's title."""


def published(name: str) -> str:
    """Whose AP a docstring names, and of what model where the publisher has one of that name."""
    text = " ".join(getattr(recipes, name).__doc__.split())
    found = re.search(
        r"(?:Detectron's own (``\S+``)|The paper) published ((?:[a-z]+ )?A[PR] [\d.]+\d(?: and [a-z]+ AP [\d.]+\d)?)", text
    )
    if found is None:
        return "none"
    return f"{found[2]}, {'the paper' if found[1] is None else 'Detectron ' + found[1].replace('``', '`')}"


def row(name: str) -> str:
    config: Any = getattr(recipes, name)()
    note = NOTES.get("_".join(part for part in name.split("_") if part in ("gn", "scratch")))
    algorithm, body = config.model.title.split(", ")
    cells = [f"`{name}`", algorithm, f"{body}, {note}" if note else body, f"{config.train.steps:,} x {config.train.batch_size}"]
    if name not in small.__all__ + demo.__all__:
        cells.append(published(name))
    return f"| {' | '.join(cells)} |"


def test_the_page_holds_every_recipe_as_it_is() -> None:
    rows = [row(name) for name in NAMES]
    print("", *rows, sep="\n")
    written = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert written == rows
