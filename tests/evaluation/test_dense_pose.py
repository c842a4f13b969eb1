"""GPS, GPSm and IoU of dense pose beside numbers of detectron2's evaluator, on a body of 218 vertices."""

from __future__ import annotations

import copy
import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import torch

from boxwood.dense_pose import DetectedDensePose, decode_png, encode_png
from boxwood.errors import UserError
from boxwood.evaluation import make_evaluator
from boxwood.evaluation.dense_pose import AREAS, DensePoseEvaluator, _stretching, match
from boxwood.evaluation.measures import DensePoseEvaluatorConfig
from boxwood.evaluation.results import read_results
from boxwood.evaluation.surface import KAPPAS, PART_GROUPS, Surface, read_surface, similarity
from boxwood.evaluation.truth import ImageResults
from boxwood.structures import Categories, Detections

FACTS = Path(__file__).parents[1] / "facts" / "dense_pose"
PERSON = Categories((1,), ("person",))
TABLES = {"GPS": "dense_pose", "GPSM": "dense_pose_gpsm", "IOU": "dense_pose_iou"}


def read(name: str) -> Any:
    path = FACTS / name
    return json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The body in the published files' layout."""
    body, folder = np.load(FACTS / "body.npz"), tmp_path_factory.mktemp("surface")
    columns = {"Part_ID_subdiv": "chart_part", "U_subdiv": "chart_u", "V_subdiv": "chart_v"}
    scipy.io.savemat(folder / "SMPL_subdiv.mat", {name: body[ours][None] for name, ours in columns.items()})
    scipy.io.savemat(folder / "SMPL_SUBDIV_TRANSFORM.mat", {"index": body["chart_to_mesh_1based"][:, None]})
    (folder / "Pdist_matrix.pkl").write_bytes(pickle.dumps({"Pdist_matrix": body["pdist"][:, None]}, protocol=2))
    return folder


@pytest.fixture(scope="module")
def surface(folder: Path) -> Surface:
    return read_surface(folder)


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return read("eval_expected.json")  # type: ignore[no-any-return]


def results() -> dict[int, ImageResults]:
    rows: dict[int, list[dict[str, Any]]] = {}
    for record in read("eval_detections.json.gz"):
        rows.setdefault(record["image_id"], []).append(record)
    made = {}
    for image_id, records in rows.items():
        records.sort(key=lambda record: -record["score"])
        made[image_id] = ImageResults(
            np.array([record["bbox"] for record in records], dtype=np.float64),
            np.array([record["score"] for record in records], dtype=np.float64),
            np.zeros(len(records), dtype=np.int64),
            others=[{"uv_shape": record["iuv_shape_chw"], "uv_data": record["iuv_png_base64"]} for record in records],
        )
    return made


def evaluator_of(surface: Surface | None, **settings: Any) -> DensePoseEvaluator:
    evaluator = DensePoseEvaluator(read("eval_truth.json.gz"), PERSON, surface, **settings)
    evaluator.results = results()
    return evaluator


@pytest.mark.parametrize(("settings", "suffix"), [({}, ""), ({"lowest": 0.2}, "_from_0.2"), ({"kappa": 0.255}, "_kappa_0.255")])
def test_ap_and_ar_are_detectron2s(surface: Surface, expected: Any, settings: Any, suffix: str) -> None:
    metrics = evaluator_of(surface, **settings).compute()
    compared = 0
    for theirs, ours in TABLES.items():
        if theirs + suffix in expected["metrics"]:
            assert metrics[ours] == pytest.approx(expected["metrics"][theirs + suffix], abs=1e-6)
            compared += 1
    assert compared == {"": 3, "_from_0.2": 2, "_kappa_0.255": 1}[suffix]
    assert metrics["bbox"]["AP"] > 0 and set(metrics["dense_pose_parts"]) >= {"torso", "hands", "head"}
    assert any("kappa" in note for note in metrics["notes"])


def test_similarities_of_pairs_are_detectron2s(surface: Surface, expected: Any) -> None:
    for settings, key in (({}, "pairs"), ({"kappa": 0.255}, "pairs_kappa_0.255")):
        evaluator = evaluator_of(surface, **settings)
        for pair, facts in zip(evaluator._pairs_of(1, 0), expected[key], strict=True):
            names = {"gps": pair.similarities["dense_pose"], "box_iou": pair.boxes, "mask_iou": pair.similarities["dense_pose_iou"]}
            for name in facts.keys() & names.keys():
                np.testing.assert_allclose(names[name], np.array(facts[name]), atol=1e-6, rtol=0)


