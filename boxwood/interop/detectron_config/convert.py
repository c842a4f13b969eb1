"""Converts Detectron's keys to a complete configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from boxwood.config import ConfigError, read_yaml, to_yaml
from boxwood.interop.detectron_config.architecture import make_plan, switch_off
from boxwood.interop.detectron_config.keys import KEYS
from boxwood.interop.detectron_config.networks import make_model
from boxwood.interop.detectron_config.settings import make_data, make_optim, make_test, make_train
from boxwood.interop.detectron_config.values import Note, Values, read_pairs, read_values
from boxwood.run_config import RunConfig

__all__ = ["Converted", "from_detectron", "import_yaml"]

T = TypeVar("T")


@dataclass(frozen=True)
class Converted:
    """A configuration, and notes on its conversion."""

    config: RunConfig
    notes: tuple[Note, ...]
    """Keys that were ignored, left out, or read as something else, in Detectron's order of keys."""


def from_detectron(
    tree: dict[str, Any],
    *,
    leave_out: Sequence[str] = (),
    strict: bool = True,
    where: str = "",
    lines: dict[str, int] | None = None,
) -> Converted:
    """The configuration that a tree of Detectron's keys describes; a key that it lacks has Detectron's default.

    ``leave_out`` names keys, or groups of keys (``TEST.BBOX_AUG``), to leave out, so that they have their default; without
    ``strict`` keys that cannot be honoured, or that Detectron's last version does not have, are left out too. ``where`` is the name
    of the file and ``lines`` the line of each key, for messages. Raises `ConfigError` with all problems at once.

    >>> tree = {"MODEL": {"TYPE": "retinanet"}, "SOLVER": {"MAX_ITR": 10}}
    >>> from_detectron(tree)
    Traceback (most recent call last):
    boxwood.config.ConfigError: unknown key 'SOLVER.MAX_ITR' (did you mean 'SOLVER.MAX_ITER'?); ...
    """
    values = read_values(tree, leave_out=leave_out, strict=strict, where=where, lines=lines)
    plan = make_plan(values)
    switch_off(values, plan)
    _check_fixed_values(values)
    model = _make_part(values, "model", lambda: make_model(values, plan))
    data = _make_part(values, "data", lambda: make_data(values, plan))
    train = _make_part(values, "train", lambda: make_train(values))
    optim = _make_part(values, "optim", lambda: make_optim(values, train.batch_size if train else 16))
    test = _make_part(values, "test", lambda: make_test(values, plan))
    for key in values.values:
        if key not in values.taken and values.changed(key):
            values.refuse(key, "it has no counterpart in this configuration")
        elif values.is_left_out(key) and values.changed(key) and key not in {note.key for note in values.notes}:
            values.note(key, values.values[key], "left out", "it was asked for")
    values.report()
    assert model is not None and data is not None and optim is not None and train is not None and test is not None
    order = {key: index for index, key in enumerate(KEYS)}
    notes = sorted(values.notes, key=lambda note: order.get(note.key, len(order)))
    return Converted(RunConfig(model=model, data=data, optim=optim, train=train, test=test), tuple(notes))


def import_yaml(path: Path, pairs: Sequence[str] = (), leave_out: Sequence[str] = ()) -> str:
    """The text of a YAML file for Boxwood, from Detectron's YAML file with ``KEY VALUE`` pairs merged into it.

    It begins with a comment for each key that was ignored, left out or read as something else. Raises `UserError` where the file is
    no YAML, `ConfigError` with all keys that cannot be honoured.
    """
    tree, lines = read_yaml(path)
    over = read_pairs(pairs)
    for key in pairs[::2]:
        lines.pop(key, None)  # its value comes from the command line
    converted = from_detectron(_merge(tree, over), leave_out=leave_out, where=str(path), lines=lines)
    comments = [f"made from {path}, a configuration of Detectron's", *map(str, converted.notes)]
    return "".join(f"# {_line(comment)}\n" for comment in comments) + to_yaml(converted.config)


def _line(comment: str) -> str:
    """The comment on one line: text of the file must not end the comment."""
    return "".join(character if character.isprintable() else "?" for character in comment)


def _merge(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _check_fixed_values(values: Values) -> None:
    """Refuse the values of keys that Boxwood cannot set, unless they are what Boxwood does."""
    for key, entry in KEYS.items():
        if entry.fate == "same" and key not in values.taken:
            values.taken.add(key)
            value = values.values.get(key, entry.default)
            if value not in entry.honoured:
                values.refuse(key, entry.text)
            elif key == "KRCNN.MIN_KEYPOINT_COUNT_FOR_VALID_MINIBATCH" and value:
                values.note(key, value, "ignored", entry.text)  # its default, which excluded few batches


def _make_part(values: Values, part: str, make: Callable[[], T]) -> T | None:
    """A part of the configuration, or None and a problem for each value that is out of range."""
    try:
        return make()
    except ConfigError as error:
        for problem in error.problems:
            values.problems[f"{part} {problem}"] = f"{values.place('')}{problem}"
        return None
