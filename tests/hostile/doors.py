"""The doors by which files enter, each with a valid file for it and the function that reads it."""

from __future__ import annotations

import io
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from boxwood import recipe
from boxwood.config import to_yaml
from boxwood.data.annotations import read_annotations
from boxwood.data.coco import categories_of
from boxwood.data.coco_file import read_coco_file
from boxwood.data.proposals import read_proposals, write_proposals
from boxwood.evaluation.results import read_results
from boxwood.interop.caffe import read_caffemodel
from boxwood.interop.detectron import read_detectron
from boxwood.interop.detectron_config.pickled import from_embedded
from boxwood.interop.open_weights import load_model, open_weights
from boxwood.interop.weights import import_weights, read_tensors
from boxwood.recipes import resolve
from boxwood.structures import Categories
from boxwood.training.checkpoint import newest_checkpoint
from boxwood.weights.file import read_weights
from boxwood.weights.torch_file import read_torch_file
from tests.hostile.door import Door, text
from tests.hostile.person_doors import PERSON_DOORS
from tests.training.test_checkpoint import checkpoint_of

__all__ = ["DOORS"]


CATEGORIES = Categories((1, 2), ("cat", "dog"))
SIZES = {1: (20, 30), 2: (20, 30)}
COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in (1, 2)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 6], "area": 30.0, "iscrowd": 0}
        | {"segmentation": [[1, 2, 6, 2, 6, 8, 1, 8]], "keypoints": [1, 2, 2, 3, 4, 1], "num_keypoints": 2},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [3, 3, 2, 2], "area": 4, "iscrowd": 1}
        | {"segmentation": {"size": [20, 30], "counts": [60, 4, 536]}},
    ],
    "categories": [{"id": 1, "name": "cat", "keypoints": ["l", "r"], "skeleton": [[1, 2]]}, {"id": 2, "name": "dog"}],
}
DETECTIONS = [
    {
        "image_id": 1,
        "category_id": 1,
        "bbox": [1, 2, 5, 6],
        "score": 0.5,
        "segmentation": {"size": [20, 30], "counts": [60, 4, 536]},
    },
    {"image_id": 2, "category_id": 2, "bbox": [3, 3.5, 2, 2], "score": 0.25, "segmentation": {"size": [20, 30], "counts": "6g0"}},
]
LABELME = {
    "version": "5.0.1",
    "flags": {},
    "shapes": [
        {"label": "cat", "points": [[1, 2], [6, 8]], "group_id": None, "shape_type": "rectangle", "flags": {}},
        {"label": "dog", "points": [[1, 2], [6, 2], [6, 8]], "group_id": 1, "shape_type": "polygon", "flags": {}},
    ],
    "imagePath": "1.png",
    "imageData": None,
    "imageHeight": 20,
    "imageWidth": 30,
}
VOC = b"""<annotation><filename>1.png</filename><size><width>30</width><height>20</height><depth>3</depth></size>
<object><name>cat</name>
<difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>7</xmax><ymax>9</ymax></bndbox></object></annotation>"""
CVAT = b"""<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels>
<label><name>cat</name></label></labels></task></meta><image id="0" name="1.png" width="30" height="20">
<box label="cat" occluded="0" xtl="1" ytl="2" xbr="6" ybr="8" z_order="0"/>
<polygon label="cat" points="1.0,2.0;6.0,2.0;6.0,8.0" occluded="0"/>
<mask label="cat" rle="3, 4, 5" left="2" top="2" width="4" height="3"/></image></annotations>"""
CSV = b"""ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside
1,xclick,/m/01yrx,1,0.1,0.5,0.2,0.6,0,0,0,0,0
2,xclick,/m/01yrx,1,0.1,0.5,0.2,0.6,1,0,1,0,0
"""
DETECTRON = """MODEL: {TYPE: generalized_rcnn, CONV_BODY: FPN.add_fpn_ResNet50_conv5_body, NUM_CLASSES: 81, FASTER_RCNN: true}
FPN: {FPN_ON: true, MULTILEVEL_ROIS: true, MULTILEVEL_RPN: true}
FAST_RCNN: {ROI_BOX_HEAD: fast_rcnn_heads.add_roi_2mlp_head, ROI_XFORM_METHOD: RoIAlign, ROI_XFORM_RESOLUTION: 7}
TRAIN: {DATASETS: !!python/tuple [coco_2014_train], SCALES: !!python/tuple [800], MAX_SIZE: 1333}
TEST: {DATASETS: !!python/tuple [coco_2014_minival], SCALE: 800, MAX_SIZE: 1333, NMS: 0.5}
SOLVER: {BASE_LR: 0.02, MAX_ITER: 90000, STEPS: [0, 60000, 80000], GAMMA: 0.1}
NUM_GPUS: 8
"""
YOLO = b"path: .\ntrain: images\nval: images\nnames:\n  0: cat\n  1: dog\n"
LABELS = b"0 0.5 0.5 0.2 0.1\n1 0.1 0.1 0.9 0.1 0.9 0.9\n"


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def _torch(tree: Any, archive: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer, _use_new_zipfile_serialization=archive)
    return buffer.getvalue()


