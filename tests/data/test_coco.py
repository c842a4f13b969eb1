"""The COCO reader: the numbers of the file, held in arrays, and the samples made of them."""

from __future__ import annotations

import gc
import io
import json
import logging
import pickle
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as pycoco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from boxwood.config import from_tree, to_tree
from boxwood.data import CocoConfig, CocoDataset, DataConfig, DatasetConfig
from boxwood.data.categories import keypoint_facts
from boxwood.errors import UserError
from boxwood.structures import Bitmap, Categories, Polygons
from tests.data.cases import sound, write
from tests.facts import FACTS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under numpy 2
REAL = [
    ("coco/instances.json", "coco/images"),
    ("coco/person_keypoints.json", "coco/images"),
    ("nuts/instances.json", "nuts/images"),
    ("bccd/instances.json", "bccd/images"),
    ("gluetubes/instances.json", "gluetubes/images"),
]
real = pytest.mark.parametrize(("annotations", "images"), REAL)


def numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "keypoints", "num_keypoints")
    return [{key: row[key] for key in keys if key in row} for row in rows]


def coco_of(tree: dict[str, Any]) -> COCO:
    with redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = tree
        coco.createIndex()
    return coco


def test_samples_of_a_small_file(tmp_path: Path) -> None:
    data = CocoDataset(write(tmp_path, sound()), tmp_path)
    assert len(data) == 3 and [data.size(i) for i in range(3)] == [(40, 60), (50, 30), (20, 20)]
    assert data.categories == Categories((-4, 900), ("fig", "nut"))  # by id, not by row
    wide, tall, empty = (data[i] for i in range(3))
    assert (wide.image_id, wide.file_name, wide.original_size) == (70, "wide.png", (40, 60))
    assert wide.boxes.tolist() == [[0, 0, 60, 40], [10.5, 10.25, 15.5, 18.25]]
    assert wide.labels.tolist() == [0, 1] and wide.crowd.tolist() == [True, False]
    assert wide.segmentations is not None and tall.segmentations is not None
    crowd, nut = wide.segmentations
    assert isinstance(crowd, Bitmap) and crowd.values.all() and crowd.box == (0, 0, 60, 40)
    assert isinstance(nut, Bitmap) and nut.values.shape == (7, 4) and nut.box == (11, 11, 15, 18)
    (polygons,) = tall.segmentations
    assert isinstance(polygons, Polygons) and [part.tolist() for part in polygons.parts] == [
        [[2, 4], [12, 4], [12, 24.5]],
        [[5.25, 6], [7, 6], [7, 9]],
    ]
    assert empty.boxes.shape == (0, 4) and empty.segmentations == [] and empty.labels.dtype == torch.int64
    with pytest.raises(IndexError):
        data[3]


def test_keep_empty(tmp_path: Path) -> None:
    path = write(tmp_path, sound())
    data = CocoDataset(path, tmp_path, keep_empty=False)
    assert [data[i].file_name for i in range(len(data))] == ["wide.png", "tall.png"]
    tree = sound()
    tree["annotations"] = tree["annotations"][1:2]  # only a crowd region
    with pytest.raises(UserError, match="no image has a usable annotation"):
        CocoDataset(write(tmp_path, tree), tmp_path, keep_empty=False)


def test_to_coco_gives_the_numbers_of_the_file(tmp_path: Path) -> None:
    tree = sound()
    truth = CocoDataset(write(tmp_path, tree), tmp_path).to_coco()
    assert numbers(truth["annotations"]) == numbers(tree["annotations"])
    assert truth["images"] == tree["images"] and truth["categories"] == tree["categories"]


@real
def test_pycocotools_gives_the_same_results_on_to_coco(annotations: str, images: str) -> None:
    tree = json.loads((FACTS / annotations).read_text())
    data = CocoDataset(FACTS / annotations, FACTS / images)
    truth = data.to_coco()
    assert numbers(truth["annotations"]) == numbers(tree["annotations"])
    has_masks = any(row.get("segmentation") for row in tree["annotations"])
    results = []
    rng = np.random.default_rng(0)
    for row in tree["annotations"][::2]:
        x, y, w, h = row["bbox"]
        results.append({"image_id": row["image_id"], "category_id": row["category_id"], "score": rng.random(),
                        "bbox": [x + 0.1 * w * rng.random(), y, w, h * (1 - 0.2 * rng.random())]})  # fmt: skip
    stats = []
    for source in (tree, truth):
        with redirect_stdout(io.StringIO()):
            coco = coco_of(json.loads(json.dumps(source)))
            if "info" not in coco.dataset:
                coco.dataset["info"] = {}
            evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(results))), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            masks = [coco.annToMask(row).sum() for row in coco.dataset["annotations"]] if has_masks else []
        stats.append((evaluation.stats.tolist(), masks))
    assert stats[0] == stats[1]


