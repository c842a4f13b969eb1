"""Typed configurations: how they are declared, read, overridden, compared and written.

A configuration is a tree of `Config` classes. The same tree is built in Python by a recipe function, read
from YAML, and edited on the command line as ``key=value`` with dotted keys; a mistake in any of the three is
one `ConfigError` that names every wrong key, where it stands, and the nearest right one.

A part that can be exchanged (a backbone, a data set, a transform) derives from `Component`: its ``kind`` says
which class it is. ``kind`` of a class outside Boxwood is ``module:Class``; it is looked up among the classes
that are already imported, so that no file can import code by naming it.

The file knows nothing of detectors: the tree itself is `boxwood.run.RunConfig`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails

from boxwood.errors import UserError

__all__ = ["Component", "Config", "ConfigError", "apply_overrides", "differences", "from_tree", "read_yaml", "to_tree", "to_yaml"]

MAX_YAML_BYTES = 1_000_000

C = TypeVar("C", bound="Config")


class ConfigError(UserError):
    """Every mistake of a configuration at once, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, also by attribute, and values are checked on assignment.

    >>> class Optim(Config):
    ...     lr: float = 0.02
    >>> optim = Optim()
    >>> optim.rl = 0.1
    Traceback (most recent call last):
    AttributeError: Optim has no key 'rl' (did you mean 'lr'?)
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, strict=True, use_attribute_docstrings=True, validate_default=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        """YAML and JSON know only lists; every sequence of a configuration is a tuple."""
        if isinstance(value, dict):
            return {key: _tuples(item) for key, item in value.items()}
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in type(self).model_fields:
            raise AttributeError(f"{type(self).__name__} has no key '{name}'{did_you_mean(name, type(self).model_fields)}")
        super().__setattr__(name, _tuples(value))


