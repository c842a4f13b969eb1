"""Draws the three diagrams of docs/architecture.md from the code: ``python docs/draw_house.py``.

    rooms       which part of the package imports which, read from every file
    training    from a configuration to a loss
    inference   from a picture to detections

The last two are listed below, function by function. Drawing fails where a function does not exist, or where the file of a function
does not name the next one. Each diagram stands between markers, ``<!-- rooms -->`` and ``<!-- /rooms -->``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "boxwood"
PAGE = ROOT / "docs" / "architecture.md"

TOGETHER = {
    **dict.fromkeys(("errors", "files", "pixels", "columns", "safe_pickle", "safe_yaml", "distributed", "drawing"), "foundations"),
    **dict.fromkeys(("loggers", "optimizer_config"), "optimizer_config, loggers"),
    "printable": "foundations",
}
"""Parts that share one box of the drawing."""
FILES_TOGETHER = {"foundations": "errors, files, printable, pixels, columns,<br>safe_pickle, safe_yaml, distributed, drawing"}

TRAINING = (
    # function, file, what it returns, functions that it calls
    ("train", "training/loop.py", "", {"start": "RunConfig", "train_batches": "RunConfig", "_loop": "TrainingState, Batch"}),
    ("start", "training/state.py", "network, optimizer", {}),
    ("train_batches", "data/loader.py", "samples, transforms, batches", {}),
    ("_loop", "training/loop.py", "logs, validates, saves", {"update": ""}),
    ("update", "training/loop.py", "forward, backward, step", {"RCNN.forward": "Batch", "RCNN.losses": "RCNNOutput"}),
    (
        "RCNN.forward",
        "models/rcnn.py",
        "maps of backbone and FPN",
        {
            "RPN.forward": "maps",
            "propose": "RPNOutput",
            "sample_anchors": "RPNOutput",
            "sample_rois": "Proposals",
            "task_logits": "",
        },
    ),
    ("RPN.forward", "models/rpn.py", "RPNOutput", {}),
    ("propose", "models/rpn.py", "Proposals", {}),
    ("sample_anchors", "models/rpn.py", "AnchorSample", {}),
    ("sample_rois", "models/second_stage.py", "RoISample", {}),
    ("RCNN.task_logits", "models/rcnn.py", "of masks, keypoints, ...", {}),
    (
        "RCNN.losses",
        "models/rcnn.py",
        "scalars by name",
        {"rpn_losses": "AnchorSample", "box_losses": "RoISample", "InstanceTask.loss": "task logits"},
    ),
    ("rpn_losses", "models/rpn.py", "loss_rpn_objectness, loss_rpn_box", {}),
    ("box_losses", "models/second_stage.py", "loss_class, loss_box", {}),
    ("InstanceTask.loss", "models/tasks/task.py", "loss_mask, loss_keypoint, ...", {}),
)
INFERENCE = (
    ("load", "inference/predictor.py", "a Predictor", {"open_weights": "path or name", "Predictor.__call__": "pictures"}),
    ("open_weights", "interop/open_weights.py", "weights, RunConfig", {}),
    (
        "Predictor.__call__",
        "inference/predictor.py",
        "",
        {"read_image": "path", "collate": "Sample", "RCNN.forward": "Batch", "RCNN.detections": ""},
    ),
    ("read_image", "data/images.py", "RGB uint8", {}),
    ("collate", "data/loader.py", "Batch", {}),
    (
        "RCNN.forward",
        "models/rcnn.py",
        "maps of backbone and FPN",
        {
            "propose": "RPNOutput",
            "candidates_of": "class logits, deltas",
            "select_instances": "Candidates",
            "InstanceTask.decode": "Instances",
        },
    ),
    ("propose", "models/rpn.py", "Proposals", {"nms_mask": ""}),
    ("candidates_of", "models/second_stage.py", "Candidates", {}),
    ("select_instances", "models/postprocess.py", "Instances", {"nms_mask": ""}),
    ("InstanceTask.decode", "models/tasks/task.py", "masks, keypoints, ...", {}),
    ("nms_mask", "ops/nms.py", "kept boxes", {}),
    ("RCNN.detections", "models/rcnn.py", "", {"to_detections": "Instances"}),
    ("to_detections", "models/postprocess.py", "Detections, pixels of the original", {"Detections.draw": "on demand"}),
    ("Detections.draw", "structures.py", "a picture", {"draw_instances": ""}),
    ("draw_instances", "drawing.py", "", {}),
)

Flow = tuple[tuple[str, str, str, dict[str, str]], ...]


def part_of(path: Path) -> str:
    """The first folder or file below the package: ``models``, ``config``."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> Iterator[str]:
    """The part of every import from the package, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "boxwood" else [str(node.module)]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "boxwood" and rest and not rest.startswith("__"):
                yield rest.split(".")[0]


def imports() -> dict[str, set[str]]:
    """Box of the drawing -> boxes that it imports."""
    graph: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = part_of(path)
        if part.startswith("__"):
            continue  # the front doors, which name everything
        box = TOGETHER.get(part, part)
        graph.setdefault(box, set()).update({TOGETHER.get(other, other) for other in imported_parts(path)} - {box})
    return graph


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows without those that a longer way of other arrows implies.

    >>> reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    {'a': {'b'}, 'b': {'c'}, 'c': set()}
    """

    def below(box: str) -> set[str]:
        return graph[box].union(*(below(other) for other in graph[box]))

    return {box: {other for other in others if not any(other in below(way) for way in others)} for box, others in graph.items()}