def test_matches_are_detectron2s(surface: Surface, expected: Any) -> None:
    evaluator = evaluator_of(surface)
    for theirs, ours in TABLES.items():
        for pair, facts in zip(evaluator._pairs_of(1, 0), expected["matches_area_all"][theirs], strict=True):
            matched, ignored, passed = match(pair, ours, evaluator.thresholds, AREAS[""])
            assert (matched == (np.array(facts["detection_matches"]) > 0)).all()
            assert (ignored == np.array(facts["detection_ignored"], dtype=bool)).all()
            assert passed.tolist() == facts["truth_ignored"]


def test_curves_are_detectron2s(surface: Surface) -> None:
    facts, evaluator = np.load(FACTS / "eval_arrays.npz"), evaluator_of(surface)
    pairs = evaluator._pairs_of(1, 0)
    for theirs, ours in TABLES.items():
        precision, recall = evaluator._curves(pairs, ours)
        np.testing.assert_allclose(precision, facts[f"precision.{theirs}"], atol=1e-9)
        np.testing.assert_allclose(recall, facts[f"recall.{theirs}"], atol=1e-9)


def test_distances_of_points_are_detectron2s(surface: Surface) -> None:
    facts = np.load(FACTS / "eval_arrays.npz")
    person = next(a for a in read("eval_truth.json.gz")["annotations"] if a["image_id"] == 12)
    true = surface.nearest(np.array(person["dp_I"]).astype(int), np.stack([person["dp_U"], person["dp_V"]], axis=1))
    assert (true + 1 == facts["pair12.truth_mesh_vertex_1based"]).all()
    record = next(r for r in read("eval_detections.json.gz") if r["image_id"] == 12)
    planes = decode_png(record["iuv_png_base64"], record["iuv_shape_chw"])
    outside = facts["pair12.outside"]
    values = planes[:, facts["pair12.py"].clip(0, planes.shape[1] - 1), facts["pair12.px"].clip(0, planes.shape[2] - 1)] * ~outside
    detected = surface.nearest(values[0].astype(int), values[1:].T / 255)
    np.testing.assert_allclose(surface.distance(detected, true), facts["pair12.distance"], rtol=1e-6)
    kappas = np.array(KAPPAS)[np.array(PART_GROUPS)[np.array(person["dp_I"]).astype(int)]]
    np.testing.assert_allclose(kappas, facts["pair12.kappa"])


def test_similarity_falls_with_distance_by_part() -> None:
    torso, hand = (similarity(np.array([0.0, 0.351, np.inf]), np.full(3, part)) for part in (1, 3))
    assert torso.tolist() == pytest.approx([1, np.exp(-0.5), 0]) and hand[1] < 0.01


def test_distances_are_symmetric_and_zero_to_oneself(surface: Surface) -> None:
    a, b = np.arange(218), np.random.default_rng(0).permutation(218)
    assert (surface.distance(a, b) == surface.distance(b, a)).all() and not surface.distance(a, a).any()
    assert np.isinf(surface.distance(np.array([-1]), np.array([3]))).all()


@pytest.mark.parametrize("side", [1, 2, 48, 97, 100, 200, 256, 300])
def test_masks_are_stretched_as_by_scipy(side: int) -> None:
    body = (np.random.default_rng(side).random((256, 256)) > 0.5).astype(np.float64)
    ours = _stretching(side, 256) @ body @ _stretching(100, 256).T
    np.testing.assert_allclose(ours, scipy.ndimage.zoom(body, (side / 256, 100 / 256), order=1), atol=1e-9)


# ------------------------------------------------------------------------------------------------------------ the measure


def test_without_a_surface_the_masks_are_compared_and_a_note_says_where_it_is(expected: Any) -> None:
    metrics = evaluator_of(None).compute()
    assert "dense_pose" not in metrics
    assert metrics["dense_pose_iou"] == pytest.approx(expected["metrics"]["IOU"], abs=1e-6)
    (note,) = [note for note in metrics["notes"] if "surface" in note]
    assert "SMPL_subdiv.mat" in note and "https://dl.fbaipublicfiles.com/densepose/data/" in note and "commercial" in note


def test_the_measure_is_chosen_by_name_and_selects_weights_by_gpsm(folder: Path, expected: Any) -> None:
    config = DensePoseEvaluatorConfig(surface=str(folder), kappa=0.255, lowest_threshold=0.2)
    evaluator: Any = make_evaluator(read("eval_truth.json.gz"), PERSON, measure=config)
    assert (evaluator.kappa, len(evaluator.thresholds)) == (0.255, 16)
    assert config.primary({"dense_pose_gpsm": {"AP": 0.25}, "bbox": {"AP": 0.5}}) == 0.25


