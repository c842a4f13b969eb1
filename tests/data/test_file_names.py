"""Image names as other programs write them are matched with the files of a folder."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from boxwood.data import CocoDataset
from boxwood.data.file_names import locate
from boxwood.errors import UserError
from tests.conftest import Boxwood
from tests.data.cases import sound, write

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café.jpg") for form in ("NFC", "NFD"))


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "of_file"),
    [
        ("images\\001.jpg", "001.jpg"),
        ("images\\1/002.jpg", "002.jpg"),
        ("C:\\data\\images\\001.jpg", "001.jpg"),
        ("sub\\003.jpg", "sub/003.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        ("https://example.org/upload/1/002.jpg?token=1", "002.jpg"),
        ("s3://bucket/a%20b.jpg", "a b.jpg"),
        ("/data/local-files/?d=photos%2F001.jpg", "001.jpg"),
        ("/data/local-files/?d=photos%5C001.jpg", "001.jpg"),
        (COMPOSED, DECOMPOSED),
        (f"https://example.org/{COMPOSED}", DECOMPOSED),
    ],
)
def test_other_notations(name: str, of_file: str, tmp_path: Path) -> None:
    located = locate([name], files(tmp_path, "001.jpg", "002.jpg", "sub/003.jpg", "a b.jpg", DECOMPOSED, "._001.jpg"))
    assert located.read == {0: of_file} and not located.missing


def test_a_name_that_is_a_file_is_that_file(tmp_path: Path) -> None:
    names = ["a%20b.jpg", COMPOSED, DECOMPOSED, "sub/a.jpg"]
    located = locate(names, files(tmp_path, *names, "a b.jpg"))
    assert not located.read and not located.missing


def test_two_names_never_get_the_same_file(tmp_path: Path) -> None:
    files(tmp_path, "001.jpg")
    assert locate(["a\\001.jpg", "b\\001.jpg"], tmp_path).missing == [0, 1]
    assert locate(["001.jpg", "b\\001.jpg"], tmp_path).missing == [1]


def test_a_plain_name_is_not_looked_up_by_its_last_part_but_the_file_is_named(tmp_path: Path) -> None:
    """``train/1.jpg`` in a folder ``val`` may well be another picture than ``val/1.jpg``."""
    located = locate(["train/1.jpg", "2.JPG", "3.jpg", "gone.jpg"], files(tmp_path, "1.jpg", "2.jpg", "sub/3.jpg"))
    assert not located.read and located.missing == [0, 1, 2, 3]
    assert located.likely == {0: "1.jpg", 1: "2.jpg", 2: "sub/3.jpg"}
    files(tmp_path, "other/3.jpg")
    assert 0 not in locate(["3.jpg"], tmp_path).likely
    assert locate(["a/sub/3.jpg"], tmp_path).likely == {0: "sub/3.jpg"}


def test_no_name_leaves_the_folder(tmp_path: Path) -> None:
    files(tmp_path, "secret.jpg", "photos/a.jpg")
    names = ["%2e%2e/secret.jpg", "..\\secret.jpg", f"%2F{tmp_path}/secret.jpg", "a\0.jpg"]
    assert not locate(names, tmp_path / "photos").read


def test_a_data_set_with_other_names(tmp_path: Path, caplog: pytest.LogCaptureFixture, boxwood: Boxwood) -> None:
    path = write(tmp_path, sound())
    tree = sound()
    for row, name in zip(tree["images"], ("photos\\wide.png", "https://example.org/tall.png", "empty%2Epng"), strict=True):
        row["file_name"] = name
    path.write_text(json.dumps(tree))
    dataset = CocoDataset(path, tmp_path)
    assert [dataset[i].file_name for i in range(3)] == ["wide.png", "tall.png", "empty.png"]
    assert "3 image names that are written in another way" in caplog.text and r"'photos\wide.png' is 'wide.png'" in caplog.text
    assert [row["file_name"] for row in dataset.to_coco()["images"]] == ["wide.png", "tall.png", "empty.png"]
    checked = boxwood("data", "check", path, "--images", tmp_path, "--fix", tmp_path / "fixed.json")
    assert checked.status == 0 and "look: 3 image names" in checked.out
    assert "3 names of images replaced by those of the files" in checked.out
    assert [row["file_name"] for row in json.loads((tmp_path / "fixed.json").read_text())["images"]] == [
        "wide.png",
        "tall.png",
        "empty.png",
    ]


def test_names_that_start_from_another_folder(tmp_path: Path, boxwood: Boxwood) -> None:
    """They are refused, and --fix writes the names of the files."""
    path = write(tmp_path, sound())
    tree = sound()
    for row in tree["images"]:
        row["file_name"] = f"train/{row['file_name']}"
    path.write_text(json.dumps(tree))
    with pytest.raises(
        UserError, match=r"3 of 3 images .* all of them may be there by another name \('train/wide.png' as 'wide.png'\)"
    ):
        CocoDataset(path, tmp_path)
    fixed = tmp_path / "fixed.json"
    assert boxwood("data", "check", path, "--images", tmp_path, "--fix", fixed).status == 1
    assert boxwood("data", "check", fixed, "--images", tmp_path).out.endswith("nothing wrong\n")
