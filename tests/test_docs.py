"""What the documentation shows, works: Python runs, commands parse and their keys exist, links lead somewhere.

The blocks of a page are tried in order, in one folder that has what they take for granted: a trained run under every name that a
block uses, a few pictures and annotation files, and the files that the page itself shows (a block that begins with ``# NAME.py``
or ``# NAME.yaml``).
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from boxwood.cli import cli
from boxwood.recipes import resolve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

LANGUAGES = {"python", "console", "yaml", ""}
"""Of blocks: those that are tried, and plain text, which must not hide a command."""


def blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """Line, language and content of every fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        yield text[: match.start()].count("\n") + 1, match[1].strip(), match[2]


def commands(content: str) -> Iterator[list[str]]:
    """The words of each command of a console block, without prompt, comment and ``...``."""
    for line in content.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words:
            yield [word for word in words if word != "..."]


def boxwood_arguments(words: list[str]) -> list[str] | None:
    """What comes after ``boxwood``, started by its name or by torchrun; None for the commands of others."""
    if words[0] == "boxwood":
        return words[1:]
    return words[words.index("boxwood") + 1 :] if words[0] == "torchrun" else None


@pytest.fixture
def folder(trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a reader stands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("train", "val"):
        shutil.copy(shapes / f"{name}.json", tmp_path)
        shutil.copytree(shapes / name, tmp_path / "photos", dirs_exist_ok=True)
    shutil.copy(shapes / "val" / "000000.jpg", tmp_path / "photo.jpg")
    return tmp_path


def prepare(page: Path, folder: Path, trained: Path) -> None:
    """Runs under the names that the page uses, and the files that it shows."""
    for name in set(re.findall(r"\b(?:runs/\w+|demo/run)\b", page.read_text(encoding="utf-8"))):
        shutil.copytree(trained, folder / name)
    for _, _, content in blocks(page):
        if named := re.match(r"# (\w+\.(?:py|yaml))\n", content):
            (folder / named[1]).write_text(content, encoding="utf-8")


def test_the_pages_are_there() -> None:
    assert {page.stem for page in PAGES} >= {"README", "index", "training", "data", "configuration", "reading", "architecture"}
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    algorithms = ROOT / "docs" / "algorithms"
    assert {path.stem for path in algorithms.glob("*.md")} == {path.stem for path in algorithms.glob("*.svg")}
    assert [page.name for page in PAGES[1:] if page.stem != "index" and page.name not in index] == []


@EVERY_PAGE
def test_every_block_says_what_it_is(page: Path) -> None:
    for line, language, content in blocks(page):
        assert language in LANGUAGES, f"{page}:{line}: {language}"
        if language == "":
            assert not re.search(r"^(\$ |boxwood [a-z]|torchrun |import |from \w+ import )", content, re.MULTILINE), (
                f"{page}:{line}"
            )
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(list(blocks(page))), f"{page}: a block that is not closed"


@EVERY_PAGE
def test_python_runs(page: Path, folder: Path, trained: Path) -> None:
    prepare(page, folder, trained)
    names: dict[str, Any] = {"__name__": page.stem}
    for line, language, content in blocks(page):
        if language == "python":
            exec(compile("\n" * line + content, str(page), "exec"), names)  # noqa: S102  (its own documentation)
    if page.stem == "README":
        assert (folder / "seen.png").exists()


@EVERY_PAGE
def test_commands_parse_and_their_keys_exist(page: Path, folder: Path, trained: Path) -> None:
    prepare(page, folder, trained)
    for line, language, content in blocks(page):
        for words in commands(content) if language == "console" else ():
            arguments = boxwood_arguments(words)
            if arguments is None:
                check_command_of_others(words, f"{page}:{line}")
            else:
                check_boxwood(arguments, f"{page}:{line}: boxwood {shlex.join(arguments)}")


def check_boxwood(arguments: list[str], where: str) -> None:
    """Everything up to running it."""
    context, command = click.Context(cli, info_name="boxwood"), cli
    while isinstance(command, click.Group):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None, where
        command = found  # type: ignore[assignment]  # a group or not
        if isinstance(command, click.Group):
            context = click.Context(command, context, info_name=name)
    try:
        parsed = command.make_context(command.name, list(arguments), parent=context).params
    except click.UsageError as error:
        raise AssertionError(f"{where}: {error.format_message()}") from None
    source = parsed.get("config") or parsed.get("source")
    if source is not None and not source.endswith(".json"):
        resolve(source, parsed.get("overrides", ()))
    for name in ("a", "b"):  # of config diff
        if name in parsed:
            resolve(parsed[name])


def check_command_of_others(words: list[str], where: str) -> None:
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), where
    elif words[0] == "python":
        files = [word for word in words if word.endswith(".py")]
        assert files and all((ROOT / file).is_file() for file in files), where
    else:
        assert words[0] in {"pip", "git", "cd"}, f"{where}: nobody tests {shlex.join(words)}"


@EVERY_PAGE
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)", text) if not re.match(r"https?:|mailto:|#", target)]
    dead = [target for target in targets if not (page.parent / target.split("#")[0]).exists()]
    assert not dead, f"{page}: {dead}"


def test_pictures_are_as_drawn() -> None:
    algorithms = ROOT / "docs" / "algorithms"
    drawn = runpy.run_path(str(algorithms / "draw.py"))
    expected = {name: drawn["svg"](picture) for name, picture in drawn["PICTURES"].items()}
    assert {path.stem: path.read_text(encoding="utf-8") for path in algorithms.glob("*.svg")} == expected, (
        "python docs/algorithms/draw.py"
    )


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "algorithms").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_of_an_algorithm_has_its_parts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for part in ("https://arxiv.org/abs/", "**The idea.**", f"]({page.stem}.svg)", "| read | for |", "boxwood train ", "On COCO"):
        assert part in text, f"{page}: {part}"
    for name in re.findall(r"`([a-z]+_rcnn_\w+|rpn_\w+|retinanet_\w+|rfcn_\w+)`", text):
        if name not in {"rpn_losses"}:
            resolve(name)
