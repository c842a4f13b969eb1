"""The two measures of human-object interactions against the numbers of the programs that define them."""

import gzip
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwood.errors import UserError
from boxwood.evaluation.hico import HicoEvaluator, hico_precisions
from boxwood.evaluation.interaction_files import read_vcoco_results, vcoco_rows, write_hico_results, write_vcoco_results
from boxwood.evaluation.interactions import PredictedInteractions, Verbs
from boxwood.evaluation.vcoco import vcoco_precisions
from tests.evaluation.interaction_cases import FACTS, facts, hico_predictions, hico_truth, vcoco_truth


def vcoco_case(tmp_path: Path, case: str) -> tuple[dict[str, Any], PredictedInteractions]:
    truth = vcoco_truth(tmp_path, case)
    return truth, vcoco_rows(facts("vcoco")[case]["detections"], Verbs.of(truth), "detections")


@pytest.mark.parametrize("case", ["main", "edge"])
def test_vcoco_is_the_reference(tmp_path: Path, case: str) -> None:
    tables, expected = vcoco_precisions(*vcoco_case(tmp_path, case)), facts("vcoco")[case]["expected"]
    for table in ("agent", "scenario_1", "scenario_2"):
        assert tables[table].keys() == expected[table].keys()
        for name, row in expected[table].items():
            got = tables[table][name]
            assert (got.ap, got.positives) == (pytest.approx(row["ap"], abs=1e-6), row["npos"]), (table, name)
            if "counted" in row:
                assert (got.counted, got.right) == (row["counted"], row["tp"]), (table, name)
    for scenario in ("scenario_1", "scenario_2"):
        aps = {name: row.ap for name, row in tables[scenario].items()}
        assert np.mean(list(aps.values())) == pytest.approx(expected[f"mean_{scenario}_25"], abs=1e-6)
        without = np.mean([ap for name, ap in aps.items() if name != "point-instr"])
        assert without == pytest.approx(expected[f"mean_{scenario}_24_without_point"], abs=1e-6)


def test_vcoco_order_of_equal_scores(tmp_path: Path) -> None:
    truth, predicted = vcoco_case(tmp_path, "edge")
    later, earlier = (vcoco_precisions(truth, predicted, ties=ties)["scenario_1"] for ties in ("last", "first"))
    assert later["talk_on_phone-instr"].ap == pytest.approx(2 / 3)
    assert earlier["talk_on_phone-instr"].ap == pytest.approx(5 / 9)


def test_vcoco_results_where_the_reference_stops(tmp_path: Path) -> None:
    truth, predicted = vcoco_case(tmp_path, "edge")
    nobody = {**truth, "interactions": [row for row in truth["interactions"] if row["verb_id"] != 1]}
    assert math.isnan(vcoco_precisions(nobody, predicted)["agent"]["hold"].ap)
    assert vcoco_precisions(truth, predicted[predicted.verbs != 0])["agent"]["hold"].ap == 0
    persons = {category["id"] for category in truth["categories"] if category["name"] == "person"}
    empty = {**truth, "annotations": [row for row in truth["annotations"] if row["category_id"] not in persons]}
    assert not any(row.right for row in vcoco_precisions(empty, predicted)["scenario_2"].values())


def test_vcoco_pickle_is_read_without_running_it(tmp_path: Path) -> None:
    truth, expected = vcoco_case(tmp_path, "edge")
    path = tmp_path / "results.pkl"
    path.write_bytes(gzip.decompress((FACTS / "vcoco_edge.pkl.gz").read_bytes()))
    read = read_vcoco_results(path, Verbs.of(truth))
    assert len(read) == len(expected) and np.array_equal(read.objects, expected.objects, equal_nan=True)

    class Evil:
        def __reduce__(self) -> Any:
            return eval, ("1 + 1",)

    path.write_bytes(pickle.dumps([{"image_id": Evil()}]))
    with pytest.raises(UserError, match=r"results\.pkl"):
        read_vcoco_results(path, Verbs.of(truth))


