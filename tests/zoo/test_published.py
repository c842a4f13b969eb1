"""Published models by name: downloaded, converted, used for prediction and evaluation; and training from an ImageNet backbone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boxwood.data.known_classes import COCO
from boxwood.errors import UserError
from boxwood.interop.zoo import is_published, read_published
from boxwood.recipes import resolve
from boxwood.structures import Categories
from boxwood.training.initial_weights import load_initial_weights
from boxwood.zoo import download
from boxwood.zoo.table import find
from tests.conftest import Boxwood
from tests.interop.detectron_blobs import backbone, convolution, network, random_blobs, write
from tests.zoo.server import Site, serve

CFG = """
MODEL: !!python/object/new:detectron.utils.collections.AttrDict
  dictitems:
    TYPE: generalized_rcnn
    CONV_BODY: FPN.add_fpn_ResNet50_conv5_body
    NUM_CLASSES: 81
    FASTER_RCNN: true
    MASK_ON: true
  state: {__immutable__: true}
FPN: !!python/object/new:detectron.utils.collections.AttrDict
  dictitems: {FPN_ON: true, MULTILEVEL_ROIS: true, MULTILEVEL_RPN: true}
FAST_RCNN: !!python/object/new:detectron.utils.collections.AttrDict
  dictitems: {ROI_BOX_HEAD: fast_rcnn_heads.add_roi_2mlp_head, ROI_XFORM_METHOD: RoIAlign, ROI_XFORM_RESOLUTION: 7, ROI_XFORM_SAMPLING_RATIO: 2}
MRCNN: !!python/object/new:detectron.utils.collections.AttrDict
  dictitems: {ROI_MASK_HEAD: mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs, RESOLUTION: 28, ROI_XFORM_METHOD: RoIAlign,
    ROI_XFORM_RESOLUTION: 14, ROI_XFORM_SAMPLING_RATIO: 2, DILATION: 1, CONV_INIT: MSRAFill}
TRAIN: !!python/object/new:detectron.utils.collections.AttrDict
  dictitems:
    DATASETS: !!python/tuple [coco_2014_train, coco_2014_valminusminival]
    SCALES: !!python/tuple [64]
    MAX_SIZE: 96
TEST: !!python/object/new:detectron.utils.collections.AttrDict
  dictitems: {DATASETS: !!python/tuple [coco_2014_minival], SCALE: 64, MAX_SIZE: 96, NMS: 0.5, RPN_PRE_NMS_TOP_N: 50, RPN_POST_NMS_TOP_N: 20}
"""  # noqa: E501
NAME = "detectron/e2e_mask_rcnn_R-50-FPN_2x"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("BOXWOOD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.0)
    with serve() as server:
        monkeypatch.setenv("BOXWOOD_ZOO_MIRROR", server.address)
        yield server


def publish(site: Site, name: str, file: Path) -> None:
    site.put("/" + find(name).path, file.read_bytes())


def publish_detector(site: Site, tmp_path: Path) -> None:
    """A Mask R-CNN with small random weights, under `NAME`."""
    blobs = random_blobs(network(masks=True))
    blobs = {name: value * np.float32(0.02) if name.endswith("_w") else value * np.float32(0.1) for name, value in blobs.items()}
    write(tmp_path / "model.pkl", blobs, CFG)
    publish(site, NAME, tmp_path / "model.pkl")


@pytest.mark.slow
def test_predict_by_a_name(site: Site, boxwood: Boxwood, tmp_path: Path) -> None:
    publish_detector(site, tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    done = boxwood("predict", tmp_path / "photo.png", "--model", NAME, "--out", tmp_path / "out", "--score", "0")
    assert done.status == 0, done.err
    assert (tmp_path / "out" / "photo.png").is_file() and "tensors of the file not used" in done.err
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert all("segmentation" in record and len(record["bbox"]) == 4 for record in predictions)
    model = read_published(NAME).saved.config.model
    assert model.geometry == "detectron1" and model.pixel_std == (1, 1, 1)
    assert len(site.downloads()) == 1  # then it is in the cache


def test_eval_by_a_name(site: Site, boxwood: Boxwood, tmp_path: Path) -> None:
    publish_detector(site, tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    square = {"bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}
    coco = {
        "images": [{"id": 1, "file_name": "photo.png", "height": 60, "width": 90}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 90, **square}],
        "categories": [{"id": number, "name": name} for number, name in zip(COCO.ids, COCO.names, strict=True)],
    }
    (tmp_path / "val.json").write_text(json.dumps(coco))
    data = (f"data.val.annotations={tmp_path / 'val.json'}", f"data.val.images={tmp_path}", "data.val.transforms.0.short=[64]")
    small = ("model.rpn.test_proposals=20", "test.score_threshold=0", "data.workers=0", "train.device=cpu")
    done = boxwood("eval", NAME, "--weights", NAME, *data, *small, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert f"{NAME} on 1 images" in done.out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {"bbox", "segm"} <= metrics.keys() and json.loads((tmp_path / "out" / "detections.json").read_text())


def test_error_of_a_missing_model_is_one_line(site: Site, boxwood: Boxwood, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    for name, message in (("detectron/e2e_mask_rcnn_R50-FPN_2x", "did you mean"), (NAME, "404")):
        done = boxwood("predict", tmp_path / "photo.png", "--model", name, "--out", tmp_path / "out")
        assert done.status == 2 and len(done.error_lines) == 1 and message in done.err


def test_training_starts_from_an_imagenet_backbone(site: Site, tmp_path: Path) -> None:
    shapes = backbone(50)
    convolution(shapes, "fc1000", 10, 2048)
    blobs = random_blobs(shapes)
    write(tmp_path / "R-50.pkl", blobs, None)
    publish(site, "detectron/imagenet/R-50", tmp_path / "R-50.pkl")
    config = resolve("detectron/e2e_faster_rcnn_R-50-FPN_1x")
    assert config.train.weights == "detectron/imagenet/R-50"
    categories = Categories((1, 2, 3), ("a", "b", "c"))
    model = config.model.build(categories, config.test)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_initial_weights(model, config, categories)
    after = model.state_dict()
    assert torch.equal(after["backbone.layer4.2.conv3.conv.weight"], torch.from_numpy(blobs["res5_2_branch2c_w"]))
    assert torch.equal(after["backbone.conv1.conv.weight"], torch.from_numpy(blobs["conv1_w"]).flip(1))
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("backbone."))

    config = resolve("detectron/e2e_faster_rcnn_R-50-FPN_1x", ["model.backbone.non_local.norm=gn"])
    model = config.model.build(categories, config.test)
    before = {name: value.clone() for name, value in model.state_dict().items() if ".non_local5." in name}
    load_initial_weights(model, config, categories)
    assert len(before) == 9 and all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(model.state_dict()["backbone.layer3.5.conv3.conv.weight"], after["backbone.layer3.5.conv3.conv.weight"])


def test_an_imagenet_backbone_is_no_detector(site: Site, tmp_path: Path) -> None:
    write(tmp_path / "R-50.pkl", random_blobs({"conv1_w": (64, 3, 7, 7)}), None)
    publish(site, "detectron/imagenet/R-50", tmp_path / "R-50.pkl")
    with pytest.raises(UserError, match="is an ImageNet backbone"):
        read_published("detectron/imagenet/R-50")


def test_names_of_the_zoo() -> None:
    assert is_published(NAME) and is_published("torchvision/maskrcnn_resnet50_fpn")
    assert not is_published("runs/detectron") and not is_published("detectron.safetensors")
