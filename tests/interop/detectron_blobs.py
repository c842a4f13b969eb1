"""The blobs of Detectron's networks, written from its published files and not from our code; and files as Detectron wrote them."""

from __future__ import annotations

import io
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.test_safe_pickle import Python2

Shapes = dict[str, tuple[int, ...]]

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

NETWORKS: dict[str, tuple[dict[str, Any], int, int]] = {
    "e2e_mask_rcnn_R-50-C4_1x": ({"kind": "c4", "masks": True}, 173, 35_971_185),
    "e2e_faster_rcnn_R-50-C4_1x": ({"kind": "c4"}, 169, 33_852_960),
    "rpn_R-50-C4_1x": ({"kind": "rpn_c4"}, 135, 18_058_379),
    "rpn_R-50-FPN_1x": ({"kind": "rpn"}, 181, 27_446_351),
    "e2e_faster_rcnn_R-50-FPN_1x": ({}, 189, 41_757_156),
    "e2e_faster_rcnn_R-101-FPN_1x": ({"depth": 101}, 342, 60_749_284),
    "e2e_faster_rcnn_X-101-32x8d-FPN_1x": ({"depth": 101, "groups": 32, "width": 8}, 342, 104_991_460),
    "e2e_faster_rcnn_X-101-64x4d-FPN_1x": ({"depth": 101, "groups": 64, "width": 4}, 342, 99_655_396),
    "e2e_mask_rcnn_R-50-FPN_1x": ({"masks": True}, 201, 44_400_693),
    "e2e_mask_rcnn_R-101-FPN_1x": ({"depth": 101, "masks": True}, 354, 63_392_821),
    "e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x": ({"depth": 152, "groups": 32, "width": 8, "masks": True}, 507, 141_216_053),
    "e2e_keypoint_rcnn_R-50-FPN_1x": ({"keypoints": True, "classes": 2}, 209, 59_195_019),
    "retinanet_R-50-FPN_1x": ({"kind": "retinanet"}, 195, 37_968_692),
    "retinanet_X-101-64x4d-FPN_1x": ({"kind": "retinanet", "depth": 101, "groups": 64, "width": 4}, 348, 95_866_932),
    "e2e_mask_rcnn_R-50-FPN_2x_gn": ({"masks": True, "norm": "gn"}, 223, 45_715_509),
    "scratch_e2e_mask_rcnn_R-50-FPN_3x_gn": ({"masks": True, "norm": "gn"}, 223, 45_715_509),
}
"""Configuration -> arguments of `network`, and the numbers of blobs and of values that Detectron's builder makes of it."""


def parts_of(name: str) -> dict[str, Any]:
    """The arguments of `network` for a configuration's name; equal arguments mean the same network."""
    match = re.search(r"[RX]-(\d+)(?:-(\d+)x(\d+)d)?", name)
    assert match is not None
    parts: dict[str, Any] = {"kind": "fpn", "depth": int(match[1]), "groups": int(match[2] or 1), "width": int(match[3] or 64)}
    if "retinanet" in name:
        parts["kind"] = "retinanet"
    elif "C4" in name:
        parts["kind"] = "rpn_c4" if name.startswith("rpn") else "c4"
    elif name.startswith("rpn"):
        parts["kind"] = "rpn"
    if name.endswith("_gn"):
        parts["norm"] = "gn"
    if "mask_rcnn" in name:
        parts["masks"] = True
    if "keypoint_rcnn" in name:
        parts |= {"keypoints": True, "classes": 2}
    if name.startswith(("fast_rcnn", "mask_rcnn", "keypoint_rcnn")):
        parts["proposes"] = False
    return parts


def convolution(shapes: Shapes, name: str, *shape: int, norm: str | None = None, bias: bool = True) -> None:
    shapes[f"{name}_w"] = shape
    if norm is not None:
        base = "res_conv1" if (name, norm) == ("conv1", "bn") else name
        shapes[f"{base}_{norm}_s"] = shapes[f"{base}_{norm}_b"] = (shape[0],)
    elif bias:
        shapes[f"{name}_b"] = (shape[0],)


