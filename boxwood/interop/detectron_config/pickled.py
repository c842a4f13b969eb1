"""The configuration inside a ``.pkl`` of Detectron: YAML with tags of Python objects, read as plain data.

Its tags name classes of Detectron and numpy. Only these few are known here, and only their contents are read; nothing is imported
or called, and any other name is refused.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import Any

import numpy as np
import yaml

from boxwood.errors import UserError
from boxwood.interop.detectron_config.convert import Converted, from_detectron
from boxwood.interop.detectron_config.values import Note
from boxwood.interop.foreign import errors_of_file

__all__ = ["from_embedded", "parse_embedded"]

MAX_CHARACTERS = 200_000
MAX_DEPTH = 40
MAX_NODES = 50_000
"""Maximum number of nodes of the text with its aliases expanded; dumps use aliases for repeated values, such as numpy's types."""

_YAML = "tag:yaml.org,2002:"
_PYTHON = f"{_YAML}python/"
_MAPPINGS = {f"{_PYTHON}object/new:{path}collections.AttrDict" for path in ("utils.", "detectron.utils.")}
_ARRAYS = {f"{_PYTHON}object/apply:numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
_NUMBERS = {f"{_PYTHON}object/apply:numpy.{core}.multiarray.scalar" for core in ("core", "_core")}
_DTYPE = f"{_PYTHON}object/apply:numpy.dtype"
_NDARRAY = f"{_PYTHON}name:numpy.ndarray"
_SCALARS = {f"{_YAML}{kind}" for kind in ("null", "bool", "int", "float", "str", "binary")}
_PYTHONS_SCALARS = {f"{_PYTHON}{kind}": kind for kind in ("str", "unicode", "int", "long", "float", "bool", "none")}
_KNOWN = {f"{_YAML}map", f"{_YAML}seq", f"{_PYTHON}tuple", f"{_PYTHON}list", f"{_PYTHON}dict", _DTYPE, _NDARRAY}
_KNOWN |= _MAPPINGS | _ARRAYS | _NUMBERS | _SCALARS | set(_PYTHONS_SCALARS)
_TYPES = {"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"}


def from_embedded(text: str, where: str = "cfg") -> Converted:
    """The configuration of trained weights: `from_detectron` of `parse_embedded`; keys that cannot be honoured become notes.

    Early weights of Detectron lack ``MODEL.BBOX_REG_WEIGHTS``: their boxes were regressed with weights of 1.
    """
    tree = parse_embedded(text, where)
    model, ones = tree.get("MODEL"), (1.0, 1.0, 1.0, 1.0)
    if not isinstance(model, dict) or "BBOX_REG_WEIGHTS" in model:
        return from_detectron(tree, strict=False, where=where)
    model["BBOX_REG_WEIGHTS"] = ones
    converted = from_detectron(tree, strict=False, where=where)
    note = Note("MODEL.BBOX_REG_WEIGHTS", None, "read as", f"{ones}, since weights without this key are older than it")
    return replace(converted, notes=(*converted.notes, note))


def parse_embedded(text: str, where: str = "cfg") -> dict[str, Any]:
    """The tree of a dumped configuration as dictionaries, lists, tuples and scalars; numpy arrays become lists.

    Raises `UserError` where the text is damaged, too large, or names anything but plain data.

    >>> parse_embedded("!!python/object/new:utils.collections.AttrDict {dictitems: {NUM_GPUS: 8}, state: {__immutable__: true}}")
    {'NUM_GPUS': 8}
    """
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{where}: has {len(text)} characters, more than a configuration of Detectron has")
    with errors_of_file(where):
        try:
            depth = 0
            for event in yaml.parse(text, Loader=yaml.SafeLoader):
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > MAX_DEPTH:
                    raise _Refused(f"is nested more than {MAX_DEPTH} deep")
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            _check(node, 0, [0])
            value = _value(node)
        except _Refused as error:
            raise UserError(f"{where}: {error}") from None
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise UserError(f"{where}: is damaged ({reason})") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: should be a mapping of keys to values, got a {type(value).__name__}")
    return value


class _Refused(Exception):
    """Its message is the reason."""


def _check(node: yaml.Node | None, depth: int, num_nodes: list[int]) -> None:
    """Refuse unknown tags, and aliases that make a small text large or endless."""
    num_nodes[0] += 1
    if depth > MAX_DEPTH or num_nodes[0] > MAX_NODES:
        raise _Refused("is larger, with its aliases expanded, than a configuration of Detectron")
    if node is None:
        return
    if node.tag not in _KNOWN:
        name = node.tag.replace(_YAML, "!!")
        raise _Refused(f"names {name!r:.120}; only plain data, Detectron's mappings and numpy's numbers are read; refused")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _check(key, depth + 1, num_nodes)
            _check(value, depth + 1, num_nodes)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item, depth + 1, num_nodes)


def _value(node: yaml.Node | None) -> Any:
    if node is None:
        return None
    tag = node.tag
    if tag in _MAPPINGS:
        parts = _parts(node)
        if set(parts) - {"dictitems", "state"}:
            raise _Refused(f"has a mapping with {sorted(set(parts) - {'dictitems', 'state'})}, which Detectron's do not have")
        return _value(parts["dictitems"]) if "dictitems" in parts else {}
    if tag in _ARRAYS:
        return _array(_parts(node))
    if tag in _NUMBERS:
        kind, content = _items(node)
        number = np.frombuffer(_bytes(content), _dtype(kind))
        if number.shape != (1,):
            raise ValueError("a numpy number of the wrong length")
        return number[0].item()
    if tag in (_DTYPE, _NDARRAY):
        raise _Refused("has a numpy type where a value should be")
    if isinstance(node, yaml.MappingNode):
        return {str(_value(key)): _value(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        items = [_value(item) for item in node.value]
        return tuple(items) if tag == f"{_PYTHON}tuple" else items
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    kind = _PYTHONS_SCALARS.get(node.tag) or node.tag.removeprefix(_YAML)
    if kind in ("str", "unicode"):
        return text
    if kind in ("int", "long"):
        return int(text.rstrip("L"))
    if kind in ("null", "none"):
        return None
    if kind == "bool":
        return text.lower() in ("true", "yes", "on")
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return _bytes(node).decode("latin-1")


def _parts(node: yaml.Node) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("an object without its parts")
    return {str(key.value): value for key, value in node.value}


def _items(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        node = _parts(node)["args"]
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError("an object without its parts")
    return list(node.value)


def _array(parts: dict[str, yaml.Node]) -> Any:
    if _items(parts["args"])[0].tag != _NDARRAY:
        raise _Refused("has an array that is not numpy's")
    _, shape, kind, by_columns, content = _items(parts["state"])
    array = np.frombuffer(_bytes(content), _dtype(kind))
    return array.reshape(_value(shape), order="F" if _value(by_columns) else "C").tolist()


def _dtype(node: yaml.Node) -> np.dtype[Any]:
    parts = _parts(node)
    name = str(_items(parts["args"])[0].value)
    if node.tag != _DTYPE or name not in _TYPES:
        raise _Refused(f"has an array of {name!r:.60}, which is no number")
    order = str(_items(parts["state"])[1].value) if "state" in parts else "<"
    return np.dtype(name).newbyteorder(">" if order == ">" else "<")


def _bytes(node: yaml.Node) -> bytes:
    text = str(node.value)
    if node.tag != f"{_YAML}binary":
        return text.encode("latin-1")  # bytes of Python 2 that happened to be printable
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
