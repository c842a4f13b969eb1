"""The JSON reader, compared with the standard library's, and columns of numbers read from its rows."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.columns import Columns, are_counts, is_number, is_point, is_whole, read_json, short
from boxwood.errors import UserError

NUMBERS = st.integers() | st.floats() | st.integers(-(2**70), 2**70)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "bbox", "é"]), inner),
    max_leaves=12,
)


def outcome(read: Any, content: bytes) -> str:
    """The repr of what a reader returns, or "refused"; repr distinguishes 1 from 1.0 and -0.0 from 0.0."""
    try:
        return repr(read(content))
    except (ValueError, RecursionError, UserError):
        return "refused"


@settings(max_examples=100, deadline=None)
@given(
    value=VALUES,
    ascii_only=st.booleans(),
    indent=st.none() | st.just(1),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_json_is_read_as_the_standard_library_does(
    tmp_path_factory: pytest.TempPathFactory, value: Any, ascii_only: bool, indent: int | None, encoding: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "values.json"
    content = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(encoding, "surrogatepass")
    path.write_bytes(content)
    assert outcome(lambda _: read_json(path, "name another"), content) == outcome(json.loads, content)


BYTES = st.sampled_from(list(b'0123456789.eE+-"\\[]{},: \n\tuNaIi\x00\x1f\xed\xff'))
EDITS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), BYTES), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(value=VALUES, edits=EDITS)
def test_damaged_json_is_refused_as_the_standard_library_does(
    tmp_path_factory: pytest.TempPathFactory, value: Any, edits: list[tuple[int, int, int]]
) -> None:
    content = bytearray(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    for place, length, byte in edits:
        content[place : place + length] = bytes([byte])
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(content)
    assert outcome(lambda _: read_json(path, "name another"), bytes(content)) == outcome(json.loads, bytes(content))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        '{"height": 640.0, "area": NaN, "score": -Infinity}',
        "123456789012345678901234567890",
        "-0",
        "-0.0",
        "1e400",
        "1" * 5000,
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\u0000"',
        '"\x7f"',
        "[1,]",
        "01",
        "1.",
        "[" * 500 + "]" * 500,
        "[" * 100_000,
        "",
        "0.1e-400",
        "2.2250738585072011e-308",
        "9007199254740993.0",
        "1 2",
        '"\x01"',
    ],
)
def test_unusual_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "corner.json"
    path.write_text(text, encoding="utf-8")
    assert outcome(lambda _: read_json(path, "name another"), b"") == outcome(json.loads, text.encode())
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "{path}: cannot be read (no such file or directory); name another"),
        (b'{"a":\n 1,,}', "{path}:2: is not JSON (Expecting property name enclosed in double quotes, column 4); name another"),
        (b'"\xff"', "{path}: is not JSON ('utf-8' codec can't decode byte 0xff in position 1: invalid start byte); name another"),
    ],
)
def test_a_file_that_is_not_json_is_an_error_of_one_line(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path, "name another")
    assert str(error.value) == message.format(path=path)


def test_checks_of_numbers() -> None:
    whole = [0, -5, 640.0, True, 2**63 - 1]
    assert all(map(is_whole, whole)) and not any(map(is_whole, [1.5, 2**63, 1e19, "1", None, [], float("nan"), float("inf")]))
    numbers = [0, 1.5, float("nan"), float("-inf"), -(2**63) + 1]
    assert all(map(is_number, numbers)) and not any(map(is_number, [True, "1", None, 2**63, [1]]))
    assert are_counts([0, 2**32 - 1]) and not any(map(are_counts, [[-1], [2**32], [1.0], [True], "11", None]))
    assert is_point([1, 2.5]) and not any(map(is_point, [[1], [1, 2, 3], (1, 2), [1, float("nan")], [1, 1e6], [True, 1], "ab"]))


def test_columns() -> None:
    rows = [
        {"id": 1, "n": 640.0, "x": 1, "box": [1, 2.5], "name": "a"},
        {"id": 2, "n": True, "x": None, "box": [3, float("nan")], "name": "é"},
    ]
    columns = Columns(rows, "a.json")
    assert columns.integers("n").tolist() == [640, 1] and columns.integers("n").dtype == np.int64
    assert columns.integers("crowd", default=0).tolist() == [0, 0]
    np.testing.assert_array_equal(columns.numbers("x", optional=True), [1, np.nan])
    np.testing.assert_array_equal(columns.vectors("box", 2), [[1, 2.5], [3, np.nan]])
    assert columns.texts("name") == ["a", "é"]
    nothing = Columns([], "a.json")
    assert nothing.vectors("box", 4, finite=True).shape == (0, 4) and nothing.numbers("x", finite=True).shape == (0,)


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (lambda c: c.integers("n"), "row 1 (image id 7): 'n' must be a whole number, got 1.5"),
        (lambda c: c.integers("image_id"), "row 2: 'image_id' must be a whole number, got nothing"),
        (lambda c: c.numbers("n"), "row 2: 'n' must be a number, got nothing"),
        (lambda c: c.numbers("x", finite=True), "row 1 (image id 7): 'x' must be a number, got nan"),
        (lambda c: c.vectors("box", 2), "row 1 (image id 7): 'box' must be 2 numbers, got [1]"),
        (lambda c: c.vectors("box", 1, "a side"), "row 0 (image id 5): 'box' must be a side, got [1, 2]"),
        (lambda c: c.texts("name"), "row 0 (image id 5): 'name' must be text, got ''"),
        (lambda c: c.texts("long"), f"row 0 (image id 5): 'long' must be text, got [{'0, ' * 18}0,... (99 values)"),
    ],
)  # fmt: skip
def test_a_message_names_the_row(take: Any, message: str) -> None:
    rows = [
        {"image_id": 5, "n": 1, "x": 1, "box": [1, 2], "name": "", "long": [0] * 99},
        {"image_id": 7, "n": 1.5, "x": float("nan"), "box": [1], "name": "b", "long": "b"},
        {"x": 2, "box": [1, 2], "name": "c", "long": "c"},
    ]
    with pytest.raises(UserError) as error:
        take(Columns(rows, "a.json", "rows", "image_id"))
    assert str(error.value) == f"a.json: rows {message}; correct the file"


def test_values_in_messages_are_short() -> None:
    assert short(10**5000) == "a number of 16610 bits" and short(-(10**69)) == repr(-(10**69))[:57] + "..."
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    wide = [[["x" * 10**6] * 1000] * 1000] * 1000  # 10**15 characters as text
    for value in (nested, wide, {"a": nested}, "y" * 10**7, b"z" * 10**7, {i: i for i in range(10**5)}):
        assert len(short(value)) < 90
    assert short({"a": [1, (2, None)]}) == "{'a': [1, (2, None)]}" and short("é\n") == r"'é\n'"


def test_a_row_must_be_a_mapping() -> None:
    with pytest.raises(UserError, match=r"^a\.json: row 1: must be a mapping, got \[\]; correct the file$"):
        Columns([{}, []], "a.json")
