"""Each of Detectron's twelve scripts has its line in the migration page, and a test of what stands for it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

REPLACED = {
    "train_net.py": (
        "cli/test_commands.py::test_train_writes_a_run",
        "training/test_distributed.py::test_two_processes_learn_as_one",
    ),
    "test_net.py": ("cli/test_commands.py::test_eval_gives_the_numbers_of_training", "zoo/test_published.py::test_eval_by_a_name"),
    "infer_simple.py": (
        "zoo/test_published.py::test_predict_by_a_name",
        "cli/test_commands.py::test_predict_keeps_what_scores_enough",
    ),
    "infer.py": ("test_docs.py::test_python_runs",),
    "reval.py": (
        "cli/test_detections.py::test_under_another_selection",
        "evaluation/test_results.py::test_detections_of_detectron",
    ),
    "visualize_results.py": ("cli/test_detections.py::test_drawn_beside_the_truth",),
    "convert_pkl_to_pb.py": ("inference/test_predictor.py::test_being_prepared_changes_nothing",),
    "convert_selective_search.py": ("data/formats/test_selective_search.py::test_boxes_of_a_data_set",),
    "convert_coco_model_to_cityscapes.py": ("weights/test_remap_classes.py::test_the_command",),
    "convert_cityscapes_to_coco.py": ("data/formats/test_cityscapes.py::test_the_command",),
    "generate_testdev_from_test.py": ("cli/test_detections.py::test_those_of_some_images",),
    "pickle_caffe_blobs.py": ("interop/test_caffe.py::test_a_resnet",),
}


def test_every_script_has_a_line() -> None:
    page = (TESTS.parent / "docs" / "migration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+\.py)` \| (.+) \|$", page, re.MULTILINE))
    assert list(rows) == list(REPLACED)


@pytest.mark.parametrize("script", REPLACED)
def test_what_stands_for_it_is_tested(script: str) -> None:
    for address in REPLACED[script]:
        file, _, name = address.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
        assert name in tests, address