def backbone(depth: int = 50, groups: int = 1, width: int = 64, norm: str = "bn", last: int = 5) -> Shapes:
    shapes: Shapes = {}
    convolution(shapes, "conv1", 64, 3, 7, 7, norm=norm)
    channels = 64
    for stage in range(2, last + 1):
        inner, outer = groups * width << (stage - 2), 256 << (stage - 2)
        for block in range(BLOCKS[depth][stage - 2]):
            name = f"res{stage}_{block}_branch"
            convolution(shapes, f"{name}2a", inner, channels, 1, 1, norm=norm)
            convolution(shapes, f"{name}2b", inner, inner // groups, 3, 3, norm=norm)
            convolution(shapes, f"{name}2c", outer, inner, 1, 1, norm=norm)
            if block == 0:
                convolution(shapes, f"{name}1", outer, channels, 1, 1, norm=norm)
            channels = outer
    return shapes


def pyramid(shapes: Shapes, depth: int, norm: str | None, first: int = 2) -> None:
    for stage in range(5, first - 1, -1):
        tap = f"res{stage}_{BLOCKS[depth][stage - 2] - 1}_sum"
        convolution(shapes, f"fpn_inner_{tap}" + ("" if stage == 5 else "_lateral"), 256, 256 << (stage - 2), 1, 1, norm=norm)
        convolution(shapes, f"fpn_{tap}", 256, 256, 3, 3, norm=norm)


def proposer(shapes: Shapes, channels: int, anchors: int, level: str) -> None:
    convolution(shapes, f"conv_rpn{level}", channels, channels, 3, 3)
    convolution(shapes, f"rpn_cls_logits{level}", anchors, channels, 1, 1)
    convolution(shapes, f"rpn_bbox_pred{level}", 4 * anchors, channels, 1, 1)


def network(
    kind: str = "fpn",
    depth: int = 50,
    groups: int = 1,
    width: int = 64,
    norm: str = "bn",
    masks: bool = False,
    keypoints: bool = False,
    classes: int = 81,
    proposes: bool = True,
) -> Shapes:
    """Names and shapes of all blobs; ``classes`` counts background, ``proposes`` is false for Fast R-CNN."""
    shapes = backbone(depth, groups, width, norm, last=4 if kind == "rpn_c4" else 5)
    gn = "gn" if norm == "gn" else None
    if kind in ("c4", "rpn_c4"):
        proposer(shapes, 1024, 15, "")
        if kind == "rpn_c4":
            return shapes
    elif kind == "retinanet":
        pyramid(shapes, depth, gn, first=3)
        convolution(shapes, "fpn_6", 256, 2048, 3, 3)
        convolution(shapes, "fpn_7", 256, 256, 3, 3)
        for tower, outputs in (("cls", 9 * (classes - 1)), ("bbox", 36)):
            for layer in range(4):
                convolution(shapes, f"retnet_{tower}_conv_n{layer}_fpn3", 256, 256, 3, 3)
            convolution(shapes, f"retnet_{tower}_pred_fpn3", outputs, 256, 3, 3)
        return shapes
    else:
        pyramid(shapes, depth, gn)
        proposer(shapes, 256, 3, "_fpn2")
        if kind == "rpn":
            return shapes
    features = 2048 if kind == "c4" else 1024
    if gn:
        for layer in range(1, 5):
            convolution(shapes, f"head_conv{layer}", 256, 256, 3, 3, norm=gn)
    if kind != "c4":
        convolution(shapes, "fc6", 1024, 12544)
    if kind != "c4" and not gn:
        convolution(shapes, "fc7", 1024, 1024)
    convolution(shapes, "cls_score", classes, features)
    convolution(shapes, "bbox_pred", 4 * classes, features)
    if masks:
        for layer in range(1, 5) if kind != "c4" else ():
            convolution(shapes, f"_mask_fcn{layer}" if gn else f"_[mask]_fcn{layer}", 256, 256, 3, 3, norm=gn)
        shapes["conv5_mask_w"], shapes["conv5_mask_b"] = (2048 if kind == "c4" else 256, 256, 2, 2), (256,)
        convolution(shapes, "mask_fcn_logits", classes, 256, 1, 1)
    if keypoints:
        for layer in range(1, 9):
            convolution(shapes, f"conv_fcn{layer}", 512, 256 if layer == 1 else 512, 3, 3)
        shapes["kps_score_lowres_w"], shapes["kps_score_lowres_b"] = (512, 17, 4, 4), (17,)
        shapes["kps_score_w"], shapes["kps_score_b"] = (17, 17, 4, 4), (17,)
    if not proposes:
        shapes = {name: shape for name, shape in shapes.items() if "rpn" not in name}
    return shapes


def random_blobs(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Random values that differ between tensors; 997 of them, repeated, since there are millions."""
    rng = np.random.default_rng(seed)
    return {
        name: np.resize(rng.normal(size=997).astype(np.float32), math.prod(shape)).reshape(shape) for name, shape in shapes.items()
    }


def write(path: Path, blobs: dict[str, Any], cfg: str | None = "MODEL: {}\n") -> None:
    """Write a file as Detectron did: pickle protocol 2 of Python 2, below ``blobs``, or without this level if ``cfg`` is None."""
    buffer = io.BytesIO()
    Python2(buffer, 2).dump(blobs if cfg is None else {"blobs": blobs, "cfg": cfg})
    path.write_bytes(buffer.getvalue())


def read_back(path: Path) -> Any:
    """The contents of such a file, read by pickle."""
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")  # noqa: S301  (written above)
