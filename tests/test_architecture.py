"""The structure of the package: the direction of imports, forbidden module names, and limits on the code that a recipe runs."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import boxwood
from boxwood.ops.geometry import Geometry

PACKAGE = Path(boxwood.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LEVELS: tuple[set[str], ...] = (
    {"errors"},
    {"safe_yaml", "safe_pickle", "files", "columns", "lazy", "printable", "threads"},
    {"zoo", "pixels", "safe_matlab"},
    {"config", "ops", "drawing", "distributed"},
    {"fields"},
    {"interactions"},
    {"structures", "dense_pose", "optimizer_config", "loggers"},
    {"models", "data", "evaluation"},
    {"run_config"},
    {"weights"},
    {"interop"},
    {"recipes", "report"},
    {"inference", "training"},
    {"library"},
    {"cli"},
    {"__main__"},
)
"""A part may import from parts of the levels above it in this tuple, and from no other part of its level."""

BUDGETS = {  # lines of the functions that run: in a training step, and with building the network
    "faster_rcnn_r50_fpn_1x": (1000, 1265),
    "mask_rcnn_r50_fpn_1x": (1150, 1440),
    "keypoint_rcnn_r50_fpn_1x": (1150, 1440),
    "fast_rcnn_r50_fpn_1x": (850, 1040),
    "rpn_r50_fpn_1x": (600, 770),
    "faster_rcnn_r50_c4_1x": (1000, 1265),
    "mask_rcnn_r50_c4_1x": (1150, 1440),
    "rfcn_r50": (850, 1070),
    "retinanet_r50_fpn_1x": (600, 750),
}


SLOW = ("keypoint_rcnn_r50_fpn_1x", "fast_rcnn_r50_fpn_1x", "faster_rcnn_r50_c4_1x", "mask_rcnn_r50_c4_1x", "rfcn_r50")
"""Of these, the ones that `make check` leaves out."""


def part_of(path: Path) -> str:
    """The first folder or file below the package: ``models``, ``config``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level_of(part: str) -> int:
    (level,) = [index for index, parts in enumerate(LEVELS) if part in parts]
    return level


def test_every_image_is_opened_with_the_list_of_formats() -> None:
    """Without it Pillow tries all formats, and starts programs for some."""
    calls = 0
    root = PACKAGE.parent
    for path in (*FILES, *(file for folder in ("benchmarks", "docs", "examples") for file in (root / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.module != "PIL.Image", f"{path}, line {node.lineno}: import Image from PIL"
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Image.open"):
                calls += 1
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("formats") == "IMAGE_FORMATS", f"{path}, line {node.lineno}: pass formats=IMAGE_FORMATS"
    assert calls >= 3


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and part of every import from the package, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "boxwood" else [str(node.module)]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "boxwood" and rest and not rest.startswith("__"):
                yield node.lineno, rest.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # names of all parts, each imported when it is first used
    part = part_of(path)
    wrong = [
        f"{path}:{line}: {part} imports {other}"
        for line, other in imports_of(path)
        if other != part and level_of(other) >= level_of(part)
    ]
    assert not wrong, wrong


def test_every_part_has_its_level() -> None:
    parts = {part_of(path) for path in FILES} - {"__init__"}
    assert parts == set().union(*LEVELS)


def test_no_module_names_without_meaning() -> None:
    forbidden = {"utils", "util", "misc", "helpers", "helper", "common", "registry", "tools", "base"}
    names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    assert not names & forbidden
    siblings = [path for path in FILES if path.stem.endswith(("_v2", "_legacy", "_new", "_old", "_copy"))]
    assert not siblings


def public_functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """The functions and classes of a module that its ``__all__`` names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    exported: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            assert isinstance(node.value, ast.List | ast.Tuple)
            # A starred entry contains names of other modules.
            exported = {ast.literal_eval(item) for item in node.value.elts if not isinstance(item, ast.Starred)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in exported:
            yield node.name, node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_have_docstrings(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.read_text() == "", f"{path}: the module has none"
    missing = [name for name, node in public_functions(path) if not ast.get_docstring(node)]
    assert not missing, f"{path}: {missing}"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, boxwood, boxwood.cli; assert not {'torch', 'torchvision', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "command",
    ["list", "list detectron/", "show mask_rcnn_r50_fpn_1x", "diff mask_rcnn_r50_fpn_1x detectron/retinanet_R-50-FPN_1x", "schema"],
)
def test_configurations_are_shown_without_torch(command: str) -> None:
    code = (
        "import sys; from boxwood.cli import main\n"
        f"try: main({['config', *command.split()]!r})\n"
        "finally: assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr


def reading_script() -> ModuleType:
    """The script benchmarks/reading.py as a module."""
    spec = importlib.util.spec_from_file_location("reading", PACKAGE.parent / "benchmarks" / "reading.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("recipe", [pytest.param(recipe, marks=[pytest.mark.slow] * (recipe in SLOW)) for recipe in BUDGETS])
def test_reading_budget(recipe: str) -> None:
    """The lines of all functions of the package that run from the recipe to the losses and their gradients."""
    step, whole = reading_script().our_counts(recipe)
    assert (step.lines, whole.lines) <= BUDGETS[recipe] and whole.lines <= BUDGETS[recipe][1]

    # The numbers in the documentation may differ by 3 %, so that small changes do not need an update.
    page = (PACKAGE.parent / "docs" / "reading.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| Boxwood, `{recipe}` \| (.*) \|$", page, re.MULTILINE)
    assert row, f"docs/reading.md has no row for {recipe}"
    written = [int(cell.replace(",", "")) for cell in row[1].split(" | ")]
    assert written == pytest.approx([*step, *whole], rel=0.03, abs=1), "docs/reading.md: run python benchmarks/reading.py"


def test_no_code_depends_on_the_name_of_a_geometry() -> None:
    """A `Geometry` has functions and numbers but no flags; training rules are fields of configurations."""
    assert not [name for name, value in vars(Geometry).items() if type(value) is bool]
    for path in sorted((PACKAGE / "models").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                named = [n.id for n in ast.walk(function) if isinstance(n, ast.Name) and n.id in ("DETECTRON1", "Detectron1")]
                assert not named, f"{path.name}: {function.name}"


WITHOUT_TORCH = (
    "models/config.py",
    "models/backbones/config.py",
    "models/heads/config.py",
    "models/heads/dense_pose_config.py",
    "models/heads/interaction_config.py",
    "models/tasks/task.py",
    "data/config.py",
)
"""Files that name classes which need torch and import them only where they build them, since these import the file."""


def test_no_circular_imports() -> None:
    """Also inside functions and under TYPE_CHECKING, but for `WITHOUT_TORCH`; of a package's ``__init__`` only what it imports
    itself counts."""
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        if path.name == "__init__.py" and "__getattr__" in path.read_text(encoding="utf-8"):
            continue  # a front door, whose names are imported when they are used
        tree = ast.parse(path.read_text(encoding="utf-8"))
        at_import = str(path.relative_to(PACKAGE)) in WITHOUT_TORCH
        graph[name] = set()
        for node in tree.body if at_import else ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                graph[name] |= {module if module in modules else node.module for module in names} & modules.keys()
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & modules.keys()
    list(TopologicalSorter({name: imported & graph.keys() - {name} for name, imported in graph.items()}).static_order())
