"""Checks a tree of Detectron's keys: the values of the 229 keys, with notes and problems."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from boxwood.config import ConfigError, did_you_mean
from boxwood.interop.detectron_config.keys import DEPRECATED, KEYS, RENAMED, Key

__all__ = ["Note", "Values", "read_pairs", "read_values"]

MAX_TEXT = 10_000
MAX_DEPTH = 20
"""Maximum number of open brackets in a value that is written as a Python literal."""
_GROUPS = {key.rpartition(".")[0] for key in KEYS} | {key.rpartition(".")[0] for key in (*DEPRECATED, *RENAMED)}
_GROUPS |= {group.partition(".")[0] for group in _GROUPS}


@dataclass(frozen=True)
class Note:
    """A key that was not simply carried over."""

    key: str
    value: Any
    what: Literal["ignored", "left out", "read as"]
    text: str

    def __str__(self) -> str:
        """One line, for any value.

        >>> print(Note("MEMONGER", False, "ignored", "it steered Caffe2"))
        ignored: MEMONGER = False (it steered Caffe2)
        """
        value = repr(self.value)
        short = value if len(value) <= 500 else f"{value[:480]} ... {value[-10:]}"
        return f"{self.what}: {self.key} = {short} ({self.text})"


@dataclass
class Values:
    """The value of every key, with notes and problems."""

    values: dict[str, Any]
    """Values of the given keys; the others have their default."""
    leave_out: tuple[str, ...] = ()
    """Keys, or groups of keys, to leave out."""
    strict: bool = True
    """Whether a key that cannot be honoured is a problem; else it is left out."""
    where: str = ""
    lines: dict[str, int] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def is_left_out(self, key: str) -> bool:
        return any(key == name or key.startswith(f"{name.rstrip('.')}.") for name in self.leave_out)

    def get(self, key: str) -> Any:
        """The value of ``key``, or its default where it is left out; marks the key as used."""
        self.taken.add(key)
        return self.peek(key)

    def peek(self, key: str) -> Any:
        """As `get`, without marking the key as used."""
        return KEYS[key].default if key not in self.values or self.is_left_out(key) else self.values[key]

    def changed(self, key: str) -> bool:
        """Whether ``key`` has a given value other than its default."""
        return key in self.values and self.values[key] != KEYS[key].default

    def refuse(self, key: str, why: str) -> None:
        """Record that ``key`` cannot be honoured: a problem, or a note if it is left out."""
        self.taken.add(key)
        value = self.values.get(key, KEYS[key].default)
        if self.strict and not self.is_left_out(key):
            stated = "" if key in self.values else ", its default,"
            self.problems.setdefault(key, f"{self.place(key)}{key} = {_short(value)}{stated} cannot be honoured: {why}")
        else:
            self.note(key, value, "left out", why)

    def forbid(self, key: str, why: str) -> None:
        """Record a problem of a key that cannot be left out either, since it defines the network."""
        self.taken.add(key)
        value = _short(self.values.get(key, KEYS[key].default))
        self.problems.setdefault(key, f"{self.place(key)}{key} = {value} cannot be honoured, nor left out: {why}")

    def ignore(self, key: str, why: str) -> None:
        """Mark ``key`` as without effect; a note if it has another value than its default."""
        self.taken.add(key)
        if self.changed(key):
            self.note(key, self.values[key], "ignored", why)

    def note(self, key: str, value: Any, what: Literal["ignored", "left out", "read as"], why: str) -> None:
        if (note := Note(key, value, what, why)) not in self.notes:
            self.notes.append(note)

    def place(self, key: str) -> str:
        """``FILE:LINE: ``, as far as known."""
        line = self.lines.get(key)
        return f"{self.where}:{line}: " if self.where and line else f"{self.where}: " if self.where else ""

    def report(self) -> None:
        """Raises `ConfigError` where there are problems, with all of them."""
        if self.problems:
            raise ConfigError(list(self.problems.values()))


def read_values(
    tree: dict[str, Any],
    *,
    leave_out: Sequence[str] = (),
    strict: bool = True,
    where: str = "",
    lines: dict[str, int] | None = None,
) -> Values:
    """The values of a tree of mappings: Python literals parsed, types checked, old keys under their new names.

    Keys that Detectron does not have, and values of a wrong type, become problems (`Values.report`).
    """
    values = Values({}, tuple(leave_out), strict, where, lines or {})
    for name in values.leave_out:
        if not any(key == name or key.startswith(f"{name.rstrip('.')}.") for key in (*KEYS, *_flat_keys(tree))):
            values.problems[f"--leave-out {name}"] = f"--leave-out {name}: Detectron has no such key{did_you_mean(name, KEYS)}"
    given = dict(_flat(tree, ()))
    for key, value in given.items():
        if key in KEYS:
            _accept(values, key, value)
        elif key in DEPRECATED:
            values.note(key, value, "ignored", "Detectron's last version ignored it")
        elif key in RENAMED:
            if RENAMED[key] in given:
                values.problems[key] = f"{values.place(key)}{key} is the old name of {RENAMED[key]}, which is given too; keep one"
            else:
                values.note(key, value, "read as", f"{RENAMED[key]}, its later name")
                values.lines.setdefault(RENAMED[key], values.lines.get(key, 0))
                _accept(values, RENAMED[key], value, key)
        elif values.is_left_out(key) or not strict:
            values.note(key, value, "left out", "Detectron's last version has no such key")
        elif key in _GROUPS:
            values.problems[key] = f"{values.place(key)}{key} should be a mapping of keys to values, got {_short(value)}"
        else:
            hint = did_you_mean(key, KEYS)
            values.problems[key] = f"{values.place(key)}unknown key {key!r}{hint}"
    return values


def read_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """``KEY VALUE ...`` as a tree. Raises `ConfigError` where a value is missing, or a key has both a value and keys below it.

    >>> read_pairs(["NUM_GPUS", "2", "SOLVER.BASE_LR", "0.005"])
    {'NUM_GPUS': '2', 'SOLVER': {'BASE_LR': '0.005'}}
    """
    if len(pairs) % 2:
        raise ConfigError([f"KEY VALUE come in pairs, got {len(pairs)} words; {pairs[-1]!r} is without its value"])
    tree: dict[str, Any] = {}
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        *groups, last = key.split(".")
        inner = tree
        for group in groups:
            below = inner.setdefault(group, {})
            if not isinstance(below, dict):
                raise ConfigError([f"{group} is given a value of its own, and keys below it"])
            inner = below
        if isinstance(inner.get(last), dict):
            raise ConfigError([f"{key} is given a value of its own, and keys below it"])
        inner[last] = value
    return tree


# ----------------------------------------------------------------------------------------------------------------- internals


def _flat(tree: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        here = (*path, str(key))
        if isinstance(value, dict) and value:
            yield from _flat(value, here)
        elif not isinstance(value, dict) or ".".join(here) not in _GROUPS:
            yield ".".join(here), value


def _flat_keys(tree: dict[str, Any]) -> list[str]:
    return [key for key, _ in _flat(tree, ())]


def _accept(values: Values, key: str, value: Any, called: str = "") -> None:
    try:
        decoded = _decoded(value)
        if isinstance(KEYS[key].default, str) and isinstance(value, str) and isinstance(decoded, int | float):
            decoded = value  # a folder may be called 1e3
        values.values[key] = _checked(_as_renamed(called, decoded), KEYS[key])
    except _WrongType as error:
        if values.is_left_out(key):
            values.note(key, value, "left out", str(error))
        else:
            name = called or key
            values.problems[name] = f"{values.place(name)}{name} {error}, got {_short(value)}"


class _WrongType(Exception):
    """Its message says what the value should be."""


def _decoded(value: Any) -> Any:
    """The value of a text that is a Python literal: ``(800,)`` is a tuple, ``1e-4`` a number; another value unchanged.

    Raises `_WrongType` where a comment follows the literal, which Detectron cut off.
    """
    if not isinstance(value, str) or len(value) > MAX_TEXT or _depth(value) > MAX_DEPTH:
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a backslash in a path
            decoded = ast.literal_eval(value)
            tokens = list(tokenize.generate_tokens(io.StringIO(value.lstrip(" \t")).readline)) if "#" in value else []
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
        return value
    if any(token.type == tokenize.COMMENT for token in tokens):
        raise _WrongType("should stand without a comment; remove it, or put text that holds '#' in quotes")
    return decoded


def _depth(text: str) -> int:
    """The maximum number of brackets open at once; Python's parser may fail on a thousand. Signs nest too: 100 count as one."""
    deepest = depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest + sum(character in "+-~" for character in text) // 100


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _checked(value: Any, key: Key) -> Any:
    """The value, converted without loss to the type of the key's default. Raises `_WrongType` where this is impossible."""
    default = key.default
    if isinstance(default, tuple | list):
        if key.text.startswith("model.pixel_mean"):
            return _means(value)
        if not isinstance(value, tuple | list):
            raise _WrongType(f"should be a list of {_plural(key.items)}")
        items = value if key.items is None else [_scalar(item, key.items, f"a list of {_plural(key.items)}") for item in value]
        return type(default)(items)
    return _scalar(value, type(default), _NAMES[type(default)])


