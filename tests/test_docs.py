"""The documentation: Python blocks run, commands parse and their keys exist, links have targets.

The blocks of a page are tested in order in one folder with the files that they need: a trained run under every name that a block
uses, a few pictures and annotation files, and the files that the page shows (blocks that begin with ``# NAME.py`` or
``# NAME.yaml``).
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from boxwood.cli import cli
from boxwood.data.layouts import is_data_source
from boxwood.recipes import resolve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

LANGUAGES = {"python", "console", "bash", "yaml", "pycon", "mermaid", ""}
"""Languages of blocks: tested ones, doctests and diagrams written by scripts, and plain text, which must not contain a command."""


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
    """The arguments of ``boxwood``, called directly or by torchrun; None for another command."""
    if words[0] == "boxwood":
        return words[1:]
    return words[words.index("boxwood") + 1 :] if words[0] == "torchrun" else None


@pytest.fixture
def folder(trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory of the page's blocks, with pictures and annotation files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("train", "val"):
        shutil.copy(shapes / f"{name}.json", tmp_path)
        shutil.copytree(shapes / name, tmp_path / "photos", dirs_exist_ok=True)
        shutil.copy(shapes / f"{name}.json", tmp_path / "photos")
    shutil.copy(shapes / "val" / "000000.jpg", tmp_path / "photo.jpg")
    return tmp_path


def prepare(page: Path, folder: Path, trained: Path) -> None:
    """Create the runs that the page names and the files that it shows."""
    for name in set(re.findall(r"\b(?:runs/\w+|demo/run)\b", page.read_text(encoding="utf-8"))):
        shutil.copytree(trained, folder / name)
    for _, _, content in blocks(page):
        if named := re.match(r"# (\w+\.(?:py|yaml))\n", content):
            (folder / named[1]).write_text(content, encoding="utf-8")


def test_all_pages_exist_and_are_in_the_index() -> None:
    assert {page.stem for page in PAGES} >= {"README", "index", "training", "data", "configuration", "reading", "architecture"}
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    algorithms = ROOT / "docs" / "algorithms"
    assert {path.stem for path in algorithms.glob("*.md")} == {path.stem for path in algorithms.glob("*.svg")}
    assert [page.name for page in PAGES[1:] if page.stem != "index" and page.name not in index] == []


@EVERY_PAGE
def test_every_block_names_its_language(page: Path) -> None:
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
            exec(compile("\n" * line + content, str(page), "exec"), names)  # noqa: S102  (code of this repository)
    if page.stem == "README":
        assert (folder / "seen.png").exists()


@EVERY_PAGE
def test_commands_parse_and_their_keys_exist(page: Path, folder: Path, trained: Path) -> None:
    prepare(page, folder, trained)
    for line, language, content in blocks(page):
        for words in commands(content) if language == "console" else ():
            arguments = boxwood_arguments(words)
            if arguments is None:
                check_other_command(words, f"{page}:{line}")
            else:
                check_boxwood(arguments, f"{page}:{line}: boxwood {shlex.join(arguments)}")


def check_boxwood(arguments: list[str], where: str) -> None:
    """Parse the command's arguments and resolve its configuration, without running it."""
    context, command = click.Context(cli, info_name="boxwood"), cli
    while isinstance(command, click.Group):
        name, subcommand, arguments = command.resolve_command(context, arguments)
        assert subcommand is not None, where
        command = subcommand  # type: ignore[assignment]  # a group or not
        if isinstance(command, click.Group):
            context = click.Context(command, context, info_name=name)
    try:
        parsed = command.make_context(command.name, list(arguments), parent=context).params
    except click.UsageError as error:
        raise AssertionError(f"{where}: {error.format_message()}") from None
    source = parsed.get("config") or parsed.get("source")
    if source is not None and not is_data_source(source):
        resolve(source, parsed.get("overrides", ()))
    for name in ("a", "b"):  # of config diff
        if name in parsed:
            resolve(parsed[name])