@real
def test_bitmaps_are_pycocotools_masks(annotations: str, images: str) -> None:
    data = CocoDataset(FACTS / annotations, FACTS / images)
    coco = coco_of(data.to_coco())
    checked = 0
    for row in np.flatnonzero(data.file.mask_kinds > 1).tolist():
        bitmap = data._segmentation(row)
        assert isinstance(bitmap, Bitmap)
        whole = coco.annToMask(coco.loadAnns(int(data.file.ids[row]))[0])
        left, top, right, bottom = (int(side) for side in bitmap.box)
        np.testing.assert_array_equal(bitmap.values, whole[top:bottom, left:right])
        assert whole.sum() == bitmap.values.sum()
        checked += 1
    assert checked or annotations != "coco/instances.json"


def test_keypoints_are_shifted_by_half_a_pixel(tmp_path: Path) -> None:
    tree = sound()
    for category in tree["categories"]:
        category["keypoints"] = ["left_end", "right_end", "tip"]
        category["skeleton"] = [[1, 2], [2, 3]]
    tree["annotations"][0]["keypoints"] = [3, 5, 2, 9, 11, 1, 0, 0, 0]
    data = CocoDataset(write(tmp_path, tree), tmp_path)
    facts = data.categories.keypoints
    assert facts is not None and (facts.flip, facts.skeleton, facts.sigmas) == ((1, 0, 2), ((0, 1), (1, 2)), (0.05,) * 3)
    sample = data[1]
    assert sample.keypoints is not None and sample.keypoints.tolist() == [[[3.5, 5.5, 2], [9.5, 11.5, 1], [0, 0, 0]]]
    assert sample.keypoint_flip == (1, 0, 2)
    others = data[0].keypoints
    assert others is not None and others.shape == (2, 3, 3) and not others.any()  # instances without keypoints


def test_keypoints_of_a_person_have_cocos_sigmas() -> None:
    sides = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    names = ("nose", *(f"{side}_{part}" for part in sides for side in ("left", "right")))
    facts = keypoint_facts(names)
    expected = COCOeval(iouType="keypoints").params.kpt_oks_sigmas
    np.testing.assert_allclose(facts.sigmas, expected)
    assert facts.flip == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)


def test_different_keypoints_of_categories_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = sound()
    tree["categories"][0]["keypoints"], tree["categories"][1]["keypoints"] = ["a"], ["b"]
    tree["annotations"][0]["keypoints"] = [3, 5, 2]
    data = CocoDataset(write(tmp_path, tree), tmp_path)
    assert data[1].keypoints is None and "keypoints are not read" in caplog.text


def _reachable(root: object) -> int:
    """The number of Python objects reachable from ``root``, without classes, callables and modules."""
    seen: dict[int, object] = {}
    pending = [root]
    while pending:
        item = pending.pop()
        if id(item) not in seen and not isinstance(item, type) and not callable(item) and type(item).__name__ != "module":
            seen[id(item)] = item
            pending.extend(gc.get_referents(item))
    return len(seen)


def test_the_number_of_python_objects_does_not_depend_on_the_annotations(tmp_path: Path) -> None:
    counts, pickled = [], []
    for repeat in (1, 200):
        tree = sound()
        tree["annotations"] = [{**row, "id": 10 * i + k} for i in range(repeat) for k, row in enumerate(tree["annotations"])]
        data = CocoDataset(write(tmp_path, tree), tmp_path)
        data[0]
        counts.append(_reachable(data))
        pickled.append(len(pickle.dumps(data)))
    assert counts[0] == counts[1]
    assert (pickled[1] - pickled[0]) / (3 * 199) < 250  # bytes per annotation, with its mask


def test_exif_orientation_is_applied_if_the_annotated_size_has_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, sound())
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png", exif=exif)
    data = CocoDataset(path, tmp_path)
    np.testing.assert_array_equal(data[0].image.permute(1, 2, 0).numpy(), pixels)
    data[0]
    assert caplog.text.count("it is read as stored") == 1
    # If the file gives the upright size, the image is rotated.
    tree = sound()
    tree["images"][0]["height"], tree["images"][0]["width"] = 60, 40
    tree["annotations"] = tree["annotations"][:1]
    turned = CocoDataset(write(tmp_path, tree, images=False), tmp_path)[0]
    np.testing.assert_array_equal(turned.image.permute(1, 2, 0).numpy(), np.rot90(pixels, -1))
    with pytest.raises(UserError, match=r"wide.png: the image is 60 x 40 pixels, but .* says 40 x 60 .image id 70"):
        CocoDataset(tmp_path / "data.json", tmp_path, exif=False)[0]


