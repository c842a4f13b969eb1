"""Cityscapes' AP against cityscapesscripts on generated streets, and against cases computed by hand."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from boxwood.data.formats.cityscapes import CLASSES
from boxwood.errors import UserError
from boxwood.evaluation import CityscapesEvaluator
from boxwood.structures import Categories
from tests.evaluation.cases import FixedMasks, detections, encode

HEIGHT, WIDTH = 60, 90
IDS = {"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33}
"""Cityscapes' numbers of the eight classes."""
ROAD, VOID = 7, 4
CATEGORIES = Categories(tuple(CLASSES.values()), tuple(CLASSES))


def rectangle(rng: np.random.Generator, least: int = 8) -> tuple[slice, slice]:
    y, x = rng.integers(0, HEIGHT - least), rng.integers(0, WIDTH - least)
    return slice(y, y + rng.integers(least, 30)), slice(x, x + rng.integers(least, 30))


def street(seed: int) -> tuple[np.ndarray, list[tuple[str, float, np.ndarray]]]:
    """A map of instances in Cityscapes' numbers, and detections: name, score, mask."""
    rng = np.random.default_rng(seed)
    names = rng.choice(list(IDS), 3, replace=False)
    numbers = np.full((HEIGHT, WIDTH), ROAD, dtype=np.int32)
    numbers[rectangle(rng)] = VOID
    for _ in range(rng.integers(2, 8)):
        name = names[rng.integers(len(names))]
        group = rng.random() < 0.2
        numbers[rectangle(rng)] = IDS[name] if group else IDS[name] * 1000 + rng.integers(1000)
    predictions = []
    for number in [*np.unique(numbers[numbers >= 24]), VOID, ROAD]:
        for _ in range(rng.integers(0, 4)):
            mask = numbers == number
            if rng.random() < 0.7:
                mask = np.roll(mask, rng.integers(-3, 4, 2), (0, 1))
            if rng.random() < 0.2:
                mask = mask & (rng.random(mask.shape) < 0.6)
            true_name = next((n for n, i in IDS.items() if number in (i,) or number // 1000 == i), names[0])
            name = true_name if rng.random() < 0.8 else names[rng.integers(len(names))]
            predictions.append((str(name), round(float(rng.random()), 1), mask))  # with ties
    predictions.append((str(names[0]), 0.5, np.zeros((HEIGHT, WIDTH), bool)))
    # The script fails where all detections of a class are ignored, so each class has one that counts.
    predictions += [(str(name), 0.05, numbers == ROAD) for name in names]
    return numbers, predictions


def as_coco(maps: list[np.ndarray]) -> dict[str, Any]:
    images, annotations = [], []
    for image_id, numbers in enumerate(maps, start=1):
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH})
        images[-1]["void"] = encode(numbers == VOID)
        for number in np.unique(numbers):
            for name, class_number in IDS.items():
                if number == class_number or number // 1000 == class_number:
                    mask = numbers == number
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": image_id,
                            "category_id": CLASSES[name],
                            "bbox": [0, 0, 1, 1],
                            "area": int(mask.sum()),
                            "iscrowd": int(number == class_number),
                            "segmentation": encode(mask),
                        }
                    )
    return {"images": images, "annotations": annotations, "categories": [{"id": i, "name": n} for n, i in CLASSES.items()]}


def detected(predictions: list[tuple[str, float, np.ndarray]]) -> FixedMasks:
    ranked = sorted(predictions, key=lambda row: -row[1])
    result = detections(
        [[0, 0, 1, 1]] * len(ranked),
        [score for _, score, _ in ranked],
        [CATEGORIES.names.index(name) for name, _, _ in ranked],
        [encode(mask) for _, _, mask in ranked],
    )
    assert isinstance(result, FixedMasks)
    return result


