"""docs/models.md agrees with the recipes. ``python -m pytest -s tests/recipes/test_models_page.py`` prints a new table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from boxwood import recipes
from boxwood.recipes import demo, small

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
NAMES = [recipe.__name__ for recipe in recipes.RECIPES]
NOTES = {"gn": "group norm", "gn_scratch": "group norm, from random weights", "nl": "non-local"}
"""Notes that a model's title does not contain, by a part of the recipe's name."""


def published(name: str) -> str:
    """The published AP in a docstring, with its publisher and the publisher's name of the model."""
    text = " ".join(getattr(recipes, name).__doc__.split())
    match = re.search(
        r"(?:Detectron's (``\S+``)|The paper|(detectron2)) published ((?:[a-z]+ )?A[PR] [\d.]+\d(?: and [A-Za-z]+ AP [\d.]+\d)?)",
        text,
    )
    if match is None:
        return "none"
    who = match[2] or ("the paper" if match[1] is None else "Detectron " + match[1].replace("``", "`"))
    return f"{match[3]}, {who}"


def row(name: str) -> str:
    config: Any = getattr(recipes, name)()
    note = NOTES.get("_".join(part for part in name.split("_") if part in ("gn", "scratch", "nl")))
    algorithm, backbone = config.model.title.split(", ")
    cells = [
        f"`{name}`",
        algorithm,
        f"{backbone}, {note}" if note else backbone,
        f"{config.train.steps:,} x {config.train.batch_size}",
    ]
    if name not in small.__all__ + demo.__all__:
        cells.append(published(name))
    return f"| {' | '.join(cells)} |"


def test_the_page_lists_every_recipe() -> None:
    rows = [row(name) for name in NAMES]
    print("", *rows, sep="\n")
    written = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert written == rows
