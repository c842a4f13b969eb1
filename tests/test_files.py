"""Files are written completely or not at all; errors are one line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from boxwood.errors import UserError
from boxwood.files import make_folder, remove_left_overs, write_text, write_whole

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