def rooms() -> str:
    """The diagram of imports: an arrow leads from a part to one that it imports."""
    arrows = reduced(imports())
    names = {box: f"b{index}" for index, box in enumerate(sorted(arrows))}
    lines = ["flowchart TD"]
    for box in sorted(arrows):
        title = f"{box}/" if (PACKAGE / box).is_dir() else FILES_TOGETHER.get(box, box)
        lines.append(f'    {names[box]}["{title}"]')
    lines += [f"    {names[box]} --> {names[other]}" for box in sorted(arrows) for other in sorted(arrows[box])]
    return "\n".join(lines)


def definitions(tree: ast.Module) -> set[str]:
    """Functions and methods: ``propose``, ``RCNN.forward``."""
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return names


def diagram(flow: Flow) -> str:
    """A box for each function, and an arrow to each that it calls, labelled with what is handed over."""
    trees = {file: ast.parse((PACKAGE / file).read_text(encoding="utf-8")) for _, file, _, _ in flow}
    numbers: dict[str, str] = {}
    for index, (function, file, _, _) in enumerate(flow):
        assert function in definitions(trees[file]), f"boxwood/{file} has no {function}: correct docs/draw_house.py"
        numbers[function] = numbers[function.split(".")[-1]] = f"f{index}"
    lines = ["flowchart TD"]
    for function, file, result, _ in flow:
        text = "<br>".join(line for line in (f"<b>{function}</b>", file, result) if line)
        lines.append(f'    {numbers[function]}["{text}"]')
    for function, file, _, calls in flow:
        words = {node.id for node in ast.walk(trees[file]) if isinstance(node, ast.Name)}
        words |= {node.attr for node in ast.walk(trees[file]) if isinstance(node, ast.Attribute)}
        for called, handed in calls.items():
            named = {called.split(".")[-1], called.split(".")[0]}
            is_called = bool(named & words) or called.endswith((".forward", ".draw"))  # of these an object is called
            assert is_called, f"boxwood/{file} does not name {called}: correct docs/draw_house.py"
            lines.append(f"    {numbers[function]} -->" + (f'|"{handed}"| ' if handed else " ") + numbers[called])
    return "\n".join(lines)


def drawn(page: str) -> str:
    """The page with its diagrams as the code has them."""
    for name, text in (("rooms", rooms()), ("training", diagram(TRAINING)), ("inference", diagram(INFERENCE))):
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        assert page.count(start) == page.count(end) == 1, f"{PAGE}: {start} and {end}"
        page = re.sub(f"{start}.*{end}", lambda _, block=f"{start}\n```mermaid\n{text}\n```\n{end}": block, page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