def _weights() -> bytes:
    tiny = (
        "model.backbone.weights=null",
        "model.fpn.channels=8",
        "model.rpn.anchor_sizes=[[8.0], [16.0], [32.0], [64.0], [128.0]]",
    )
    config = recipe("rpn_mobilenetv2_fpn", *tiny)
    metadata = {"format": "boxwood", "format_version": "1", "config": to_yaml(config)}
    metadata["categories"] = json.dumps({"ids": [1, 2], "names": ["cat", "dog"], "keypoints": None})
    return safetensors.torch.save({"a.weight": torch.ones(2, 3)}, metadata)


def _proposals() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        write_proposals(path, [(1, np.float32([[1, 2, 3, 4]]), np.float32([0.5])), (2, np.zeros((0, 4)), np.zeros(0))])
        return path.read_bytes()


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    key = number << 3 | 2
    return (bytes([key]) if key < 128 else bytes([key & 127 | 128, key >> 7])) + bytes([len(content)]) + content


def _caffe() -> bytes:
    blob = _field(7, _field(1, bytes([2, 1, 1, 1]))) + _field(5, np.float32([1, 2]).tobytes())
    return _field(100, _field(1, b"conv1") + _field(2, b"Convolution") + _field(7, blob))


def _doors() -> dict[str, Door]:
    boxes = [np.float32([[1, 2, 3, 4]]), np.zeros((0, 4), np.float32)]
    proposals = {"boxes": boxes, "scores": [np.float32([0.5]), np.zeros(0, np.float32)], "ids": [1, 2], "cfg": "a: 1"}
    rows = [np.float32([[1, 2, 3, 4, 0.5]]), np.zeros((0, 5), np.float32)]
    detections = {"all_boxes": [[], rows, rows], "all_segms": [[], [], []], "all_keyps": [[], [], []]}
    blobs = {"blobs": {"conv1_w": np.ones((2, 2), np.float32), "lr": 0.1}, "cfg": DETECTRON}
    state = {"model": {"backbone.conv.weight": torch.ones(2, 3), "backbone.bias": torch.zeros(3)}, "iteration": 7}
    config = to_yaml(recipe("faster_rcnn_mobilenetv2_fpn"))
    checkpoint = _torch({"version": 1, **vars(checkpoint_of(7)), "config": config})
    png = (("images/1.png", _png()), ("images/2.png", _png()))

    def read_config(path: Path) -> None:
        resolve(str(path))

    def read_blobs(path: Path) -> None:
        file = read_detectron(path)
        if file.config is not None:
            from_embedded(file.config, str(path))

    def read_coco(path: Path) -> None:
        categories_of(read_coco_file(path))
        read_annotations(path)

    results = lambda path: read_results(path, CATEGORIES, SIZES)  # noqa: E731
    return {
        "pickle of detectron": Door("a.pkl", pickle.dumps(blobs, 2), read_blobs),
        "pickle of proposals": Door("a.pkl", pickle.dumps(proposals, 2), read_proposals),
        "pickle of detections": Door("a.pkl", pickle.dumps(detections, 2), results),
        "torch": Door("a.pth", _torch(state), read_torch_file),
        "torch stream": Door("a.pth", _torch(state, archive=False), read_torch_file),
        "checkpoint": Door("step-00000007.pt", checkpoint, lambda path: newest_checkpoint(path.parent)),
        "weights of a checkpoint": Door("step-00000007.pt", checkpoint, open_weights),
        "weights": Door("a.safetensors", _weights(), read_weights),
        "model": Door("a.safetensors", _weights(), load_model),
        "import of tensors": Door("a.pth", _torch(state), read_tensors),
        "import of a stream": Door("a.pth", _torch(state, archive=False), read_tensors),
        "import from torchvision": Door("a.pth", _torch(state), lambda path: import_weights(path, "torchvision")),
        "caffe": Door("a.caffemodel", _caffe(), read_caffemodel),
        "coco": Door("a.json", text(COCO), read_coco),
        "detections": Door("a.json", text(DETECTIONS), results),
        "proposals": Door("a.json", text([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]), read_proposals),
        "proposals of boxwood": Door("a.safetensors", _proposals(), read_proposals),
        "yolo": Door("data.yaml", YOLO, read_annotations, (*png, ("labels/1.txt", LABELS))),
        "yolo labels": Door(
            "labels/1.txt", LABELS, lambda path: read_annotations(path.parents[1] / "data.yaml"), (*png, ("data.yaml", YOLO))
        ),
        "voc": Door("Annotations/1.xml", VOC, lambda path: read_annotations(path.parents[1]), (("JPEGImages/1.png", _png()),)),
        "cvat": Door("a.xml", CVAT, read_annotations),
        "labelme": Door("1.json", text(LABELME), lambda path: read_annotations(path.parent), (("1.png", _png()),)),
        "csv": Door(
            "a.csv",
            CSV,
            lambda path: read_annotations(path, path.parent / "images"),
            (*png, ("class-descriptions-boxable.csv", b"/m/01yrx,cat\n")),
        ),
        "config": Door("a.yaml", config.encode(), read_config),
    }


DOORS = _doors() | PERSON_DOORS