def test_no_detections_and_no_dense_pose() -> None:
    truth = read("eval_truth.json.gz")
    nothing = DensePoseEvaluator(truth, PERSON, None)
    assert nothing.compute()["dense_pose_iou"]["AP"] == 0
    boxes = DensePoseEvaluator(truth, PERSON, None)
    boxes.results = {k: ImageResults(r.boxes, r.scores, r.labels) for k, r in results().items()}
    metrics = boxes.compute()
    assert "dense_pose_iou" not in metrics and any("no dense pose" in note for note in metrics["notes"])
    without = copy.deepcopy(truth)
    for annotation in without["annotations"]:
        annotation.pop("dp_x", None)
    with pytest.raises(UserError, match="needs annotations with dp_x"):
        DensePoseEvaluator(without, PERSON, None)


def test_detections_are_read_from_a_file(surface: Surface, tmp_path: Path, expected: Any) -> None:
    records = [
        {"image_id": r["image_id"], "category_id": 1, "bbox": r["bbox"], "score": r["score"], "uv_shape": r["iuv_shape_chw"],
         "uv_data": r["iuv_png_base64"]} for r in read("eval_detections.json.gz")
    ]  # fmt: skip
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(records))
    truth = read("eval_truth.json.gz")
    evaluator = DensePoseEvaluator(truth, PERSON, surface)
    evaluator.results, tasks = read_results(
        path, PERSON, {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    )
    assert tasks == ("bbox",)
    assert evaluator.compute()["dense_pose_gpsm"] == pytest.approx(expected["metrics"]["GPSM"], abs=1e-6)


def test_faulty_maps_of_detections_are_one_line(surface: Surface) -> None:
    for key, value, message in (
        ("uv_shape", [3, 1, 1], r"image id 11, detection 0: expected 'uv_shape' \[3, 120, 60\]"),
        ("uv_data", "AAAA", "image id 11, detection 0: 'uv_data' is no PNG in base64"),
        ("uv_data", "?", "'uv_data' is"),
        ("uv_data", encode_png(np.zeros((3, 2, 2), dtype=np.uint8)), r"'uv_data' is a PNG of RGB, 2 x 2"),
    ):
        evaluator = evaluator_of(surface)
        others = evaluator.results[11].others
        assert others is not None
        others[0] = {**others[0], key: value}
        with pytest.raises(UserError, match=message):
            evaluator.compute()


def test_a_detector_writes_what_the_measure_reads(surface: Surface) -> None:
    maps = torch.zeros(1, 2 + 75, 8, 8)
    maps[:, 1] = 1.0  # all of the box is body
    maps[:, 2 + 5] = 1.0  # part 5
    maps[:, 27 + 5], maps[:, 52 + 5] = 0.5, 1.25
    field = DetectedDensePose(maps, coarse=2)
    boxes = torch.tensor([[10.5, 20.0, 40.0, 60.75]])
    detections = Detections(boxes, torch.ones(1), torch.zeros(1, dtype=torch.int64), (100, 100), ("person",),
                            fields={"dense_pose": field})  # fmt: skip
    made = ImageResults.of(detections, with_masks=False)
    (record,) = made.records(11, (1,))
    assert record["uv_shape"] == [3, 40, 29]
    planes = decode_png(record["uv_data"], record["uv_shape"])
    assert {tuple(pixel) for pixel in planes.reshape(3, -1).T.tolist()} == {(5, 127, 255)}
    evaluator = DensePoseEvaluator(read("eval_truth.json.gz"), PERSON, surface)
    evaluator.add(11, detections)
    assert evaluator.compute()["dense_pose"]["AP"] >= 0


# ------------------------------------------------------------------------------------------------------------ the surface


def test_surfaces_that_are_missing_or_do_not_belong_together_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks SMPL_subdiv\.mat, .*SMPL.*densepose/data/ and name its folder"):
        read_surface(tmp_path)
    for name in ("SMPL_subdiv.mat", "SMPL_SUBDIV_TRANSFORM.mat"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "Pdist_matrix.pkl").write_bytes(pickle.dumps({"Pdist_matrix": np.zeros((3, 1), dtype=np.float32)}, protocol=2))
    with pytest.raises(UserError, match="has 3 distances, and 218 vertices have 23653"):
        read_surface(tmp_path)
    (tmp_path / "Pdist_matrix.pkl").write_bytes(pickle.dumps({"other": 1}, protocol=2))
    with pytest.raises(UserError, match="has no array 'Pdist_matrix'"):
        read_surface(tmp_path)
    np.savez(tmp_path / "body.npz", chart_part=np.ones(2))
    with pytest.raises(UserError, match="lacks the array chart_u"):
        read_surface(tmp_path / "body.npz")
