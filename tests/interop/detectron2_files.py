"""detectron2's 61 configurations, with the names and shapes of the tensors that its own builder makes of each."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.facts import FACTS


@cache
def _facts() -> dict[str, Any]:
    return json.loads(gzip.decompress((FACTS / "detectron2.json.gz").read_bytes()))  # type: ignore[no-any-return]


def names() -> list[str]:
    """The configurations, as their files below ``configs/`` are called, without the ending."""
    return [name.removesuffix(".yaml") for name in _facts()["files"]]


def tree_of(name: str, **changes: Any) -> dict[str, Any]:
    """The whole configuration as a tree; ``changes`` are dotted keys with ``__`` for dots. Equal lists are one object, so that YAML
    has the aliases that detectron2 writes."""
    facts = _facts()
    flat = (
        facts["common"]
        | facts["files"][f"{name}.yaml"]["differs"]
        | {key.replace("__", "."): value for key, value in changes.items()}
    )
    shared: dict[str, Any] = {}
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, last = key.split(".")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = shared.setdefault(json.dumps(value), value) if isinstance(value, list) else value
    return tree


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the network."""
    facts = _facts()
    return {key: tuple(shape) for key, shape in facts["states"][facts["files"][f"{name}.yaml"]["state"]].items()}


def write_config(folder: Path, name: str, **changes: Any) -> Path:
    """``config.yaml`` in ``folder``, as detectron2's trainer writes it beside the weights."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree_of(name, **changes)))
    return path
