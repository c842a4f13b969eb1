"""Selective search's boxes from MATLAB files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from boxwood.data.proposals import read_proposals
from tests.conftest import Boxwood

COCO = {
    "images": [{"id": i, "file_name": f"{name}.jpg", "height": 50, "width": 60} for i, name in ((8, "000012"), (3, "000005"))],
    "annotations": [],
    "categories": [{"id": 1, "name": "cat"}],
}


def cells(items: list[Any]) -> np.ndarray[Any, np.dtype[np.object_]]:
    array = np.empty((1, len(items)), dtype=np.object_)
    array[0] = items
    return array


FIRST, SECOND = np.array([[1, 1, 50, 60], [11, 21, 20, 40]], np.uint16), np.zeros((0, 4))
"""y1, x1, y2, x2, counted from 1 and including the last pixel; one image has no boxes."""


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "voc.json"
    path.write_text(json.dumps(COCO))
    return path


@pytest.mark.parametrize("named", [True, False])
def test_boxes_of_a_data_set(
    named: bool, annotations: Path, boxwood: Boxwood, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"images": np.array([["other"], ["000012"], ["000005"]], dtype=np.object_)} if named else {}
    others = [np.ones((1, 4))] if named else []
    savemat(tmp_path / "ss.mat", {"boxes": cells([*others, *((SECOND, FIRST) if named else (FIRST, SECOND))]), **names})
    out = tmp_path / "ss.safetensors"
    done = boxwood("data", "proposals", tmp_path / "ss.mat", "--annotations", annotations, "--out", out)
    assert done.status == 0, done.err
    assert done.out == f"{out}: 2 boxes of 2 images\n"
    assert ("boxes of 1 images that are not in the data set" in caplog.text) == named
    file = read_proposals(out)
    assert file.image_ids.tolist() == [3, 8]
    assert file.of(3).tolist() == [[0, 0, 60, 50], [20, 10, 40, 20]] and file.of(8).tolist() == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"boxes": cells([FIRST])}, "has boxes of 1 images, the data set has 2"),
        ({"boxes": cells([FIRST, np.ones((2, 3))])}, "image id 8: expected boxes (n, 4)"),
        ({"boxes": np.ones((2, 4))}, "holds no cell array 'boxes'"),
        ({"boxes": cells([FIRST, SECOND]), "images": np.array([["a"], ["b"]], dtype=np.object_)}, "no boxes for 2 images, such as"),
        ({"boxes": cells([FIRST, np.full((1, 4), np.nan)])}, "image id 8: has boxes of nan or infinity"),
        ({"boxes": cells([FIRST, SECOND]), "images": np.array([["a"]], dtype=np.object_)}, "has 1 names of images for boxes of 2"),
        ({"boxes": cells([FIRST, SECOND]), "images": np.array([["a"], ["a"]], dtype=np.object_)}, "'a' is the name of two images"),
        (b"MATLAB 5.0 MAT-file, cut", "is no MATLAB file"),
        (None, "cannot be read"),
    ],
)
def test_error_of_a_wrong_file_is_one_line(content: Any, message: str, annotations: Path, boxwood: Boxwood, tmp_path: Path) -> None:
    path, out = tmp_path / "ss.mat", tmp_path / "ss.safetensors"
    if isinstance(content, dict):
        savemat(path, content)
    elif content is not None:
        path.write_bytes(content)
    done = boxwood("data", "proposals", path, "--annotations", annotations, "--out", out)
    assert done.status == 2 and len(done.error_lines) == 1 and message in done.err and not out.exists()


def test_images_that_differ_in_their_folder_alone(boxwood: Boxwood, tmp_path: Path) -> None:
    """Selective search's names have no folders, so boxes of one would be taken for both."""
    rows = [{**row, "file_name": f"{row['id']}/000005.jpg"} for row in COCO["images"]]
    (tmp_path / "a.json").write_text(json.dumps({**COCO, "images": rows}))
    savemat(tmp_path / "ss.mat", {"boxes": cells([FIRST]), "images": np.array([["000005"]], dtype=np.object_)})
    done = boxwood(
        "data", "proposals", tmp_path / "ss.mat", "--annotations", tmp_path / "a.json", "--out", tmp_path / "s.safetensors"
    )
    assert done.status == 2 and "is the name of two images of the data set" in done.err
