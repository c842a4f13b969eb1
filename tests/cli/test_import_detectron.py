"""The command ``boxwood config import-detectron``."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwood.recipes import resolve
from tests.conftest import Boxwood
from tests.interop.test_detectron_config import MASK


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "old.yaml"
    path.write_text(MASK)
    return path


def test_the_written_file_resolves_to_a_configuration(boxwood: Boxwood, old_file: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    done = boxwood(
        "config", "import-detectron", old_file, "SOLVER.BASE_LR", "0.01", "TRAIN.RPN_STRADDLE_THRESH", "-1", "--out", new
    )
    assert done.status == 0 and f"written: {new}" in done.out and "ignored: OUTPUT_DIR = '.'" in done.out
    config = resolve(str(new))
    assert (config.optim.lr, config.model.rpn.straddle) == (0.01, None)  # type: ignore[attr-defined]  # of RCNNConfig
    assert new.read_text().startswith(f"# made from {old_file}")
    assert "# ignored: OUTPUT_DIR = '.'" in new.read_text()
    printed = boxwood("config", "import-detectron", old_file, "SOLVER.BASE_LR", "0.01", "TRAIN.RPN_STRADDLE_THRESH", "-1")
    assert printed.out == new.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["NUM_GPUS"], "KEY VALUE come in pairs, got 1 words; 'NUM_GPUS' is without its value"),
        (["NUM_GPU", "2"], "unknown key 'NUM_GPU' (did you mean 'NUM_GPUS'?)"),
        (["TEST.BBOX_REG", "False"], "TEST.BBOX_REG = False cannot be honoured: boxes are always regressed"),
        (["--leave-out", "TEST.NMS_"], "--leave-out TEST.NMS_: Detectron has no such key (did you mean 'TEST.NMS'?)"),
        (["MODEL.TYPE.X", "1", "MODEL.TYPE", "2"], "MODEL.TYPE is given a value of its own, and keys below it"),
    ],
)
def test_mistakes_are_reported_and_nothing_is_written(boxwood: Boxwood, old_file: Path, words: list[str], message: str) -> None:
    new = old_file.parent / "new.yaml"
    done = boxwood("config", "import-detectron", old_file, *words, "--out", new)
    assert done.status == 2 and message in done.err and not new.exists()
    assert all(line.startswith("boxwood: ") for line in done.err.splitlines())


def test_an_error_names_its_line(boxwood: Boxwood, old_file: Path) -> None:
    old_file.write_text(MASK.replace("  NMS: 0.5", "  NMS: half"))
    done = boxwood("config", "import-detectron", old_file)
    line = MASK.splitlines().index("  NMS: 0.5") + 1
    assert done.err == f"boxwood: {old_file}:{line}: TEST.NMS should be a number, got 'half'\n"


def test_leave_out(boxwood: Boxwood, old_file: Path) -> None:
    words = ["TEST.BBOX_REG", "False", "TEST.CLASS_SPECIFIC_AR", "True", "TEST.BBOX_AUG.ENABLED", "True"]
    assert len(boxwood("config", "import-detectron", old_file, *words).error_lines) == 2
    options = ["--leave-out", "TEST.BBOX_REG", "--leave-out", "TEST.CLASS_SPECIFIC_AR", "--leave-out", "TEST.BBOX_AUG"]
    done = boxwood("config", "import-detectron", old_file, *words, *options)
    assert done.status == 0 and "# left out: TEST.BBOX_REG = False (" in done.out
    assert "# left out: TEST.BBOX_AUG.ENABLED = True (it was asked for)" in done.out


def test_a_missing_file(boxwood: Boxwood, tmp_path: Path) -> None:
    done = boxwood("config", "import-detectron", tmp_path / "none.yaml")
    assert done.status == 2 and "none.yaml: cannot be read" in done.err
