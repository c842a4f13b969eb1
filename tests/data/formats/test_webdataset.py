"""WebDataset's layout: written and read again nothing differs, and what cannot be carried is counted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxwood.data.annotations import read_annotations
from boxwood.data.formats.convert import convert
from boxwood.data.formats.webdataset import DATASET, read_webdataset, write_webdataset
from boxwood.data.layouts import data_sources
from boxwood.data.shards import open_pictures, shard_paths
from boxwood.errors import UserError
from tests.conftest import Boxwood, repeatable
from tests.data.cases import sound, write
from tests.data.test_shards import tar_of

NAMES = st.from_regex(r"([ab]/)?[ab.é]{0,3}[ab]\.(png|jpg|bin)", fullmatch=True)


@st.composite
def sets(draw: st.DrawFn) -> dict[str, Any]:
    """A COCO dictionary with files of any name, classes without annotations, and all that an annotation may have."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    ids = draw(st.lists(st.integers(0, 2**50), min_size=len(names), max_size=len(names), unique=True))
    images = [{"id": id_, "file_name": name, "height": 40, "width": 60} for id_, name in zip(ids, names, strict=True)]
    annotation = st.fixed_dictionaries(
        {
            "image_id": st.sampled_from(ids),
            "category_id": st.sampled_from([3, 900]),
            "bbox": st.lists(st.integers(1, 30), min_size=4, max_size=4),
            "area": st.integers(1, 900),
            "iscrowd": st.integers(0, 1),
        },
        optional={
            "ignore": st.just(1),
            "segmentation": st.lists(st.lists(st.floats(0, 40), min_size=6, max_size=6), min_size=1, max_size=2),
            "score": st.floats(0, 1),
            "source": st.just("auto"),
            "attributes": st.dictionaries(st.sampled_from("ab"), st.text(max_size=3), min_size=1),
        },
    )
    annotations = draw(st.lists(annotation, max_size=6))
    return {
        "images": images,
        "annotations": [{"id": number, **row} for number, row in enumerate(annotations, start=5)],
        "categories": [{"id": 3, "name": "nut", "supercategory": "food"}, {"id": 900, "name": "fig é"}, {"id": 4, "name": "none"}],
    }


