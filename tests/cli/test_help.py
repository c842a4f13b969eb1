"""Help of the command line without importing torch, and its messages about wrong commands."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from boxwood.cli import COMMANDS, cli
from boxwood.errors import UserError
from tests.conftest import Boxwood

HEAVY = {"torch", "torchvision", "numpy", "pydantic", "rich"}


def test_help_imports_no_torch() -> None:
    """Importing torch and the other large packages takes seconds."""
    code = f"""
import sys
sys.argv = ["boxwood", "--help"]
from boxwood.cli import main
try:
    main()
finally:
    assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {name}" in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_without_torch(name: str) -> None:
    code = f"""
import sys
from boxwood.cli import main
try:
    main([{name!r}, "--help"])
finally:
    assert not {HEAVY!r} & set(sys.modules)
"""
    if name == "bench":
        assert cli.get_command(None, name) is not None  # type: ignore[arg-type]  # its options are defined by the script
        return
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: boxwood" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "boxwood: unknown command 'trian' (did you mean 'train'?) (see boxwood --help)"),
        (["train"], "boxwood: Missing argument 'CONFIG' (see boxwood train --help)"),
        (["train", "x", "--outt", "y"], "boxwood: No such option"),
        (["predict", "x.jpg"], "boxwood: Missing option '--model' (see boxwood predict --help)"),
        (["predict", "x.jpg", "--model", "m", "--score", "2"], "boxwood: Invalid value for '--score': 2"),
        (["config", "shwo", "demo_shapes"], "boxwood: No such command 'shwo'"),
    ],
)
def test_a_wrong_command_is_one_line(boxwood: Boxwood, arguments: list[str], message: str) -> None:
    outcome = boxwood(*arguments)
    assert outcome.status == 2
    assert outcome.err.startswith(message)
    assert len(outcome.err.splitlines()) == 1


def test_no_command_shows_the_help(boxwood: Boxwood) -> None:
    outcome = boxwood()
    assert outcome.status == 2
    assert "Start here:" in outcome.out + outcome.err


def test_version(boxwood: Boxwood) -> None:
    import boxwood as package

    assert boxwood("--version").out == f"boxwood, version {package.__version__}\n"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("a.jpg: is no image;\nremove it"), 2, "boxwood: a.jpg: is no image; remove it\n"),
        (KeyboardInterrupt(), 130, "boxwood: interrupted\n"),
    ],
)
def test_exit_status(boxwood: Boxwood, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, text: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("boxwood.recipes.names", fail)
    outcome = boxwood("config", "list")
    assert (outcome.status, outcome.err.lstrip("\n")) == (status, text)


def test_internal_errors_keep_their_traceback(boxwood: Boxwood, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("boxwood.recipes.names", fail)
    with pytest.raises(ZeroDivisionError):
        boxwood("config", "list")


def test_logging_configuration_is_restored(boxwood: Boxwood) -> None:
    before = list(logging.getLogger().handlers), logging.getLogger("boxwood").level
    boxwood("config", "list")
    assert (list(logging.getLogger().handlers), logging.getLogger("boxwood").level) == before


def test_a_broken_pipe_is_quiet() -> None:
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    assert reader.stdin is not None
    done = subprocess.run(
        [sys.executable, "-m", "boxwood", "config", "schema"], stdout=reader.stdin, stderr=subprocess.PIPE, text=True
    )
    reader.stdin.close()
    assert (done.returncode, done.stderr) == (1, "")
