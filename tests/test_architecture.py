"""The house: which way imports run, what must not be there, how much there is to read."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

import boxwood
from boxwood.ops.boxes import Geometry

PACKAGE = Path(boxwood.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LEVELS: tuple[set[str], ...] = (
    {"errors"},
    {"safe_yaml", "safe_pickle", "files"},
    {"zoo"},
    {"config", "ops", "drawing", "distributed"},
    {"structures"},
    {"models", "data", "evaluation"},
    {"run"},
    {"detectron"},
    {"weights"},
    {"inference", "training", "report"},
    {"recipes"},
    {"cli"},
    {"__main__"},
)
"""Each part may import from those above it. Parts of one level do not import each other."""

BUDGETS = {  # at most so many files, functions and lines
    "faster_rcnn_r50_fpn_1x": (14, 75, 3500),
    "mask_rcnn_r50_fpn_1x": (15, 90, 3500),
    "keypoint_rcnn_r50_fpn_1x": (15, 90, 3500),
    "fast_rcnn_r50_fpn_1x": (14, 75, 3500),
    "rpn_r50_fpn_1x": (10, 60, 3500),
    "faster_rcnn_r50_c4_1x": (15, 85, 3500),
    "mask_rcnn_r50_c4_1x": (16, 95, 3500),
    "rfcn_r50": (14, 75, 3500),
    "retinanet_r50_fpn_1x": (10, 60, 3500),
}


def part_of(path: Path) -> str:
    """The first folder or file below the package: ``models``, ``config``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level_of(part: str) -> int:
    (level,) = [index for index, parts in enumerate(LEVELS) if part in parts]
    return level


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line and part of every import from the project, inside functions and under TYPE_CHECKING too."""
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
        return  # the front door: names of all parts, each imported when it is first used
    own = part_of(path)
    wrong = [
        f"{path}:{line}: {own} imports {other}"
        for line, other in imports_of(path)
        if other != own and level_of(other) >= level_of(own)
    ]
    assert not wrong, wrong


def test_every_part_has_its_level() -> None:
    parts = {part_of(path) for path in FILES} - {"__init__"}
    assert parts == set().union(*LEVELS)


def test_no_drawers_for_everything() -> None:
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
            # A starred entry names what other modules define.
            exported = {ast.literal_eval(item) for item in node.value.elts if not isinstance(item, ast.Starred)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in exported:
            yield node.name, node


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_public_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.read_text() == "", f"{path}: the module has none"
    missing = [name for name, node in public_functions(path) if not ast.get_docstring(node)]
    assert not missing, f"{path}: {missing}"


def test_the_package_imports_no_torch() -> None:
    code = "import sys, boxwood, boxwood.cli; assert not {'torch', 'torchvision', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("recipe", BUDGETS)
def test_reading_budget(recipe: str) -> None:
    """From the recipe to the losses and their gradients: what of the project runs is what a reader has to read."""
    import torch

    import boxwood.recipes
    from boxwood.models.detector import without_pretrained
    from boxwood.structures import Batch, Categories, InstanceMasks, KeypointFacts, Target

    box = torch.tensor([[8.0, 8.0, 40.0, 48.0]])
    masks = InstanceMasks(torch.ones(1, 28, 28, dtype=torch.uint8), box)
    batch = Batch(
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        torch.tensor([[64, 64]]),
        ((64, 64),),
        (1,),
        ("a.jpg",),
        (1,),
        (
            Target(
                box,
                torch.tensor([0]),
                torch.zeros(0, 4),
                masks if recipe.startswith("mask") else None,
                torch.tensor([[[20.0, 20, 2]]]) if recipe.startswith("keypoint") else None,
            ),
        ),
        (box + 1,),
    )
    categories = Categories((1,), ("thing",), KeypointFacts(("middle",), (0,), (), (0.05,)))
    functions: set[tuple[str, str, int]] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(PACKAGE)) and not code.co_name.startswith("<"):
            functions.add((code.co_filename, code.co_qualname, code.co_firstlineno))

    sys.setprofile(note)
    try:
        config = getattr(boxwood.recipes, recipe)()
        model = without_pretrained(config.model).build(categories, config.test)
        assert batch.targets is not None
        losses = cast(Any, model).losses(model(batch), batch.targets)
        cast(Any, torch.stack(list(losses.values())).sum()).backward()
    finally:
        sys.setprofile(None)

    files = sorted({name for name, _, _ in functions})
    lines = {str(Path(name).relative_to(PACKAGE)): len(Path(name).read_text(encoding="utf-8").splitlines()) for name in files}
    print(f"\nreading budget of {recipe}: {len(files)} files, {len(functions)} functions, {sum(lines.values())} lines: {lines}")
    for count, limit in zip((len(files), len(functions), sum(lines.values())), BUDGETS[recipe], strict=True):
        assert count <= limit

    # What the documentation says of it. Functions and lines come and go, so 3 % of them are allowed for.
    page = (PACKAGE.parent / "docs" / "reading.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| Boxwood, `{recipe}` \| (\d+) \| (\d+) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert row, f"docs/reading.md has no row for {recipe}"
    assert int(row[1]) == len(files), "docs/reading.md"
    assert int(row[2]) == pytest.approx(len(functions), rel=0.03), "docs/reading.md"
    assert int(row[3].replace(",", "")) == pytest.approx(sum(lines.values()), rel=0.03), "docs/reading.md"


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("*.py")), ids=lambda path: path.stem)
def test_no_function_asks_twice_which_geometry_it_has(path: Path) -> None:
    """A geometry answers for itself; where it only says yes or no, a function may decide by that once."""
    switches = {name for name, value in vars(Geometry).items() if type(value) is bool}
    assert "binary_masks" in switches
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            asked = [node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute) and node.attr in switches]
            named = [
                node.id for node in ast.walk(function) if isinstance(node, ast.Name) and node.id in ("DETECTRON1", "Detectron1")
            ]
            assert len(asked) <= 1 and not named, f"{path.name}: {function.name} asks {asked} {named}"