@repeatable
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(coco=sets(), shard_bytes=st.integers(1, 60))
def test_nothing_differs_after_writing_and_reading(
    coco: dict[str, Any], shard_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each image with its bytes, and each annotation with all its keys; the names that are replaced are counted."""
    folder = tmp_path_factory.mktemp("web")
    for number, image in enumerate(coco["images"]):
        (folder / "photos" / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / "photos" / image["file_name"]).write_bytes(bytes([number]) * 20)
    lost = write_webdataset(coco, open_pictures(folder / "photos"), folder / "tars", shard_bytes=shard_bytes)
    assert len(shard_paths(folder / "tars")) == -(-len(coco["images"]) // -(-shard_bytes // 20))
    back, place, not_read = read_webdataset(folder / "tars")
    assert not not_read and place == folder / "tars" and back["categories"] == coco["categories"]
    pictures = open_pictures(folder / "tars")
    assert [{**row, "file_name": ""} for row in back["images"]] == [{**row, "file_name": ""} for row in coco["images"]]
    for number, image in enumerate(back["images"]):
        assert pictures.source(image["file_name"]).content == bytes([number]) * 20  # type: ignore[union-attr]
    assert sorted(back["annotations"], key=lambda row: row["id"]) == coco["annotations"]
    renamed = sum(one["file_name"] != other["file_name"] for one, other in zip(back["images"], coco["images"], strict=True))
    assert lost == ([f"{renamed} names of images (replaced by numbers)"] if renamed else [])
    keys = [re.sub(r"\..*", "", name["file_name"].rpartition("/")[2]) for name in back["images"]]
    assert all(keys) and not any("." in key for key in keys)


def test_the_command_writes_and_reads(tmp_path: Path, boxwood: Boxwood) -> None:
    """COCO to WebDataset and back: the same file, and the same data set where a configuration names the tar files."""
    path = write(tmp_path / "photos", sound())
    done = boxwood("data", "convert", path, tmp_path / "tars", "--to", "webdataset")
    assert done.status == 0 and "not carried" not in done.out, done.err
    assert boxwood("data", "convert", tmp_path / "tars", tmp_path / "back.json").status == 0
    assert boxwood("data", "convert", path, tmp_path / "straight.json").status == 0
    back, straight = (json.loads((tmp_path / name).read_text()) for name in ("back.json", "straight.json"))
    for coco in (back, straight):
        coco["annotations"].sort(key=lambda row: row["id"])
    assert back == straight
    assert (
        boxwood("data", "check", tmp_path / "tars").out.splitlines()[0].startswith(f"{tmp_path / 'tars'}: 3 images, 3 annotations")
    )
    assert data_sources(tmp_path / "tars")["all"].images == tmp_path / "tars"
    again = boxwood("data", "convert", path, tmp_path / "tars", "--to", "webdataset")
    assert again.status == 2 and "has tar files, such as shard-00000.tar; name a new folder" in again.err


def test_tar_files_of_others_without_ids(tmp_path: Path) -> None:
    """Classes by name, sizes from the pictures, ids by their order; what has no partner is counted."""
    write(tmp_path, sound())
    picture = (tmp_path / "wide.png").read_bytes()
    labels = {"annotations": [{"category": "nut", "bbox": [1, 2, 3, 4]}, {"category": "fig", "bbox": [5, 6, 7, 8]}]}
    members = {"x/2.png": picture, "x/2.json": json.dumps(labels).encode(), "1.json": b'{"annotations": []}', "1.png": picture}
    more = {"3.png": picture, "4.json": b"{}", "2.txt": b"", "1.jpg": picture, "._1.json": b"?"}
    tar_of(tmp_path / "a.tar", {**members, **more})
    coco, _, lost = read_webdataset(tmp_path / "a.tar")
    assert coco["images"] == [
        {"file_name": "x/2.png", "height": 40, "width": 60, "id": 1},
        {"file_name": "1.png", "height": 40, "width": 60, "id": 2},
    ]
    assert coco["categories"] == [{"id": 1, "name": "fig"}, {"id": 2, "name": "nut"}]
    assert sorted(lost) == [
        "1 .json without a picture",
        "1 further pictures of a key",
        "1 hidden members of tar files",
        "1 members of tar files that are neither pictures nor .json",
        "1 pictures without .json",
    ]
    file = read_annotations(tmp_path / "a.tar")
    assert file.image_rows.tolist() == [0, 0] and file.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (b"{", "a.tar: 1.json: is not JSON"),
        (b"[" * 100_000, "a.tar: 1.json: is not JSON"),
        (b"[]", "a.tar: 1.json: must be a mapping with 'annotations'"),
        (b'{"annotations": 1}', "a.tar: 1.json: must be a mapping with 'annotations'"),
        (b'{"annotations": [1]}', "a.tar: 1.json: annotations row 0: must be a mapping, got 1"),
        (b'{"annotations": [{"bbox": [0, 0, 1, 1]}]}', "an annotation has no 'category'"),
        (b'{"annotations": [], "image": 3}', "a.tar: 1.json: must be a mapping with 'annotations'"),
    ],
)
def test_wrong_labels_are_one_line(labels: bytes, message: str, tmp_path: Path) -> None:
    write(tmp_path, sound())
    tar_of(tmp_path / "a.tar", {"1.png": (tmp_path / "wide.png").read_bytes(), "1.json": labels})
    with pytest.raises(UserError) as caught:
        read_annotations(tmp_path / "a.tar")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_set_that_was_copied_in_part_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "photos", sound())
    convert(path, "webdataset", tmp_path / "tars", images=tmp_path / "photos")
    about = json.loads((tmp_path / "tars" / DATASET).read_text())
    (tmp_path / "tars" / DATASET).write_text(json.dumps({**about, "num_images": 4}))
    with pytest.raises(UserError, match=r"has 3 images, dataset.json says 4; copy all tar files again"):
        read_annotations(tmp_path / "tars")
    (tmp_path / "tars" / DATASET).write_text("[]")
    with pytest.raises(UserError, match=r"dataset.json: must be a mapping with 'categories'"):
        read_annotations(tmp_path / "tars")