def test_vcoco_results_written_and_read_again_are_the_same_claims(tmp_path: Path) -> None:
    truth, predicted = vcoco_case(tmp_path, "main")
    write_vcoco_results(tmp_path / "r.pkl", predicted, Verbs.of(truth))
    rows = pickle.loads((tmp_path / "r.pkl").read_bytes())  # noqa: S301
    assert set(rows[0]) >= {"image_id", "person_box", "hold_agent", "hold_obj", "cut_instr", "stand_agent"}
    assert {type(value) for value in rows[0].values()} <= {int, float, list}
    again = vcoco_precisions(truth, read_vcoco_results(tmp_path / "r.pkl", Verbs.of(truth)))
    for name, row in vcoco_precisions(truth, predicted)["scenario_1"].items():
        assert again["scenario_1"][name].ap == pytest.approx(row.ap, abs=1e-9), name


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ({}, "which is a list"),
        ([3], "row 0: expected a mapping with 'image_id'"),
        ([{"image_id": 1, "person_box": [1, 2, 3]}], "row 0: 'person_box' must be four numbers"),
        ([{"image_id": 1, "person_box": [1, 2, 3, 4], "hold_obj": "x"}], "row 0: 'hold_obj' must be five numbers"),
    ],
)
def test_vcoco_results_that_are_wrong(tmp_path: Path, rows: Any, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        vcoco_rows(rows, Verbs.of(vcoco_truth(tmp_path, "edge")), "r.pkl")


@pytest.mark.parametrize("case", ["main", "edge"])
def test_hico_is_the_official_program(tmp_path: Path, case: str) -> None:
    pytest.importorskip("scipy")
    truth = hico_truth(tmp_path, case)
    predicted, expected = hico_predictions(case, truth), facts("hico")[case]["expected"]
    multiplied, exact = (hico_precisions(truth, predicted, recall_levels=levels) for levels in ("multiplied", "exact"))
    assert len(multiplied) == 600
    for number, row in expected["classes"].items():
        got, name = multiplied[int(number)], f"{row['verb']} {row['object']}"
        assert (got.pairs, got.rare) == (row["npos"], row["rare"]), name
        assert got.default == pytest.approx(row["AP_default"], abs=1e-9), name
        assert got.known_object == pytest.approx(row["AP_known_object"], abs=1e-9), name
        recalls = [math.nan if row[key] is None else row[key] for key in ("recall_default", "recall_known_object")]
        assert [got.default_recall, got.known_object_recall] == pytest.approx(recalls, abs=1e-9, nan_ok=True), name
        assert exact[int(number)].default == pytest.approx(row["AP_default_exact_tenths"], abs=1e-9), name
        assert exact[int(number)].known_object == pytest.approx(row["AP_known_object_exact_tenths"], abs=1e-9), name
    with_gt = [row.default for number, row in multiplied.items() if row.pairs]
    assert np.mean(with_gt) == pytest.approx(expected["means"]["default"]["classes_with_gt"], abs=1e-9)


def test_hico_means_of_all_rare_and_other_classes(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    truth = hico_truth(tmp_path, "main")
    rows = hico_precisions(truth, hico_predictions("main", truth)).values()
    for setting, attribute in (("default", "default"), ("known_object", "known_object")):
        expected = facts("hico")["main"]["expected"]["means"][setting]
        parts = {"full_600": list(rows), "rare": [r for r in rows if r.rare], "non_rare": [r for r in rows if not r.rare]}
        assert len(parts["rare"]) == expected["n_rare"]
        for name, part in parts.items():
            assert np.mean([getattr(row, attribute) for row in part]) == pytest.approx(expected[name], abs=1e-9), (setting, name)


def test_hico_pairs_whose_boxes_are_left_out_do_not_count(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    truth = hico_truth(tmp_path, "edge")
    predicted = hico_predictions("edge", truth)
    before = sum(row.pairs for row in hico_precisions(truth, predicted).values())
    human = next(row["human_id"] for row in truth["interactions"] if row["human_id"] is not None)
    lost = sum(row["human_id"] == human for row in truth["interactions"])
    truth["annotations"] = [row for row in truth["annotations"] if row["id"] != human]
    assert sum(row.pairs for row in hico_precisions(truth, predicted).values()) == before - lost


def test_hico_results_are_written_as_the_official_program_reads_them(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    truth = hico_truth(tmp_path, "edge")
    predicted = hico_predictions("edge", truth)
    write_hico_results(tmp_path / "out", predicted, truth)
    files = sorted((tmp_path / "out").iterdir())
    assert [files[0].name, files[-1].name, len(files)] == ["detections_01.mat", "detections_80.mat", 80]
    columns, count = facts("hico")["edge"]["detections"], 0
    expected = sorted(
        [*human, *target, score]
        for human, target, score in zip(columns["human_box"], columns["object_box"], columns["score"], strict=True)
    )
    rows: list[list[float]] = []
    for path in files:
        boxes = scipy_io.loadmat(path)["all_boxes"]
        assert boxes.shape[1] == len(truth["images"])
        count += boxes.shape[0]
        rows += [row for cell in boxes.ravel() for row in cell.tolist()]
    assert count == 600
    np.testing.assert_allclose(np.array(sorted(rows)), np.array(expected), atol=1e-9)


def test_a_truth_without_interactions_is_refused() -> None:
    from boxwood.evaluation import make_evaluator
    from boxwood.structures import Categories

    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for measure in ("hoi_vcoco", "hoi_hico"):
        with pytest.raises(UserError, match="no 'verbs' and 'interactions'"):
            make_evaluator(truth, Categories((1,), ("person",)), measure=measure)
    with pytest.raises(UserError, match="no 'hois'"):
        HicoEvaluator(
            {**truth, "verbs": [{"id": 1, "name": "ride", "roles": []}], "interactions": []}, Categories((1,), ("person",))
        )
