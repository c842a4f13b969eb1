"""Files are written completely or not at all; errors are one line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from boxwood.errors import UserError
from boxwood.files import (
    IMAGE_ENDINGS,
    IMAGE_FORMATS,
    VIDEO_ENDINGS,
    file_word,
    make_folder,
    media_kind,
    remove_left_overs,
    write_text,
    write_whole,
)

NOBODY = 65534


def test_folders_are_created_and_old_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text"
    write_text(path, "old")
    write_text(path, "胡桃\n")
    assert path.read_bytes() == "胡桃\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_text(path, "old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"text: cannot be written \(No space left on device\)"):
        write_whole(path, half)
    with pytest.raises(ZeroDivisionError):
        write_whole(path, lambda temporary: temporary.write_text(str(1 // 0)) and None)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys, time
from pathlib import Path
from boxwood.files import write_whole

def slow(temporary):
    temporary.write_text("half")
    temporary.with_name("of a library").touch()
    print("writing", flush=True)
    time.sleep(60)

write_whole(Path(sys.argv[1]), slow)
"""


def test_what_a_killed_process_has_left_is_removed_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "text")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        remove_left_overs(tmp_path)
        (folder,) = tmp_path.iterdir()
        assert {path.name for path in folder.iterdir()} == {"file", "of a library"}
        process.kill()
        process.wait()
    write_text(tmp_path / "text", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["text"] and (tmp_path / "text").read_text() == "whole"


def test_a_file_is_written_while_another_process_cleans_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first write to the folder may come at any moment: the temporary folder is made, and is not locked yet."""
    real_open, cleaned = os.open, []

    def clean_before(path: Any, *rest: Any, **options: Any) -> int:
        if not cleaned and str(path).endswith(".tmp"):
            cleaned.append(path)
            remove_left_overs(tmp_path)
        return real_open(path, *rest, **options)

    monkeypatch.setattr("boxwood.files.os.open", clean_before)
    write_text(tmp_path / "text", "new")
    assert cleaned and [path.name for path in tmp_path.iterdir()] == ["text"] and (tmp_path / "text").read_text() == "new"


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_folders_that_cannot_be_created(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    for attempt in (make_folder, lambda path: write_text(path / "text", "new")):
        with pytest.raises(UserError, match=r"this folder cannot be made \(.+\); name another with --out") as error:
            attempt(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder in which this process may not write. A process of root becomes the user nobody for the test."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        if root := os.geteuid() == 0:
            os.setresuid(NOBODY, NOBODY, 0)
        yield Path(folder)
        if root:
            os.setresuid(0, 0, 0)


@pytest.mark.skipif(os.name != "posix", reason="this system has no such permissions")
def test_a_folder_without_permission(read_only: Path) -> None:
    with pytest.raises(UserError, match="may not be written to"):
        write_text(read_only / "text", "new")
    with pytest.raises(UserError, match=r"cannot be made \(Permission denied\)"):
        make_folder(read_only / "new")


def test_the_endings_of_images_are_pillows() -> None:
    """Every ending that is taken from a folder is one of a format that is read, by Pillow's own table."""
    Image.init()
    assert {Image.EXTENSION[ending] for ending in IMAGE_ENDINGS} <= {*IMAGE_FORMATS, "MPO"}
    assert {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jp2"} <= IMAGE_ENDINGS
    assert (".avif" in IMAGE_ENDINGS) == ("AVIF" in IMAGE_FORMATS)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.heic", "convert it to JPEG: magick a.heic a.jpg"),
        ("b/A.WMV", "convert it: ffmpeg -i A.WMV A.mp4"),
        ("my {0} film.flv", "ffmpeg -i 'my {0} film.flv' 'my {0} film'.mp4"),
        ("a.dng", "develop it"),
        ("a.svg", "export it as PNG"),
        ("a.psd", "export it as PNG"),
        ("a.dcm", "export it as TIFF or PNG of 16 bits"),
    ],
)
def test_pictures_that_are_not_read_have_a_way_out(name: str, words: str) -> None:
    kind = media_kind(name)
    assert kind.kind == "unread" and words in kind.way_out
    assert "not read" in kind.way_out and "\n" not in kind.way_out


def test_other_files_are_neither_image_nor_video() -> None:
    assert [media_kind(name).kind for name in ("a.JPG", "a.avi", "a.txt", "jpg", ".jpg", "a.jpg.json")] == [
        "image", "video", "other", "other", "other", "other"
    ]  # fmt: skip
    assert {media_kind(f"a{ending}").kind for ending in VIDEO_ENDINGS} == {"video"}
    assert {media_kind(f"a{ending}").kind for ending in IMAGE_ENDINGS} == {"image"}
    assert all(media_kind(name).way_out == "" for name in ("a.jpg", "a.mp4", "a.txt"))


@pytest.mark.skipif(os.name != "posix", reason="other systems have no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(tmp_path: Path, mask: int) -> None:
    """Also where the writer gives a mode, as safetensors does (0600)."""

    def private(path: Path) -> None:
        path.unlink()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(mask)
    try:
        write_whole(tmp_path / "private", private)
        write_text(tmp_path / "text", "text")
        write_whole(tmp_path / "a.safetensors", lambda path: save_file({"a": torch.zeros(2)}, path))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert set(modes.values()) == {0o666 & ~mask}


@pytest.mark.parametrize(
    ("name", "word"),
    [("a\x1b[2J\u202eb", "a-[2J-b"), ("x" * 300, "x" * 100), ("ü" * 300, "ü" * 50), ("a\x9b\x7f\n", "a---")],
)
def test_words_in_names_of_files(name: str, word: str) -> None:
    assert file_word(name) == word