def _plural(items: type | None) -> str:
    return {int: "whole numbers", float: "numbers", str: "texts"}.get(items or object, "values")


_WORDS = {"yes": True, "on": True, "no": False, "off": False}
"""Texts that YAML 1.1, which Detectron used, reads as true and false."""


def _scalar(value: Any, wanted: type, name: str) -> Any:
    if wanted is str:
        if isinstance(value, tuple | list | dict) or value is None:
            raise _WrongType(f"should be {name}")
        return str(value)
    if wanted is bool and isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        if wanted is bool and isinstance(value, bool):
            return value
        raise _WrongType(f"should be {name}")
    if wanted is bool and value in (0, 1):
        return bool(value)
    if wanted is float and abs(value) < 1e300:
        return float(value)
    if wanted is int and abs(value) < 2**62 and value == int(value):
        return int(value)
    raise _WrongType(f"should be {name}")


def _means(value: Any) -> list[list[list[float]]]:
    """Three numbers, without or with up to three brackets around them."""
    for _ in range(3):
        if isinstance(value, tuple | list) and len(value) == 1:
            value = value[0]
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise _WrongType("should be three numbers")
    return [[[_scalar(item, float, "three numbers") for item in value]]]


def _as_renamed(old: str, value: Any) -> Any:
    """The value in the form of the new key: old names were joined by colons, and test sizes were a tuple."""
    if old in ("TRAIN.DATASET", "TEST.DATASET", "TRAIN.PROPOSAL_FILE", "TEST.PROPOSAL_FILE") and isinstance(value, str):
        return (value,) if "://" in value or not value else tuple(value.split(":"))
    if old == "TEST.SCALES" and isinstance(value, tuple | list) and len(value) == 1:
        return value[0]
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]} ... {text[-10:]}"
