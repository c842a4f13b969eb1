"""Typed configurations: how they are declared, read, overridden, compared and written.

A configuration is a tree of `Config` classes. The same tree is built in Python by a recipe function, read
from YAML, and edited on the command line as ``key=value`` with dotted keys; a mistake in any of the three is
one `ConfigError` that names every wrong key, where it stands, and the nearest right one.

A part that can be exchanged (a backbone, a data set, a transform) derives from `Component`: its ``kind`` says
which class it is. ``kind`` of a class outside Boxwood is ``module:Class``; it is looked up among the classes
that are already imported, so that no file can import code by naming it.

The file knows nothing of detectors: the tree itself is `boxwood.run_config.RunConfig`.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from boxwood import safe_yaml
from boxwood.errors import UserError
from boxwood.safe_yaml import read as read_yaml

__all__ = [
    "Component",
    "Config",
    "ConfigError",
    "apply_overrides",
    "did_you_mean",
    "differences",
    "from_tree",
    "from_yaml",
    "overlay",
    "read_yaml",
    "to_tree",
    "to_yaml",
]

logger = logging.getLogger(__name__)

C = TypeVar("C", bound="Config")


class ConfigError(UserError):
    """Every mistake of a configuration at once, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class UnknownAttributeError(ConfigError, AttributeError):
    """A misspelt key, set as an attribute in Python."""


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, also by attribute, and values are checked on assignment.

    Fields are scalars, strings, tuples of those, and other configurations; a list given for a tuple becomes one.

    >>> class Optim(Config):
    ...     lr: float = 0.02
    >>> optim = Optim()
    >>> optim.rl = 0.1
    Traceback (most recent call last):
    boxwood.config.UnknownAttributeError: Optim has no key 'rl' (did you mean 'lr'?)
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        validate_assignment=True,
        validate_default=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    if not TYPE_CHECKING:  # with these, a type checker would accept any field

        def __init__(self, **values: Any) -> None:
            try:
                self.__pydantic_validator__.validate_python(values, self_instance=self)
            except ValidationError as error:
                name = type(self).__name__
                raise ConfigError([f"{name}: {p}" for p in _problems(type(self), values, error)]) from None

        __init__.__pydantic_base_init__ = True  # pydantic need not call it for the configurations inside another

        def __setattr__(self, name: str, value: Any) -> None:
            fields = type(self).model_fields
            if not name.startswith("_") and name not in fields:
                return self._set_unknown(name, value)
            value = _tuples(value)
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                problems = _problems(type(self), {name: value}, error)
                raise ConfigError([f"{type(self).__name__}: {problem}" for problem in problems]) from None

    def _set_unknown(self, name: str, value: Any) -> None:
        """Called in the place of an assignment to a key that there is not; a class whose keys have moved may set the new one."""
        raise UnknownAttributeError([f"{type(self).__name__} has no key {name!r}{did_you_mean(name, type(self).model_fields)}"])

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: Any) -> Any:
        """YAML and JSON know only lists; every sequence of a configuration is a tuple."""
        return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


_DESCRIBED: set[type[Component]] = set()
"""The components whose JSON Schema is being made."""