def check_other_command(words: list[str], where: str) -> None:
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(words[1:]) <= set(targets), where
    elif words[0] == "python":
        files = [word for word in words if word.endswith(".py")]
        assert files and all((ROOT / file).is_file() for file in files), where
    else:
        assert words[0] in {"pip", "git", "cd"}, f"{where}: no test for {shlex.join(words)}"


@EVERY_PAGE
def test_links_have_targets(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)", text) if not re.match(r"https?:|mailto:|#", target)]
    dead = [target for target in targets if not (page.parent / target.split("#")[0]).exists()]
    assert not dead, f"{page}: {dead}"


def test_algorithm_pictures_are_up_to_date() -> None:
    algorithms = ROOT / "docs" / "algorithms"
    drawn = runpy.run_path(str(algorithms / "draw.py"))
    expected = {name: drawn["svg"](picture) for name, picture in drawn["PICTURES"].items()}
    assert {path.stem: path.read_text(encoding="utf-8") for path in algorithms.glob("*.svg")} == expected, (
        "python docs/algorithms/draw.py"
    )


def script(name: str) -> ModuleType:
    """A script of the documentation as a module, after its doctests have run."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert doctest.testmod(module).failed == 0
    return module


def text_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_architecture_diagram_is_up_to_date() -> None:
    page = text_of("architecture.md")
    assert script("draw_house").drawn(page) == page, "python docs/draw_house.py"


def test_every_part_of_the_package_is_described() -> None:
    described = set(re.findall(r"`([\w/.]+)`", " ".join(re.findall(r"^\| (`.+?) \|", text_of("architecture.md"), re.MULTILINE))))
    package = ROOT / "boxwood"
    parts = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()} | {
        path.name for path in package.glob("*.py")
    }
    assert parts - {"__init__.py", "__main__.py"} <= described
    assert [name for name in described if name.endswith(("/", ".py")) and not (package / name).exists()] == []


def test_the_api_page_is_up_to_date() -> None:
    assert script("make_api").page() == text_of("api.md"), "python docs/make_api.py"


def names_of(path: Path) -> set[str]:
    """Functions, classes and constants that a file, or the files of a folder, define."""
    names = set()
    for file in [path] if path.is_file() else sorted(path.glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                names |= {ast.unparse(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])}
    return names


def test_moved_names_exist() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \|$", text_of("moved.md"), re.MULTILINE)
    addresses = {address for _, new in rows for address in re.findall(r"`(boxwood(?:\.\w+)+)`", new)}
    assert len(addresses) > 60
    for address in addresses - {"boxwood.recipe"}:
        path = ROOT.joinpath(*address.split("."))
        assert path.is_dir() or path.with_suffix(".py").is_file() or path.name in names_of(path.parent.with_suffix(".py")), address
    for old, new in rows:  # the old modules no longer exist
        for address in re.findall(r"`(boxwood(?:\.\w+)+)`", old):
            if "as before" not in new and "logic" not in old and "parts" not in old and f"`{address}`" not in new:
                path = ROOT.joinpath(*address.split("."))
                assert not path.is_dir() and not path.with_suffix(".py").exists(), address


def test_names_on_the_reading_page_exist() -> None:
    rows = [line.split(" | ")[-1] for line in text_of("reading.md").splitlines() if line.startswith("| `")]
    places = [match for row in rows for match in re.findall(r"((?:`\w+`(?:, | and )?)+) in \[`[^`]+`\]\(\.\./([^)]+)\)", row)]
    assert len(places) > 25
    for names, path in places:
        assert set(re.findall(r"`(\w+)`", names)) <= names_of(ROOT / path), f"{path}: {names}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "algorithms").glob("*.md")), ids=lambda page: page.stem)
def test_every_page_of_an_algorithm_has_all_sections(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for part in ("https://arxiv.org/abs/", "**The idea.**", f"]({page.stem}.svg)", "| read | for |", "boxwood train ", "On COCO"):
        assert part in text, f"{page}: {part}"
    for name in re.findall(r"`([a-z]+_rcnn_\w+|rpn_\w+|retinanet_\w+|rfcn_\w+)`", text):
        if name not in {"rpn_losses"}:
            resolve(name)