def reference(
    maps: list[np.ndarray],
    predictions_of_maps: list[list[tuple[str, float, np.ndarray]]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """The averages of cityscapesscripts. NumPy 2 lacks ``np.in1d``, `np.isin` of flat arrays; JSON cannot write NumPy integers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as script
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    monkeypatch.setattr(script, "writeDict2JSON", lambda *_: None)
    monkeypatch.chdir(folder)  # it writes a file into the working directory
    truth_files, result_files = [], []
    for number, (numbers, predictions) in enumerate(zip(maps, predictions_of_maps, strict=True)):
        truth_files.append(str(folder / f"city_{number:06d}_000019_gtFine_instanceIds.png"))
        Image.fromarray(numbers.astype(np.uint16)).save(truth_files[-1])
        lines = []
        for rank, (name, score, mask) in enumerate(predictions):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{number}_{rank}.png")
            lines.append(f"{number}_{rank}.png {IDS[name]} {score}\n")
        result_files.append(str(folder / f"{number}.txt"))
        Path(result_files[-1]).write_text("".join(lines))
    script.args.gtInstancesFile = str(folder / "gtInstances.json")
    script.args.predictionPath = str(folder)
    script.args.quiet, script.args.JSONOutput = True, False
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        result: dict[str, Any] = script.evaluateImgLists(result_files, truth_files, script.args)
    return result["averages"]


@pytest.mark.parametrize("seed", range(25))
def test_equals_cityscapesscripts(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streets = [street(10 * seed + number) for number in range(4)]
    maps, predictions_of_maps = [numbers for numbers, _ in streets], [predictions for _, predictions in streets]
    evaluator = CityscapesEvaluator(as_coco(maps), CATEGORIES)
    for image_id, predictions in enumerate(predictions_of_maps, start=1):
        evaluator.add(image_id, detected(predictions))
    ours = evaluator.compute()
    expected = reference(maps, predictions_of_maps, tmp_path, monkeypatch)
    assert ours["cityscapes"]["AP"] == pytest.approx(expected["allAp"], abs=1e-9)
    assert ours["cityscapes"]["AP50"] == pytest.approx(expected["allAp50%"], abs=1e-9)
    assert 0.05 < ours["cityscapes"]["AP"] < 0.95
    for name, row in ours["per_class"].items():
        known = expected["classes"][name]["ap"]
        assert row["cityscapes"] == (-1 if np.isnan(known) else pytest.approx(known, abs=1e-9)), name


def block(y: int, x: int, high: int, wide: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + high, x : x + wide] = True
    return mask


def ap(numbers: np.ndarray, predictions: list[tuple[str, float, np.ndarray]], **more: Any) -> float:
    truth = as_coco([numbers])
    truth["images"][0] |= more
    evaluator = CityscapesEvaluator(truth, CATEGORIES)
    evaluator.add(1, detected(predictions))
    return float(evaluator.compute()["cityscapes"]["AP50"])


def test_by_hand() -> None:
    """Two cars, one of them detected with a precision of 1: the points (recall 0, precision 1) and (0.5, 1) have a width of 0.25
    each. A wrong detection with a lower score adds a point of no width."""
    numbers = np.full((HEIGHT, WIDTH), ROAD)
    numbers[block(0, 0, 20, 20)], numbers[block(30, 40, 20, 20)] = 26001, 26002
    right, wrong = ("car", 0.9, block(0, 0, 20, 20)), ("car", 0.8, block(0, 60, 20, 20))
    assert ap(numbers, [right]) == pytest.approx(0.5)
    assert ap(numbers, [right, wrong]) == pytest.approx(0.5)
    assert ap(numbers, [right, ("car", 0.7, block(30, 40, 20, 20))]) == pytest.approx(1)
    # A wrong one with a higher score: precision 0.5 at the end, 0 at recall 0.
    assert ap(numbers, [("car", 0.95, block(0, 60, 20, 20)), right]) == pytest.approx(0.25 * 0.5 + 0.25 * 0)
    # The same wrong mask on pixels that do not count.
    numbers[block(0, 60, 20, 20)] = VOID
    assert ap(numbers, [("car", 0.95, block(0, 60, 20, 20)), right]) == pytest.approx(0.5)


def test_missing_data_is_refused() -> None:
    truth = as_coco([street(0)[0]])
    with pytest.raises(UserError, match=r"image id 1: 'void' must be run lengths of its size \[60, 90\]"):
        ap(street(0)[0], [], void=[1])
    evaluator = CityscapesEvaluator(truth, CATEGORIES)
    evaluator.add(1, detections([[0, 0, 9, 9]], [0.5], [0]))
    with pytest.raises(UserError, match="these detections have none"):
        evaluator.compute()
    del truth["annotations"][0]["segmentation"]
    with pytest.raises(UserError, match="annotation 1: Cityscapes' rule needs 'segmentation'"):
        CityscapesEvaluator(truth, CATEGORIES)
