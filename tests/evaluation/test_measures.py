"""Measures as components: by name, in a configuration, user-defined; their primary number, their tables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from boxwood.config import ConfigError, apply_overrides, from_yaml, to_yaml
from boxwood.errors import UserError
from boxwood.evaluation import (
    CityscapesEvaluator,
    CocoEvaluator,
    CollectingEvaluator,
    EvaluatorConfig,
    LvisEvaluator,
    Metrics,
    ProposalEvaluator,
    VocEvaluator,
    choose_measure,
    format_table,
    make_evaluator,
)
from boxwood.evaluation.measures import CocoEvaluatorConfig, ProposalEvaluatorConfig, Voc2007EvaluatorConfig, Voc2010EvaluatorConfig
from boxwood.run_config import RunConfig
from boxwood.structures import Categories
from tests.conftest import Boxwood
from tests.evaluation import test_cityscapes, test_lvis
from tests.evaluation.cases import categories, random_case
from tests.training.tiny import tiny_run


class CountConfig(EvaluatorConfig):
    """The mean number of detections per image."""

    twice: bool = False

    def build(self, truth: Mapping[str, Any], categories: Categories, **_: Any) -> CollectingEvaluator:
        return Count(truth, categories, with_masks=False)


class Count(CollectingEvaluator):
    def compute(self) -> Metrics:
        number = sum(map(len, self.results.values())) / max(len(self.results), 1)
        return {"amount": {"mean": number}, "per_class": {name: {"count": 1, "amount": 0.5} for name in self.truth.names()}}


COUNT = f"{__name__}:CountConfig"


@pytest.mark.parametrize(
    ("kind", "evaluator"),
    [
        ("coco", CocoEvaluator),
        ("proposals", ProposalEvaluator),
        ("voc2007", VocEvaluator),
        ("voc2010", VocEvaluator),
        ("lvis", LvisEvaluator),
        ("cityscapes", CityscapesEvaluator),
        (COUNT, Count),
    ],
)
def test_every_kind_builds_its_evaluator(kind: str, evaluator: type) -> None:
    truth: dict[str, Any]
    if kind == "lvis":
        truth, _ = test_lvis.case(3)
    elif kind == "cityscapes":
        truth = test_cityscapes.as_coco([test_cityscapes.street(number)[0] for number in range(2)])
    else:
        truth, _ = random_case(5, images=3)
    built = make_evaluator(truth, categories(truth), measure=kind)
    assert type(built) is evaluator
    assert getattr(built, "rule", kind) == kind, "of VOC"
    assert choose_measure(kind).kind() == kind


def test_the_limits_of_detections() -> None:
    """COCO's 100 and LVIS's 300 are the least; ``maxdets`` is exact."""
    truth, _ = random_case(5, images=3)
    lvis, _ = test_lvis.case(3)
    for measure, data, expected in (("coco", truth, (100, 500, 7)), ("lvis", lvis, (300, 500, 7))):
        limits = tuple(
            make_evaluator(data, categories(data), measure=measure, **limit).max_detections  # type: ignore[union-attr, arg-type]
            for limit in ({"detections_per_image": 50}, {"detections_per_image": 500}, {"detections_per_image": 500, "maxdets": 7})
        )
        assert limits == expected


def test_a_detector_without_classes() -> None:
    assert choose_measure(None, class_agnostic=True) == choose_measure("coco", class_agnostic=True) == ProposalEvaluatorConfig()
    with pytest.raises(
        UserError, match="the measure voc2010 compares classes, and this detector's boxes have none; choose proposals"
    ):
        choose_measure("voc2010", class_agnostic=True)
    assert choose_measure("proposals") == ProposalEvaluatorConfig(), "a detector with classes has proposals too"


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("coca", "unknown measure 'coca' (did you mean 'coco'?)"),
        ("my_measures:Fancy", "unknown measure 'my_measures:Fancy'; import its module first (--import my_measures)"),
    ],
)
def test_an_unknown_measure(measure: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        choose_measure(measure)
    assert str(error.value) == message


def test_the_primary_number() -> None:
    """Of COCO, keypoints before masks before boxes; a task without truth (-1) is passed over."""
    tables: Metrics = {"bbox": {"AP": 0.1}, "segm": {"AP": 0.2}, "keypoints": {"AP": 0.3}}
    coco = CocoEvaluatorConfig()
    assert coco.primary(tables) == 0.3
    assert coco.primary({**tables, "keypoints": {"AP": -1.0}}) == 0.2
    assert coco.primary({"bbox": {"AP": 0.1}}) == 0.1
    assert coco.primary({}) == -1.0
    assert ProposalEvaluatorConfig().primary({"proposals": {"AR100": 0.3, "AR1000": 0.5}}) == 0.5
    assert choose_measure("lvis").primary({"lvis_bbox": {"AP": 0.1}, "lvis_segm": {"AP": 0.2}}) == 0.2
    assert choose_measure("voc2007").primary({"voc": {"AP": 0.4}, "per_class": {"nut": {"voc": 0.4}}}) == 0.4
    assert choose_measure("cityscapes").primary({"cityscapes": {"AP": 0.4, "AP50": 0.9}}) == 0.4
    assert CountConfig().primary({"notes": [], "count": {"mean": 7, "most": 9}}) == 7, "by default the first of the first table"
    assert CountConfig().primary({}) == -1


def test_in_a_configuration() -> None:
    run = apply_overrides(tiny_run(), ["evaluator={kind: voc2010, min_overlap: 0.7}"])
    assert run.evaluator == Voc2010EvaluatorConfig(min_overlap=0.7)
    assert from_yaml(RunConfig, to_yaml(run)) == run
    assert apply_overrides(run, ["evaluator.kind=voc2007"]).evaluator == Voc2007EvaluatorConfig()
    assert apply_overrides(run, [f"evaluator.kind={COUNT}", "evaluator.twice=true"]).evaluator == CountConfig(twice=True)
    with pytest.raises(ConfigError, match=r"'evaluator' has an unknown kind 'voc' \(did you mean 'voc20"):
        apply_overrides(run, ["evaluator.kind=voc"])


def test_a_user_defined_table_is_shown() -> None:
    text = format_table({"amount": {"mean": 0.25}, "per_class": {"nut": {"count": 1, "amount": 0.5}}, "images_per_second": 3.0})
    head, row, _, classes, nut = text.splitlines()
    assert (head.split(), row.split()) == (["mean"], ["amount", "0.250"])
    assert classes.split() == ["class", "count", "amount"] and nut.split() == ["nut", "1", "0.500"]


def test_the_command(boxwood: Boxwood, trained: Path, tmp_path: Path) -> None:
    """By name, from the configuration, and user-defined; each with its report and the detections."""
    assert boxwood("eval", trained, "--measure", "voc2010", "--out", tmp_path / "name").status == 0
    outcome = boxwood("eval", trained, "evaluator.kind=voc2010", "--out", tmp_path / "config")
    assert outcome.status == 0 and "VOC AP" in outcome.out
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("name", "config")]
    for one in metrics:
        del one["images_per_second"]
    assert metrics[0] == metrics[1] and "voc" in metrics[0]
    assert boxwood("eval", trained, "evaluator.kind=voc2010", "--measure", "coco", "--out", tmp_path / "coco").status == 0
    assert "bbox" in json.loads((tmp_path / "coco" / "metrics.json").read_text())

    outcome = boxwood("eval", trained, "--measure", COUNT, "--out", tmp_path / "count")
    assert outcome.status == 0, outcome.err
    detections = json.loads((tmp_path / "count" / "detections.json").read_text())
    assert json.loads((tmp_path / "count" / "metrics.json").read_text())["amount"]["mean"] == len(detections) / 2
    assert "mean" in outcome.out and "mean" in (tmp_path / "count" / "report.html").read_text()
    again = boxwood(
        "eval", trained, "--measure", COUNT, "--detections", tmp_path / "count" / "detections.json", "--out", tmp_path / "b"
    )
    assert again.status == 0 and "mean" in again.out

    (line,) = boxwood("eval", trained, "--measure", "voc").error_lines
    assert line.startswith("boxwood: unknown measure 'voc' (did you mean 'voc20")
    (line,) = boxwood("eval", trained, "--measure", "no_module:Measure").error_lines
    assert "no module 'no_module'" in line


def test_a_configuration_needs_neither_torch_nor_hotcoco() -> None:
    code = (
        "import sys, boxwood.evaluation.measures as m; m.choose_measure('coco'); assert not {'torch', 'hotcoco'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