class Component(Config):
    """A configuration that stands for one of several exchangeable classes, told apart by ``kind``.

    A field annotated with a base component accepts any subclass. In a file it is a mapping whose ``kind`` names
    the subclass: the class's own ``kind`` for a built-in one, ``module:Class`` for a user's.
    """

    short_kind: ClassVar[str] = ""
    """Built-in components set this; a user's class leaves it empty and is known as ``module:Class``."""

    @classmethod
    def kind(cls) -> str:
        return cls.__dict__.get("short_kind") or f"{cls.__module__}:{cls.__qualname__}"

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """All concrete classes below this one that are imported now, by kind."""
        found: dict[str, type[Self]] = {}
        pending: list[type[Self]] = [cls]
        while pending:
            candidate = pending.pop()
            found[candidate.kind()] = candidate
            pending.extend(candidate.__subclasses__())
        return found

    @model_validator(mode="wrap")
    @classmethod
    def _choose_class(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(value, dict) or "kind" not in value:
            return handler(value)
        value = dict(value)
        kind = value.pop("kind")
        chosen = cls.kinds().get(kind)
        if chosen is None:
            hint = did_you_mean(str(kind), cls.kinds())
            if isinstance(kind, str) and ":" in kind:
                hint = f"; import its module first (--import {kind.split(':')[0]})"
            raise ValueError(f"unknown kind '{kind}'{hint}")
        return handler(value) if chosen is cls else chosen.model_validate(value)


# ------------------------------------------------------------------------------------------------ trees and text


def to_tree(config: Config) -> dict[str, Any]:
    """The configuration as plain mappings, lists and scalars, each component with its ``kind``."""
    tree: dict[str, Any] = {"kind": config.kind()} if isinstance(config, Component) else {}
    for name in type(config).model_fields:
        tree[name] = _plain(getattr(config, name))
    return tree


def from_tree(cls: type[C], tree: dict[str, Any], where: str = "", lines: dict[str, int] | None = None) -> C:
    """Validate ``tree`` as a ``cls``. ``where`` names the file; ``lines`` its line per dotted key.

    Raises `ConfigError` with all mistakes at once.
    """
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise ConfigError([_explain(cls, tree, detail, where, lines or {}) for detail in error.errors()]) from None


def to_yaml(config: Config) -> str:
    """The complete configuration as YAML; `read_yaml` and `from_tree` give it back unchanged."""
    return yaml.dump(to_tree(config), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a YAML file safely: the tree, and the line on which each dotted key stands.

    Raises `UserError` where the file is missing, too large, not YAML, not a mapping, repeats a key or uses aliases.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise UserError(f"{path}: larger than {MAX_YAML_BYTES} bytes, so it is no configuration")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an existing YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; name a YAML file") from None
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise UserError(f"{path}: YAML aliases (*name) are not accepted; write the value out")
        node = yaml.compose(text, Loader=_Loader)
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506  (_Loader is a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: is not valid YAML ({getattr(error, 'problem', error)})") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply to be a configuration") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values, got {type(tree).__name__}")
    lines: dict[str, int] = {}
    for key, line in _lines(node, ()):
        if key in lines:
            raise UserError(f"{path}:{line}: the key '{key}' stands twice; keep one")
        lines[key] = line
    return tree, lines


def apply_overrides(config: C, overrides: Iterable[str]) -> C:
    """A copy of ``config`` with each ``dotted.key=value`` applied; the value is read as YAML.

    An index selects an element of a tuple (``data.train.transforms.0.p=0``). Setting ``….kind`` starts that component
    from its defaults, whatever the order. Raises `ConfigError` with all mistakes at once.

    >>> class Optim(Config):
    ...     lr: float = 0.02
    ...     drops: tuple[int, ...] = (60000, 80000)
    >>> apply_overrides(Optim(), ["lr=1e-3", "drops=[10, 20]"])
    Optim(lr=0.001, drops=(10, 20))
    >>> apply_overrides(Optim(), ["rl=1"])
    Traceback (most recent call last):
    boxwood.config.ConfigError: unknown key 'rl' (did you mean 'lr'?)
    """
    problems: list[str] = []
    pairs: list[tuple[list[str], Any]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(f"'{override}' is not key=value")
            continue
        try:
            pairs.append((key.split("."), yaml.load(text, Loader=_Loader)))  # noqa: S506
        except yaml.YAMLError:
            problems.append(f"'{override}': the value is not valid YAML")
    tree = to_tree(config)
    for path, value in sorted(pairs, key=lambda pair: pair[0][-1] != "kind"):
        problem = _set(tree, path, value)
        if problem:
            problems.append(problem)
    if problems:
        # Mistyped keys and wrong values are reported together, so what could be set is validated too.
        try:
            from_tree(type(config), tree)
        except ConfigError as error:
            problems.extend(error.problems)
        raise ConfigError(problems)
    return from_tree(type(config), tree)


def differences(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """The dotted keys whose values differ, with both values (None where one side lacks the key).

    >>> class Optim(Config):
    ...     lr: float = 0.02
    >>> differences(Optim(), Optim(lr=0.01))
    [('lr', 0.02, 0.01)]
    """
    left, right = dict(_leaves(to_tree(a), ())), dict(_leaves(to_tree(b), ()))
    keys = [*left, *(key for key in right if key not in left)]
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key) or (key in left) != (key in right)]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest candidate, or an empty string.

    >>> did_you_mean("batchsize", ["batch_size", "seed"])
    " (did you mean 'batch_size'?)"
    """
    names = [str(candidate) for candidate in candidates]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (known: {', '.join(names)})" if 0 < len(names) <= 12 else ""


# ------------------------------------------------------------------------------------------------------ internals


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a number, as in JSON and YAML 1.2."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return to_tree(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        for index, value in enumerate(tree):
            yield from _leaves(value, (*path, str(index)))
    else:
        yield ".".join(path), tree


def _lines(node: yaml.Node | None, path: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield ".".join(here), key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*path, str(index)))


def _set(tree: Any, path: list[str], value: Any) -> str | None:
    """Set one key of the tree in place; the problem as text, or None."""
    for depth, key in enumerate(path):
        dotted = ".".join(path[: depth + 1])
        last = depth == len(path) - 1
        if isinstance(tree, list):
            if not key.isdigit() or int(key) >= len(tree):
                return f"'{dotted}': there are {len(tree)} elements, counted from 0"
            index: Any = int(key)
        elif isinstance(tree, dict):
            if key not in tree:
                known = {".".join([*path[:depth], str(name)]) for name in tree}
                return f"unknown key '{dotted}'{did_you_mean(dotted, sorted(known))}"
            index = key
        else:
            parent = ".".join(path[:depth])
            return f"'{dotted}': '{parent}' is {'not set' if tree is None else 'a single value'}, so it has no key '{key}'"
        if last and key == "kind" and tree[index] != value:
            tree.clear()
            tree["kind"] = value
        elif last:
            tree[index] = value
        else:
            tree = tree[index]
            if isinstance(tree, dict) and set(tree) == {"kind"}:
                # The component was just exchanged: its keys are those of the new class, checked when it is validated.
                for name in path[depth + 1 : -1]:
                    tree = tree.setdefault(name, {})
                tree[path[-1]] = value
                return None
    return None


def _explain(cls: type[Config], tree: dict[str, Any], detail: ErrorDetails, where: str, lines: dict[str, int]) -> str:
    path = [str(part) for part in detail["loc"] if not str(part).startswith("function-")]
    # Inside a union pydantic adds the class's name to the location; it is no key.
    keys = [part for part in path if part in _known_words(tree) or part.isdigit() or part == path[-1]]
    dotted = ".".join(keys)
    line = next((lines[".".join(keys[:n])] for n in range(len(keys), 0, -1) if ".".join(keys[:n]) in lines), None)
    prefix = f"{where}:{line}: " if where and line else f"{where}: " if where else ""
    if detail["type"] == "extra_forbidden":
        siblings = _fields_at(cls, tree, keys[:-1])
        full = [".".join([*keys[:-1], name]) for name in siblings]
        return f"{prefix}unknown key '{dotted}'{did_you_mean(dotted, full)}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if detail["type"] == "missing":
        return f"{prefix}'{dotted}' is missing"
    got = "" if isinstance(detail["input"], dict | Config) else f", got {detail['input']!r}"
    return f"{prefix}'{dotted}': {message}{got}"


def _known_words(tree: Any) -> set[str]:
    if isinstance(tree, dict):
        return {str(key) for key in tree}.union(*(_known_words(value) for value in tree.values()))
    if isinstance(tree, list | tuple):
        return set().union(*(_known_words(value) for value in tree)) if tree else set()
    return set()


def _fields_at(cls: type[Config], tree: Any, keys: list[str]) -> list[str]:
    """The field names of the configuration class that stands at ``keys``, as well as it can be told."""
    current: Any = cls
    for key in keys:
        tree = (tree.get(key) if isinstance(tree, dict) else tree[int(key)] if isinstance(tree, list | tuple) else None) or {}
        if isinstance(current, type) and issubclass(current, Config) and key in current.model_fields:
            current = current.model_fields[key].annotation
        classes = list(_classes(current))
        if isinstance(tree, dict) and "kind" in tree:
            classes = [c for base in classes if issubclass(base, Component) for c in [base.kinds().get(tree["kind"])] if c] or classes
        current = classes[0] if classes else None
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, Config) else []


def _classes(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _classes(argument)
