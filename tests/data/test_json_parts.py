"""A JSON file read in parts has the rows that the json module reads."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.data import json_parts
from boxwood.data.annotations import read_coco_tree
from boxwood.data.coco_file import coco_file_in_parts, coco_file_of
from boxwood.data.json_parts import JsonSections
from boxwood.data.synthetic.shapes import write_shapes

TEXTS = st.sampled_from(["", "a", "}, {", "},{", '"},{"', "\\", "}", "[{", "é", "]"])
VALUES = st.recursive(
    st.one_of(st.integers(-9, 9), TEXTS, st.none(), st.floats(-1, 1)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), max_size=30)
WRITTEN = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"separators": (" , ", " : ")}])


@settings(max_examples=150)
@given(ROWS, WRITTEN, st.sampled_from([(16, 8), (60, 30), (200, 100)]))
def test_rows_are_those_of_the_json_module(rows: list[Any], written: dict[str, Any], sizes: tuple[int, int]) -> None:
    """Or the file is refused, and then read as a whole: never other rows."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_parts, "WINDOW", sizes[0])
        patch.setattr(json_parts, "_TAIL", sizes[1])
        path = Path(folder, "a.json")
        path.write_text(json.dumps({"x": [1], "rows": rows, "y": {"z": None}}, **written), encoding="utf-8")
        sections = JsonSections(path, ("rows",), ("y",))
        assert sections.others == {"y": {"z": None}}
        try:
            parts = list(sections.rows("rows"))
        except ValueError:
            return
    assert [row for part in parts for row in part] == rows


def test_rows_come_in_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parts, "WINDOW", 100)
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"rows": [{"id": number} for number in range(100)]}))
    parts = list(JsonSections(path, ("rows",), ()).rows("rows"))
    assert len(parts) > 10 and [row["id"] for part in parts for row in part] == list(range(100))


def test_a_coco_file_in_parts_has_the_arrays_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shapes(tmp_path, train=12, val=1, seed=0, size=(96, 128))
    path = tmp_path / "train.json"
    whole = coco_file_of(read_coco_tree(path), path)
    monkeypatch.setattr(json_parts, "WINDOW", 700)
    monkeypatch.setattr(json_parts, "_TAIL", 700)
    file = coco_file_in_parts(path, path)
    assert file is not None
    for field in dataclasses.fields(whole):
        ours, expected = getattr(file, field.name), getattr(whole, field.name)
        pairs = [(ours, expected)]
        if dataclasses.is_dataclass(expected):
            pairs = [(getattr(ours, part.name), getattr(expected, part.name)) for part in dataclasses.fields(expected)]
        for one, other in pairs:
            np.testing.assert_array_equal(one, other, err_msg=field.name)
