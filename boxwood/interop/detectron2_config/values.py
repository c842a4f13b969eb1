"""Checks a tree of detectron2's keys: the values of its 192 keys, with notes and problems."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from boxwood.config import ConfigError, did_you_mean
from boxwood.interop.detectron2_config.keys import KEYS, OFF

__all__ = ["Values", "read_values"]

MAX_NUMBER = 1_000_000_000
MAX_ITEMS = 1000
"""Of a list."""


@dataclass
class Values:
    """The value of every key, with notes and problems."""

    values: dict[str, Any]
    """Values of the given keys; the others have their default."""
    where: str
    notes: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    off: tuple[str, ...] = ()
    """Beginnings of the keys that have no effect on this architecture."""

    def get(self, key: str) -> Any:
        """The value of ``key``, or its default; marks the key as used."""
        self.used.add(key)
        return self.values.get(key, KEYS[key].default)

    def switch_off(self, *properties: str) -> None:
        """Mark the keys that have no effect on an architecture with these properties (`OFF`)."""
        self.off += tuple(beginning for name in properties for beginning in OFF[name])

    def refuse(self, key: str, why: str) -> None:
        """Record that ``key`` cannot be honoured."""
        self.problems.setdefault(key, f"{self.where}: {key} = {_short(self.get(key))} cannot be honoured: {why}")

    def leave_out(self, key: str, instead: str) -> None:
        """Note a rule of training that is not carried over."""
        self.notes.append(f"left out: {key} = {_short(self.get(key))} ({instead})")

    def check(self, key: str, wanted: tuple[Any, ...], why: str = "") -> Any:
        """The value of ``key``, which must be one of ``wanted``; else a problem, and the first of them."""
        value = self.get(key)
        if value in wanted:
            return value
        self.refuse(key, why or f"it must be {' or '.join(_short(choice) for choice in wanted)}")
        return wanted[0]

    def finish(self) -> None:
        """Check the keys that are not read. Raises `ConfigError` where there are problems, with all of them."""
        for key, entry in KEYS.items():
            if key in self.values and not key.startswith(self.off) and self.values[key] != entry.default:
                if entry.fate == "same":
                    self.refuse(key, entry.text)
                elif entry.fate == "training":
                    self.leave_out(key, entry.text)
        if self.problems:
            raise ConfigError(list(self.problems.values()))


def read_values(tree: dict[str, Any], where: str) -> Values:
    """The values of a tree of mappings, with checked types.

    Keys that detectron2 does not have, and values of a wrong type, become problems (`Values.finish`).
    """
    values = Values({}, where)
    for key, value in _flat(tree, ()):
        if key not in KEYS:
            values.problems[key] = (
                f"{where}: unknown key {_short(key)}{did_you_mean(key, KEYS)}; without it, name the network with --model"
            )
            continue
        default = KEYS[key].default
        try:
            values.values[key] = _typed(value, default)
        except ValueError as error:
            values.problems[key] = f"{where}: {key} should be {error}, got {_short(value)}"
    return values


# ----------------------------------------------------------------------------------------------------------------- internals


def _flat(tree: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        here = (*path, str(key))
        if isinstance(value, dict):
            yield from _flat(value, here)
        else:
            yield ".".join(here), value


def _typed(value: Any, default: Any) -> Any:
    """The value in the type of ``default``, lists as tuples. Raises ValueError, which says what it should be."""
    if default is None:
        return None if value is None else _typed(value, 0.0)
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) > MAX_ITEMS:
            raise ValueError("a list")
        item = default[0] if default else None
        return tuple(_any(each) if item is None else _typed(each, item) for each in value)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError("text")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > MAX_NUMBER:
        raise ValueError("a number")
    if isinstance(default, float):
        return float(value)
    if value != int(value):
        raise ValueError("a whole number")
    return int(value)


def _any(value: Any) -> Any:
    return tuple(map(_any, value)) if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 100 else f"{text[:80]} ... {text[-10:]}"