class Component(Config):
    """A configuration of one of several exchangeable classes, which ``kind`` names.

    A field annotated with a base component accepts any subclass. In a file it is a mapping whose ``kind`` names
    the subclass: its ``short_kind`` for a built-in one, ``module:Class`` for a user-defined one.
    """

    short_kind: ClassVar[str] = ""
    """Built-in components set this; a user's class leaves it empty and is known as ``module:Class``."""
    kind_alone: ClassVar[bool] = False
    """Whether text is read as the kind: older files have ``schedule: cosine``, which is ``schedule: {kind: cosine}`` now."""

    @classmethod
    def kind(cls) -> str:
        """The name of this class in files and on the command line."""
        return cls.__dict__.get("short_kind") or f"{cls.__module__}:{cls.__qualname__}"

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """This class and those below it that are imported now and can be used as they are, by kind."""
        below = [cls]
        for candidate in below:
            below.extend(candidate.__subclasses__())
        return {candidate.kind(): candidate for candidate in below if not inspect.isabstract(candidate)}

    @classmethod
    def keys_of_all_kinds(cls) -> Iterable[str]:
        """The keys whose values stay when an override exchanges ``kind``; by default none."""
        return ()

    @classmethod
    def of_kind_alone(cls, kind: str, key: str = "") -> dict[str, Any]:
        """The mapping that the text ``kind`` abbreviates where `kind_alone` allows it; logs a line."""
        logger.info("%s: %r is now {kind: %s}", key or cls.__name__, kind, kind)
        return {"kind": kind}

    @model_validator(mode="wrap")
    @classmethod
    def _choose_class(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if cls.kind_alone and isinstance(value, str):
            value = cls.of_kind_alone(value)
        if not isinstance(value, dict):
            return handler(value)
        value = dict(value)
        kind = value.pop("kind", None if inspect.isabstract(cls) else cls.kind())
        subclass = cls.kinds().get(kind) if isinstance(kind, str) else None
        if subclass is None:
            hint = did_you_mean(str(kind), cls.kinds())
            if isinstance(kind, str) and ":" in kind:
                hint = f"; import its module first (--import {kind.split(':')[0]})"
            raise ValueError(f"needs its kind{hint}" if kind is None else f"has an unknown kind {kind!r}{hint}")
        return handler(value) if subclass is cls else subclass.model_validate(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One alternative per kind, so that an editor can complete the keys of each. A component nested in a component of the same
        base (the parts of a mixture of data sets) is described only as an object with one of the kinds."""
        if cls in _DESCRIBED:
            return {"type": "object", "properties": {"kind": {"enum": list(cls.kinds())}}}
        _DESCRIBED.add(cls)
        try:
            return cls._described(core_schema, handler)
        finally:
            _DESCRIBED.discard(cls)

    @classmethod
    def _described(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        alternatives = []
        for kind, subclass in cls.kinds().items():
            schema = handler.resolve_ref_schema(handler(core_schema if subclass is cls else subclass.__pydantic_core_schema__))
            alternatives.append({**schema, "properties": {"kind": {"const": kind}, **schema.get("properties", {})}})
        return {"anyOf": alternatives}


# ------------------------------------------------------------------------------------------------ trees and text


def to_tree(config: Config) -> dict[str, Any]:
    """The configuration as plain mappings, lists and scalars, each component with its ``kind``."""
    tree: dict[str, Any] = {"kind": config.kind()} if isinstance(config, Component) else {}
    for name in type(config).model_fields:
        tree[name] = _plain(getattr(config, name))
    return tree


def from_tree(cls: type[C], tree: dict[str, Any], where: str = "", lines: dict[str, int] | None = None) -> C:
    """Validate ``tree`` as a ``cls``; ``where`` names the file it came from, ``lines`` the line of each dotted key.

    Raises `ConfigError` with all mistakes at once.
    """
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_problems(cls, tree, error, where, lines or {})) from None


def overlay(config: C, tree: dict[str, Any], where: str = "", lines: dict[str, int] | None = None) -> C:
    """A copy of ``config`` whose values are replaced by those of ``tree``, mapping by mapping.

    A component whose ``kind`` changes starts from the defaults of its new class, but for its `keys_of_all_kinds`.
    Raises `ConfigError`.
    """
    try:
        merged = _merge(to_tree(config), tree, config)
    except ConfigError as error:
        raise ConfigError([f"{where}: {problem}" for problem in error.problems]) from None
    return from_tree(type(config), merged, where, lines)


def to_yaml(config: Config) -> str:
    """The complete configuration as YAML; `from_yaml` gives it back unchanged."""
    return safe_yaml.dump(to_tree(config))


def from_yaml(cls: type[C], text: str, where: str = "") -> C:
    """The configuration that `to_yaml` wrote. Raises `UserError` where the text is not YAML, else `ConfigError`."""
    tree, lines = safe_yaml.parse_mapping(text, where)
    return from_tree(cls, tree, where, lines)


def apply_overrides(config: C, overrides: Iterable[str]) -> C:
    """A copy of ``config`` with each ``dotted.key=value`` applied.

    A value of text (``str``) is taken as it is written, blanks and quotes too; ``null`` is None where the field may be None, and
    ``[a, b]`` is a list where it may be a list. Every other value is read as YAML without comments.

    An index selects an element of a tuple (``data.train.transforms.0.p=0``). A mapping is laid over what is there; setting
    ``….kind`` starts that component from its defaults (but for `Component.keys_of_all_kinds`), whatever the order. Raises
    `ConfigError` with all mistakes at once.

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
    texts: list[tuple[list[str], str]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            problems.append(f"{_short(override)} is not key=value")
            continue
        texts.append((key.strip().split("."), text))
    tree = to_tree(config)
    changes: list[tuple[list[str], Any]] = []
    for path, text in sorted(texts, key=lambda pair: (len(pair[0]), pair[0][-1] != "kind")):
        try:
            value = _read_value(text, _types_at(type(config), tree, path))
        except UserError as error:
            problems.append(f"{_short('.'.join(path) + '=' + text)}: the value {error}")
            continue
        changes.append((path, value))
        for key in reversed(path):
            value = {key: value}
        try:
            tree = _merge(tree, value, config)
        except ConfigError as error:
            problems.extend(error.problems)
    for path, value in changes:
        below = [".".join(other) for other, _ in changes if value is None and len(other) > len(path) and other[: len(path)] == path]
        if below:
            problems.append(f"{'.'.join(path)}=null contradicts {below[0]}; leave out one of them")
    try:
        changed = from_tree(type(config), tree)
    except ConfigError as error:
        problems.extend(error.problems)
    if problems:
        raise ConfigError(problems)
    return changed


def differences(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """The dotted keys whose values differ, with both values as `to_tree` gives them (None where one side lacks the key).

    >>> class Optim(Config):
    ...     lr: float = 0.02
    >>> differences(Optim(), Optim(lr=0.01))
    [('lr', 0.02, 0.01)]
    """
    return list(_differences(to_tree(a), to_tree(b), ()))


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest candidate, the candidates where none is near, or an empty string.

    >>> did_you_mean("batchsize", ["batch_size", "seed"])
    " (did you mean 'batch_size'?)"
    """
    names = list(candidates)
    if near := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f" (did you mean {near[0]!r}?)"
    return f" (known: {', '.join(names)})" if 0 < len(names) <= 12 else ""


# ------------------------------------------------------------------------------------------------------ internals


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return to_tree(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _read_value(text: str, types: Sequence[Any]) -> Any:
    """The value of an override for a field of these types. Raises `UserError`, to be put behind the name of the value."""
    if text == "null" and NoneType in types:
        return None
    lists = [choice for choice in types if get_origin(choice) is tuple]
    others = [choice for choice in types if choice not in (str, NoneType, *lists)]
    if text in types or (str in types and not others and not (lists and text.startswith("["))):
        return text
    return safe_yaml.parse(text)


def _differences(a: Any, b: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _differences(a.get(key), b.get(key), (*path, str(key)))
    elif isinstance(a, list) and isinstance(b, list) and any(isinstance(item, dict) for item in a + b):
        for index, (left, right) in enumerate(zip_longest(a, b)):
            yield from _differences(left, right, (*path, str(index)))
    elif a != b:
        yield ".".join(path), a, b


def _merge(old: Any, new: Any, config: Any, path: tuple[str, ...] = ()) -> Any:
    """``new`` laid over ``old``, mapping by mapping; ``config`` is what ``old`` was made from, as far as it is known."""
    if isinstance(config, Component) and config.kind_alone and isinstance(new, str):
        new = config.of_kind_alone(new, ".".join(path))
    if not isinstance(new, dict):
        return new
    if isinstance(old, list):
        for key in new:
            if not str(key).isdecimal() or int(key) >= len(old):
                dotted = ".".join([*path, str(key)])
                raise ConfigError([f"unknown key {dotted!r}: {'.'.join(path)!r} is a list of {len(old)}, counted from 0"])
        parts = {int(key): value for key, value in new.items()}
        known = config if isinstance(config, tuple) else (None,) * len(old)
        return [_merge(item, parts[i], known[i], (*path, str(i))) if i in parts else item for i, item in enumerate(old)]
    exchanged = isinstance(config, Component) and isinstance(old, dict) and new.get("kind", old.get("kind")) != old.get("kind")
    if exchanged:
        old = {key: old[key] for key in config.keys_of_all_kinds() if key in old}
    if not isinstance(old, dict) or not old:
        return new
    return {
        **old,
        **{key: _merge(old.get(key), value, getattr(config, str(key), None), (*path, str(key))) for key, value in new.items()},
    }


def _problems(
    cls: type[Config], tree: Any, error: ValidationError, where: str = "", lines: dict[str, int] | None = None
) -> list[str]:
    """One line for each wrong key: the file and line, the key, what is wrong, what stands there."""
    problems: dict[str, str] = {}
    lines = lines or {}
    for detail in error.errors(include_url=False):
        keys = _keys_of(tree, detail)
        dotted = ".".join(keys)
        line = next((lines[key] for n in range(len(keys), 0, -1) if (key := ".".join(keys[:n])) in lines), None)
        place = f"{where}:{line}: " if where and line else f"{where}: " if where else ""
        if detail["type"] == "extra_forbidden":
            problems[dotted] = f"{place}unknown key {dotted!r}{_nearest_key(cls, tree, keys)}"
        elif detail["type"] == "missing":
            problems[dotted] = f"{place}{dotted!r} is missing"
        elif dotted in problems:  # another alternative of a union
            problems[dotted] += f"; or it {_message(detail)}"
        else:
            got = "a mapping" if isinstance(detail["input"], dict) else _short(detail["input"])
            problems[dotted] = f"{place}{dotted!r} {_message(detail)}" + ("" if detail["type"] == "value_error" else f", got {got}")
    return list(problems.values())


_WORDS = {"model_type": "should be a mapping of keys to values", "tuple_type": "should be a list", "string_type": "should be text"}


def _message(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("\n", " ")
    return _WORDS.get(detail["type"], message)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]} ... {text[-10:]}"


def _keys_of(tree: Any, detail: ErrorDetails) -> list[str]:
    """Where an error stands as keys of the tree: pydantic also names validators and the alternatives of a union."""
    keys: list[str] = []
    for part in detail["loc"]:
        here = isinstance(tree, dict) and part in tree
        if here or (isinstance(tree, list | tuple) and isinstance(part, int) and part < len(tree)):
            tree = tree[part]
        elif detail["type"] != "missing" or part != detail["loc"][-1]:
            continue
        keys.append(str(part))
    return keys


def _nearest_key(cls: type[Config], tree: Any, keys: list[str]) -> str:
    """A suggestion for the unknown key at the end of ``keys``: at the top the same name deeper down, else a near name beside it."""
    classes = [owner for owner in _types_at(cls, tree, keys[:-1]) if _is_config(owner)]
    beside = {".".join([*keys[:-1], field]) for owner in classes for field in owner.model_fields}
    elsewhere = [key for key in _all_keys(cls) if key.endswith(f".{keys[-1]}")]
    if len(keys) == 1 and elsewhere:
        return f" (did you mean {elsewhere[0]!r}?)"
    for owner in classes:
        beside_it = _siblings(owner)
        if having := [kind for kind, sibling in beside_it.items() if keys[-1] in sibling.model_fields]:
            kind = next(kind for kind, sibling in beside_it.items() if sibling is owner)
            return f": the kind {kind!r} has none, only {', '.join(map(repr, having[:4]))}"
    return did_you_mean(".".join(keys), sorted(beside))


def _siblings(owner: type[Config]) -> dict[str, type[Component]]:
    """The kinds beside a component, by name."""
    bases = [base for base in owner.__mro__ if issubclass(base, Component) and base is not Component]
    return bases[-1].kinds() if bases else {}


def _all_keys(cls: type[Config], path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield ".".join((*path, name))
        for inner in _classes(field.annotation):
            yield from _all_keys(inner, (*path, name))


def _types_at(cls: type[Config], tree: Any, keys: Sequence[str]) -> list[Any]:
    """What may stand at ``keys``: types, and the values of a Literal; nothing where there is no such key.

    A component is of the class that its ``kind`` in ``tree`` names.
    """
    types = _of_kind([cls], tree)
    for key in keys:
        below: list[Any] = []
        for choice in types:
            if _is_config(choice):
                below.extend(_alternatives(choice.model_fields[key].annotation) if key in choice.model_fields else ())
            elif get_origin(choice) is tuple and key.isdecimal():
                items = [item for item in get_args(choice) if item is not Ellipsis]
                below.extend(_alternatives(items[min(int(key), len(items) - 1)]) if items else ())
        if isinstance(tree, dict):
            tree = tree.get(key)
        else:
            tree = tree[int(key)] if isinstance(tree, list | tuple) and key.isdecimal() and int(key) < len(tree) else None
        types = _of_kind(below, tree)
    return types


def _of_kind(types: Sequence[Any], tree: Any) -> list[Any]:
    kind = tree.get("kind") if isinstance(tree, dict) else None
    if not isinstance(kind, str):
        return list(types)
    return [
        choice.kinds().get(kind, choice) if _is_config(choice) and issubclass(choice, Component) else choice for choice in types
    ]


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types of a union, and the values of a Literal."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (Union, UnionType):
        for argument in get_args(annotation):
            yield from _alternatives(argument)
    elif get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    else:
        yield annotation


def _is_config(choice: Any) -> bool:
    return isinstance(choice, type) and issubclass(choice, Config)


def _classes(annotation: Any) -> Iterator[type[Config]]:
    """The configuration classes that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _classes(argument)
