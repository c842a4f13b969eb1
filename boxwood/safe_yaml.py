"""YAML for configurations: only plain data, every key with its line, and no file that can harm.

Plain words mean what they mean in YAML 1.2: ``1e-3`` is a number; ``no``, ``1:30`` and ``2017-01-01`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from boxwood.errors import UserError

__all__ = ["dump", "parse", "parse_mapping", "read"]

MAX_BYTES = 100_000
MAX_DEPTH = 30


def parse(text: str) -> Any:
    """The value of a YAML text without comments.

    Raises `UserError` ("is not valid YAML (...)", to be put behind the name of the text) where it is not YAML, nests
    deeply, or uses aliases or tags: those make a small file huge, or objects of it. It is also raised where a ``#`` begins
    a comment: in a single value the ``#`` was probably meant.

    >>> parse("{lr: 1e-3, drops: [0.5, 1], device: no}")
    {'lr': 0.001, 'drops': [0.5, 1], 'device': 'no'}
    """
    if comment := _comment(text):
        short = comment if len(comment) <= 40 else f"{comment[:40]} ..."
        raise UserError(f"would be cut at {short!r}, which is a comment in YAML; put text that holds ' #' in quotes, or remove it")
    return _parse(text)[0]


def parse_mapping(text: str, where: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping that a YAML text holds, and the line on which each dotted key stands; ``where`` names it in messages.

    Raises `UserError` where it is not YAML (see `parse`), larger than any configuration, not a mapping, or has a key twice.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{where}: is larger than {MAX_BYTES} bytes, so it is no configuration")
    try:
        tree, node = _parse(text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if not isinstance(tree, dict):
        got = "nothing" if tree is None else type(tree).__name__
        raise UserError(f"{where}: a configuration is a mapping of keys to values, got {got}")
    lines: dict[str, int] = {}
    for key, line in _lines(node, ()):
        if key in lines:
            raise UserError(f"{where}:{line}: the key {key!r} stands twice; keep one")
        lines[key] = line
    return tree, lines


def read(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """`parse_mapping` of a file. Raises `UserError` also where it is missing, larger than any configuration, or not text."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name an existing YAML file") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: is larger than {MAX_BYTES} bytes, so it is no configuration")
    try:
        return parse_mapping(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; name a YAML file") from None


def dump(tree: dict[str, Any]) -> str:
    """A tree of mappings, lists and scalars as YAML, innermost collections on one line; `parse` gives it back unchanged.

    >>> print(dump({"lr": 0.02, "backbone": {"kind": "resnet", "depth": 50}, "name": "1e-3"}), end="")
    lr: 0.02
    backbone: {kind: resnet, depth: 50}
    name: '1e-3'
    """
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  (not shared, so that the resolvers added below do not reach other loaders)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_NUMBER = re.compile(r"[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9](?:_?[0-9]){0,40}$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))  # 010 is ten, not eight
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))  # so that the text '1e-3' is quoted


def _parse(text: str) -> tuple[Any, yaml.Node | None]:
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            tag = event.tag if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) else None
            if isinstance(event, yaml.AliasEvent):
                raise _refused(event, "aliases such as *name are not accepted")
            if tag not in (None, "!"):
                raise _refused(event, f"the tag {tag!r} is not accepted")
            if depth > MAX_DEPTH:
                raise _refused(event, f"nested more than {MAX_DEPTH} deep")
        return yaml.load(text, Loader=_Loader), yaml.compose(text, Loader=_Loader)  # noqa: S506  (_Loader is a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark and mark.line else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"is not valid YAML ({reason}{line})") from None


def _comment(text: str) -> str:
    """The first comment of a YAML text with all that follows it, or an empty string."""
    if "#" not in text:
        return ""
    end = depth = 0
    try:
        for token in yaml.scan(text, Loader=_Loader):
            if "#" in text[end : token.start_mark.index]:
                return text[text.index("#", end) :]
            end = token.end_mark.index
            depth += isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken)
            depth -= isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken)
            if depth > MAX_DEPTH:
                break  # `_parse` refuses it
    except yaml.YAMLError:
        pass  # `_parse` says what is wrong
    return ""


def _refused(event: yaml.Event, problem: str) -> UserError:
    line = f", line {event.start_mark.line + 1}" if event.start_mark and event.start_mark.line else ""
    return UserError(f"is not valid YAML ({problem}{line})")


def _lines(node: yaml.Node | None, path: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield ".".join(here), key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*path, str(index)))
