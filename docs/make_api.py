"""Writes docs/api.md from the docstrings of the public names of ``boxwood``: ``python docs/make_api.py``.

The files are parsed, not imported, so the page is the same on every machine.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import boxwood

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
HEAD = """# The public names

All names in `dir(boxwood)`, from their docstrings; `python docs/make_api.py` writes this page.
[The library](library.md) shows how they are used together. `>>>` lines are doctests, which the test suite runs.
"""
Definition: TypeAlias = ast.ClassDef | ast.FunctionDef


def file_of(module: str) -> Path:
    """The file of a module of the package."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def homes() -> dict[str, str]:
    """Public name -> ``module:name``, by the imports under TYPE_CHECKING in ``boxwood/__init__.py``."""
    addresses = {"recipe": "boxwood:recipe"}
    for node in ast.walk(ast.parse(file_of("boxwood").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("boxwood."):
            addresses |= {alias.asname or alias.name: f"{node.module}:{alias.name}" for alias in node.names}
    return addresses


def signature(function: ast.FunctionDef) -> str:
    """Arguments and result as written, without self.

    >>> signature(ast.parse("def area(self, boxes: Tensor, *, scale: float = 1.0) -> Tensor: ...").body[0])
    'area(boxes: Tensor, *, scale: float = 1.0) -> Tensor'
    """
    arguments = ast.unparse(function.args)
    arguments = re.sub(r"^(self|cls)(, |$)", "", arguments)
    arguments = re.sub(r"(?<=[\w\]])=(?=\S)", " = ", arguments)
    return f"{function.name}({arguments})" + ("" if function.returns is None else f" -> {ast.unparse(function.returns)}")


def markdown(docstring: str) -> str:
    """A docstring as Markdown: doctests and indented lines as blocks, ``Args:`` as a list.

    >>> print(markdown("One.\\n\\nArgs:\\n    boxes: xyxy,\\n        in pixels."))
    One.
    <BLANKLINE>
    * `boxes`: xyxy, in pixels.
    """
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = block.splitlines()
        heading, rest = lines[0], textwrap.dedent("\n".join(lines[1:]))
        if block.startswith(">>>"):
            blocks.append(f"```pycon\n{block}\n```")
        elif re.fullmatch(r"Args:", heading):
            blocks.append("\n".join(f"* {argument(item)}" for item in re.split(r"\n(?=\S)", rest)))
        elif re.fullmatch(r"[A-Z]\w+:", heading) and rest:
            blocks.append(f"{heading} {rest}")
        elif all(line.startswith("    ") for line in lines):
            blocks.append(f"```\n{textwrap.dedent(block)}\n```")
        else:
            blocks.append(re.sub(r"``(.+?)``", r"`\1`", block))
    return "\n\n".join(blocks)


def argument(text: str) -> str:
    name, _, meaning = " ".join(text.split()).partition(": ")
    return f"`{name}`: {meaning}"


def fields(definition: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Name, type with default, and docstring of the public fields of a class."""
    for node, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            if "ClassVar" in ast.unparse(node.annotation):
                continue
            text = ""
            if (
                isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                text = following.value.value
            yield node.target.id, ast.unparse(node.annotation), re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))


def methods(definition: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """The public methods with a docstring, and ``__call__``."""
    for node in definition.body:
        is_public = isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__call__")
        if is_public and ast.get_docstring(node):
            yield node


def is_property(function: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator).endswith("property") for decorator in function.decorator_list)


def describe(name: str, address: str) -> str:
    """The section of a class or function."""
    module, _, defined = address.partition(":")
    path = file_of(module)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (node,) = [node for node in tree.body if isinstance(node, Definition) and node.name == defined]
    link = f"[`{path.relative_to(ROOT).as_posix()}`](../{path.relative_to(ROOT).as_posix()})"
    text = [f"### {name}", link]
    if isinstance(node, ast.FunctionDef):
        node.name = name
        text += [f"```\n{wrapped(signature(node))}\n```", markdown(ast.get_docstring(node) or "")]
        return "\n\n".join(text)
    text += [markdown(ast.get_docstring(node) or "")]
    rows = [f"* `{field}: {kind}`" + (f"  \n  {meaning}" if meaning else "") for field, kind, meaning in fields(node)]
    rows += [f"* `{m.name}: {ast.unparse(m.returns) if m.returns else ''}`  \n  {flat(m)}" for m in methods(node) if is_property(m)]
    rows += [f"* `{signature(method)}`  \n  {flat(method)}" for method in methods(node) if not is_property(method)]
    return "\n\n".join([*text, "\n".join(rows)] if rows else text)


def flat(function: ast.FunctionDef) -> str:
    """The first paragraph of a docstring in one line."""
    text = (ast.get_docstring(function) or "").split("\n\n")[0]
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(text.split()))


def wrapped(text: str) -> str:
    """A long signature with one argument a line.

    >>> print(wrapped("f(a: tuple[int, int], b: str" + " " * 100 + ") -> int"))
    f(
        a: tuple[int, int],
        b: str,
    ) -> int
    """
    if len(text) <= 100:
        return text
    start, end = text.index("("), text.rindex(")", 0, text.rindex(" -> ") if " -> " in text else len(text))
    parts, depth = [""], 0
    for letter in text[start + 1 : end]:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return text[: start + 1] + "".join(f"\n    {part.strip()}," for part in parts) + f"\n{text[end:]}"


def describe_package(name: str) -> str:
    """A row of the table of packages: what its docstring says, and the names that it exports."""
    path = file_of(f"boxwood.{name}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    first = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    exported: list[str] = []
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "__all__"
            and isinstance(node.value, ast.List | ast.Tuple)
        ):
            exported = [item.value for item in node.value.elts if isinstance(item, ast.Constant)]
    target = path.parent if path.name == "__init__.py" else path
    names = ", ".join(f"`{item}`" for item in exported)
    return f"| [`boxwood.{name}`](../{target.relative_to(ROOT).as_posix()}) | {first} | {names} |"


def page() -> str:
    """The whole page."""
    known = homes()
    names = [name for name in dir(boxwood) if name not in boxwood.PACKAGES and not name.startswith("__")]
    classes = [name for name in names if name[0].isupper()]
    functions = [name for name in names if name not in classes]
    table = ["| package | what it is | names |", "|---|---|---|", *map(describe_package, boxwood.PACKAGES)]
    sections = [HEAD.strip(), "## Functions", *(describe(name, known[name]) for name in functions), "## Classes"]
    sections += [*(describe(name, known[name]) for name in classes), "## Packages", "\n".join(table)]
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