def test_a_damaged_run_length_names_its_annotation(tmp_path: Path) -> None:
    tree = sound()
    tree["annotations"][2]["segmentation"]["counts"] = "  "
    data = CocoDataset(write(tmp_path, tree), tmp_path)
    with pytest.raises(UserError, match=rf"annotation {2**40} .row 2. of image 70 'wide.png': 'segmentation' cannot be decoded"):
        data[0]


def test_an_instance_without_mask_beside_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = sound()
    del tree["annotations"][2]["segmentation"]
    tree["annotations"][0]["segmentation"] = []
    data = CocoDataset(write(tmp_path, tree), tmp_path)
    assert data[1].segmentations == [Polygons([])]
    assert "2 annotations without a mask beside others" in caplog.text
    tree["annotations"][1]["segmentation"] = []
    assert CocoDataset(write(tmp_path, tree), tmp_path)[1].segmentations is None


def test_the_configuration_round_trips_and_opens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = CocoConfig(annotations=str(write(tmp_path, sound())), images=str(tmp_path), keep_empty=False)
    assert from_tree(DatasetConfig, to_tree(config)) == config
    assert len(config.open()) == 2


def test_deep_pixels_become_8_bits_by_the_value_range(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = sound()
    grey = np.random.default_rng(1).integers(0, 1024, (40, 60)).astype(np.uint16)
    grey[0, :2] = 0, 1023
    path = write(tmp_path, tree)
    Image.fromarray(grey).save(tmp_path / "wide.png")
    for value_range, (low, high) in ((None, (0, 1023)), ((0, 65535), (0, 65535)), ((100, 500), (100, 500))):
        image = CocoConfig(annotations=str(path), images=str(tmp_path), value_range=value_range).open()[0].image
        expected = np.floor(255 * (grey.clip(low, high) - np.float64(low)) / (high - low) + 0.5)
        np.testing.assert_array_equal(image.numpy(), np.stack([expected] * 3))
    assert "value_range is not set" in caplog.text and caplog.text.count("more than 8 bits") == 1
    plain, ranged = (CocoDataset(path, tmp_path, value_range=value_range)[1].image for value_range in (None, (0.0, 4095.0)))
    assert torch.equal(plain, ranged)  # 8 bits stay as they are


@pytest.mark.parametrize("value_range", [(5, 5), (10, 0), (0, float("inf")), (float("nan"), 1)])
def test_value_ranges_that_cannot_be(value_range: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"value_range .*; give black's value, then white's"):
        CocoConfig(annotations="a.json", images="a", value_range=value_range)


def test_both_sets_have_one_value_range() -> None:
    train = CocoConfig(annotations="a.json", images="a", value_range=(0, 4095))
    with pytest.raises(UserError, match=r"train.value_range \[0.0, 4095.0\] and val.value_range null; set both"):
        DataConfig(train=train, val=CocoConfig(annotations="a.json", images="a"))
    assert DataConfig(train=train, val=train).val == train


def test_pycocotools_decodes_uncompressed_counts_of_to_coco(tmp_path: Path) -> None:
    truth = CocoDataset(write(tmp_path, sound()), tmp_path).to_coco()
    code = truth["annotations"][1]["segmentation"]
    assert pycoco_mask.decode(pycoco_mask.frPyObjects(code, 40, 60)).all()


@pytest.mark.parametrize("depth", [9, 500, 985, 995])
def test_deeply_nested_values_are_refused_or_left_out(depth: int, tmp_path: Path) -> None:
    """What a row has besides COCO's keys is held as JSON, which Python writes and reads up to some depth only."""
    nested = "[" * depth + "]" * depth
    path = write(tmp_path, sound())
    text = path.read_text()
    path.write_text(text.replace('"images": [{', f'"images": [{{"void": {nested}, ', 1))
    with pytest.raises(UserError, match=r"must be lists and mappings of at most 8 levels|recursion"):
        CocoDataset(path, tmp_path)
    path.write_text(text.replace('"annotations": [{', f'"annotations": [{{"score": {nested}, ', 1))
    with nullcontext() if depth < 900 else suppress(UserError):
        assert "score" not in CocoDataset(path, tmp_path).to_coco()["annotations"][0]
