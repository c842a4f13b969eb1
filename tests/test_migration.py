"""Each of Detectron's twelve scripts has a row in the migration page, and its replacement has a test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

REPLACED = {
    "train_net.py": (
        "cli/test_commands.py::test_train_writes_a_run",
        "training/test_distributed.py::test_two_processes_train_like_one",
    ),
    "test_net.py": (
        "cli/test_commands.py::test_eval_reproduces_the_metrics_of_training",
        "zoo/test_published.py::test_eval_by_a_name",
    ),
    "infer_simple.py": (
        "zoo/test_published.py::test_predict_by_a_name",
        "cli/test_commands.py::test_predict_keeps_detections_above_the_score_threshold",
    ),
    "infer.py": ("test_docs.py::test_python_runs",),
    "reval.py": (
        "cli/test_detections.py::test_eval_of_a_detections_file_with_other_test_settings",
        "evaluation/test_results.py::test_detections_of_detectron",
    ),
    "visualize_results.py": ("cli/test_detections.py::test_detections_are_drawn_beside_the_ground_truth",),
    "convert_pkl_to_pb.py": ("inference/test_predictor.py::test_prepare_changes_no_results",),
    "convert_selective_search.py": ("data/formats/test_selective_search.py::test_boxes_of_a_data_set",),
    "convert_coco_model_to_cityscapes.py": ("weights/test_remap_classes.py::test_the_command",),
    "convert_cityscapes_to_coco.py": ("data/formats/test_cityscapes.py::test_the_command",),
    "generate_testdev_from_test.py": ("cli/test_detections.py::test_select_detections_of_listed_images",),
    "pickle_caffe_blobs.py": ("interop/test_caffe.py::test_a_resnet",),
}


def test_every_script_has_a_row() -> None:
    page = (TESTS.parent / "docs" / "migration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+\.py)` \| (.+) \|$", page, re.MULTILINE))
    assert list(rows) == list(REPLACED)


@pytest.mark.parametrize("script", REPLACED)
def test_replacements_are_tested(script: str) -> None:
    for address in REPLACED[script]:
        file, _, name = address.partition("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
        assert name in tests, address
