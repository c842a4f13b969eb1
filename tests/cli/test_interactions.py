"""What is wrong with verbs and interactions: one line and exit status 2 of the commands that a person runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from boxwood.data.synthetic.figures import write_figures
from tests.conftest import Boxwood, tiny

HEAD = ("model.mask_head=null", "model.interaction_head={kind: interaction, width: 16}", "evaluator.kind=hoi_vcoco")


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    write_figures(folder, train=2, val=2)
    return folder


@pytest.fixture
def refused(boxwood: Boxwood, tmp_path: Path) -> Callable[..., str]:
    """``refused("train", ...)``: the error line of a command that must fail and write nothing."""

    def call(*arguments: object) -> str:
        outcome = boxwood(*arguments, "--out", tmp_path / "out")
        assert (outcome.status, len(outcome.error_lines)) == (2, 1), outcome.err
        assert "Traceback" not in outcome.err and not (tmp_path / "out").exists()
        return outcome.error_lines[0]

    return call


Refused = Callable[..., str]


def run_on(figures: Path) -> list[str]:
    return [*(part for part in tiny(figures) if not part.startswith("model.mask_head")), *HEAD]


def edited(figures: Path, split: str, out: Path, change: Callable[[Any], Any]) -> str:
    """The override that names a split's changed annotations."""
    tree = json.loads((figures / f"{split}.json").read_text())
    change(tree)
    path = out / f"{split}.json"
    path.write_text(json.dumps(tree))
    return f"data.{split}.annotations={path}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.interaction_head.human=robot", "data.train: has no class 'robot', whose instances do something; set "),
        ("model.interaction_head.sigma=0", "'model.interaction_head.sigma' should be greater than 0, got 0"),
        ("model.interaction_head.least_score=2", "'model.interaction_head.least_score' should be less than or equal to 1, got 2"),
        ("model.interaction_head.verbs=3", "unknown key 'model.interaction_head.verbs'"),
        ("evaluator.ties=middle", "'evaluator.ties' should be 'first' or 'last', got 'middle'"),
        ("evaluator.kind=hoi_coco", "'evaluator' has an unknown kind 'hoi_coco' (did you mean 'hoi_vcoco'?)"),
        ("evaluator.kind=hoi_hico", "the truth has no 'hois'; make it with boxwood data convert --from hico, or take the measure "),
    ],
)
def test_configurations(refused: Refused, figures: Path, override: str, message: str) -> None:
    assert message in refused("train", "demo_shapes", *run_on(figures), override)


@pytest.mark.parametrize("recipe", ["rpn_mobilenetv2_fpn", "retinanet_r50_fpn_1x"])
def test_detectors_without_a_second_stage(refused: Refused, recipe: str) -> None:
    line = refused("train", recipe, HEAD[1])
    kind = recipe.partition("_")[0]
    assert f"unknown key 'model.interaction_head': the kind '{kind}' has none, only 'rcnn'" in line


DATA: dict[str, Callable[[Any], Any]] = {
    "'human_id' must be an annotation of image 1 that is a person with verbs_known true, got 2": (
        lambda tree: tree["interactions"][0].update(human_id=2)
    ),
    "interactions row 0 (id 1): 'verb_id' must be the id of a verb, got 99": lambda tree: tree["interactions"][0].update(
        verb_id=99
    ),
    "interactions row 0 (id 1): the target 9999 is no annotation of image 1": (
        lambda tree: tree["interactions"][0]["targets"].update(obj=9999)
    ),
    "human 1 has the verb 1 in another row too": lambda tree: tree["interactions"].append(tree["interactions"][0]),
    "interactions row 0 (id 1): 'visible' must be true or false, got 'no'": (
        lambda tree: tree["interactions"][0].update(visible="no")
    ),
    "1 duplicate annotation ids: annotation 1": lambda tree: tree["annotations"].append(tree["annotations"][0]),
    "data.train: has no human-object interactions ('verbs' in the annotation file), which InteractNet learns; make such a file": (
        lambda tree: [tree.pop(key) for key in ("verbs", "interactions")]
    ),
    "data.train and data.val have different verbs, roles, or orders of them (such as 'grip-obj'); give both the same 'verbs'": (
        lambda tree: tree["verbs"][0].update(name="grip")
    ),
    "data.train and data.val have different verbs, roles, or orders of them (such as 'walk')": (
        lambda tree: tree["verbs"].reverse()
    ),
}


@pytest.mark.parametrize("message", DATA)
def test_training_data(refused: Refused, figures: Path, tmp_path: Path, message: str) -> None:
    assert message in refused("train", "demo_shapes", *run_on(figures), edited(figures, "train", tmp_path, DATA[message]))


def test_a_val_set_without_verbs_is_refused_before_the_training(refused: Refused, figures: Path, tmp_path: Path) -> None:
    without = edited(figures, "val", tmp_path, lambda tree: [tree.pop(key) for key in ("verbs", "interactions")])
    assert "data.val: has no human-object interactions" in refused("train", "demo_shapes", *run_on(figures), without)
    line = refused("train", "demo_shapes", *run_on(figures), without, "model.interaction_head=null")
    assert "this measure compares human-object interactions, and the truth has no 'verbs'" in line


TARGET = {"bbox": [1, 2, 3, 4], "category_id": 2, "score": 0.5}
CLAIM = {"verb": "hold", "role": "obj", "score": 0.5, "object": TARGET}


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({**CLAIM, "verb": "fly"}, "expected a mapping with a verb of the data set, got {'verb': 'fly'"),
        (3, "expected a mapping with a verb of the data set, got 3"),
        ({**CLAIM, "role": "instr"}, "the verb 'hold' has the roles agent, obj, got 'instr'"),
        ({**CLAIM, "score": math.nan}, "'score' must be a number, got nan"),
        ({**CLAIM, "object": {**TARGET, "bbox": [1, 2, 3]}}, "'object' must have 'bbox', four numbers x, y, w, h, and an agent "),
        ({**CLAIM, "role": "agent"}, "an agent has none, got {'bbox': [1, 2, 3, 4]"),
        ({**CLAIM, "object": {**TARGET, "category_id": "cat"}}, "'category_id' of an object must be a whole number, got 'cat'"),
    ],
)
def test_detections(refused: Refused, figures: Path, tmp_path: Path, claim: Any, message: str) -> None:
    path = tmp_path / "detections.json"
    record = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5, "interactions": [claim]}
    path.write_text(json.dumps([record]))
    line = refused("eval", "demo_shapes", *run_on(figures), "--detections", path)
    assert line.startswith(f"boxwood: {path}: image id 1: 'interactions': ") and message in line


def test_conversions(boxwood: Boxwood, figures: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.json"
    tree = json.loads((figures / "train.json").read_text())
    plain.write_text(json.dumps({key: tree[key] for key in ("images", "annotations", "categories")}))
    for arguments, message in (
        ((plain, tmp_path / "out", "--to", "vcoco"), "has no human-object interactions ('verbs'), which vcoco consists of"),
        ((figures / "train.json", tmp_path / "out", "--to", "hico"), "and the source has no 'hois'; add them"),
        ((figures, tmp_path / "x.json", "--from", "hico"), "anno.mat: cannot be read (no such file or directory); name the folder"),
        ((figures / "train.json", tmp_path / "x.json", "--from", "vcoco"), "is no file of V-COCO, which is a list of verbs"),
    ):
        outcome = boxwood("data", "convert", *arguments)
        assert (outcome.status, len(outcome.error_lines)) == (2, 1) and message in outcome.error_lines[0]
    assert not (tmp_path / "out").exists() and not (tmp_path / "x.json").exists()
