"""Dense pose in the report: GPS by part of the body, and the surface of truth and detections over the pictures."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By

from boxwood.data import CocoConfig
from boxwood.data.synthetic.bodies import write_bodies
from boxwood.dense_pose import encode_png, part_colors
from boxwood.evaluation.analysis import analyse
from boxwood.evaluation.dense_pose import DensePoseEvaluator
from boxwood.evaluation.surface import read_surface
from boxwood.evaluation.truth import ImageResults
from boxwood.ops.dense_pose import COARSE_OF_PART
from boxwood.report import write_report
from boxwood.report.surface import detected_surface, true_surface
from tests.report.conftest import Open


def nearest_points(annotation: dict[str, Any]) -> dict[str, Any]:
    """Dense pose of an annotation's box: at each pixel that of the nearest annotated point."""
    _, _, width, height = annotation["bbox"]
    shape = [3, max(1, int(height)), max(1, int(width))]
    rows, columns = np.indices(shape[1:])
    places = np.stack([annotation["dp_x"], annotation["dp_y"]], axis=1) * [width / 256, height / 256]
    away = (columns[..., None] + 0.5 - places[:, 0]) ** 2 + (rows[..., None] + 0.5 - places[:, 1]) ** 2
    values = np.stack([annotation["dp_I"], 255 * np.array(annotation["dp_U"]), 255 * np.array(annotation["dp_V"])])
    return {"uv_shape": shape, "uv_data": encode_png(values[:, away.argmin(axis=2)].astype(np.uint8))}


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], dict[str, float]]:
    """A page of two pictures, whose detections are the annotated figures; the annotations, and GPS by part of the body."""
    folder = tmp_path_factory.mktemp("bodies")
    write_bodies(folder, train=1, val=2, size=(120, 160))
    dataset = CocoConfig(annotations=str(folder / "val.json"), images=str(folder / "val")).open()
    coco = dataset.to_coco()
    evaluator = DensePoseEvaluator(coco, dataset.categories, read_surface(folder / "body.npz"))
    shown = [annotation for annotation in coco["annotations"] if annotation.get("dp_x")]
    for image_id in (1, 2):
        own = [annotation for annotation in shown if annotation["image_id"] == image_id]
        boxes, zeros = np.array([a["bbox"] for a in own], dtype=np.float64).reshape(-1, 4), np.zeros(len(own), dtype=np.int64)
        evaluator.results[image_id] = ImageResults(boxes, zeros + 0.9, zeros, others=[nearest_points(a) for a in own])
    analysis = analyse(evaluator.truth, evaluator.results, dataset.categories.ids)
    assert analysis is not None and shown
    metrics = evaluator.compute() | analysis.metrics()
    write_report(
        folder / "report.html",
        title="Figures",
        about="two pictures",
        metrics=metrics,
        dataset=dataset,
        coco=coco,
        categories=dataset.categories,
        truth=evaluator.truth,
        results=evaluator.results,
        analysis=analysis,
    )
    return folder / "report.html", shown, metrics["dense_pose_parts"]


def test_the_page_shows_dense_pose(case: tuple[Path, list[dict[str, Any]], dict[str, float]], opened: Open) -> None:
    path, shown, parts = case
    page = opened(path)
    bars = [element.text.split("\n") for element in page.find_elements(By.CSS_SELECTOR, "#body-parts .bar")]
    expected = [[name.replace("_", " "), "-" if value < 0 else f"{value:.3f}"] for name, value in parts.items()]
    assert bars == expected and max(parts.values()) > 0.9
    heads = [row.text.split()[0] for row in page.find_elements(By.CSS_SELECTOR, "#ap tbody tr")]
    assert heads[-3:] == ["GPS", "GPSm", "dense"]
    truth, detected = (page.find_elements(By.CSS_SELECTOR, f".pane:nth-child({side}) image") for side in (1, 2))
    assert len(truth) == len(detected) == len(shown)
    assert len(page.find_elements(By.CSS_SELECTOR, ".pane:nth-child(1) .point")) == sum(len(a["dp_x"]) for a in shown)
    widths = "return [...document.querySelectorAll('image')].map(i => i.getBoundingClientRect().width)"
    assert min(page.execute_script(widths)) > 0
    assert "each part of the body has its colour" in page.find_element(By.ID, "gallery").text


def layer_of(surface: list[Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    content = base64.b64decode(surface[0].removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def test_a_detected_surface_lies_on_its_box_in_the_colours_of_parts() -> None:
    planes = np.zeros((3, 40, 20), dtype=np.uint8)
    planes[0, :20], planes[0, 20:, :10] = 5, 24
    record = {"uv_shape": [3, 40, 20], "uv_data": encode_png(planes)}
    surface = detected_surface(record, [10.5, 6.0, 20.9, 40.2], 0.5)
    assert surface is not None and surface[1:] == [5.0, 3.0, 10.0, 20.0, []]
    pixels = layer_of(surface)
    assert pixels.shape == (20, 10, 4)
    for rows, columns, part in ((slice(0, 10), slice(0, 10), 5), (slice(10, 20), slice(0, 5), 24)):
        assert (pixels[rows, columns] == [*part_colors()[part].astype(np.uint8), 166]).all()
    assert (pixels[10:, 5:, 3] == 0).all()


@pytest.mark.parametrize("change", [{"uv_shape": [3, 1, 1]}, {"uv_data": "AAAA"}, {"uv_data": 5}, {"uv_shape": None}])
def test_damaged_dense_pose_is_not_drawn(change: dict[str, Any]) -> None:
    record = {"uv_shape": [3, 4, 4], "uv_data": encode_png(np.ones((3, 4, 4), dtype=np.uint8))}
    assert detected_surface(record, [0, 0, 4, 4], 1.0) is not None
    assert detected_surface(record | change, [0, 0, 4, 4], 1.0) is None
    assert detected_surface({}, [0, 0, 4, 4], 1.0) is None


def test_a_true_surface_has_coarse_parts_and_points(tmp_path: Path) -> None:
    mask = {"size": [256, 256], "counts": [0, 256 * 128, 256 * 128]}  # the left half; run lengths go down the columns
    annotation = {"bbox": [10.0, 20.0, 64.0, 32.0], "dp_x": [128.0], "dp_y": [64.0], "dp_I": [9], "dp_U": [0.5], "dp_V": [0.5]}
    annotation["dp_masks"] = [[], mask]
    surface = true_surface(annotation, 0.5)
    assert surface is not None and surface[1:5] == [5.0, 10.0, 32.0, 16.0]
    assert surface[5] == [[21.0, 14.0, "#" + "".join(f"{round(float(c)):02x}" for c in part_colors()[9])]]
    pixels = layer_of(surface)
    assert pixels.shape == (16, 32, 4) and (pixels[:, 16:, 3] == 0).all()
    assert (pixels[:, :16] == [*part_colors()[COARSE_OF_PART.index(2)].astype(np.uint8), 166]).all()
    alone = true_surface(annotation | {"dp_masks": mask}, 0.5)  # of the whole body
    assert alone is not None and alone[0] == "" and len(alone[5]) == 1
    assert true_surface({"bbox": [0, 0, 1, 1]}, 1.0) is None
    assert json.dumps(surface)
