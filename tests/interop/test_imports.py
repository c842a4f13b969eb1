"""Import of whole files of other programs, and refusal of damaged and malicious ones."""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models import detection

from boxwood.data.known_classes import COCO, PERSON, VOC
from boxwood.errors import UserError
from boxwood.interop import weights
from boxwood.interop.weights import import_weights, read_tensors
from boxwood.models import RetinaNetConfig
from boxwood.models.config import without_pretrained
from boxwood.recipes import resolve
from boxwood.structures import Categories
from boxwood.weights.file import load_state
from tests.interop.detectron_blobs import network, random_blobs, write

pytestmark = pytest.mark.slow

# ---------------------------------------------------------------------------------------------------- detectron2's names


def d2_names(
    shapes: dict[str, tuple[int, ...]], depth: int = 50, c4: bool = False, classes: int = 81
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of detectron2's tensors for Detectron's blobs of the same network, without the outputs of background."""
    backbone = "backbone." if c4 else "backbone.bottom_up."
    fixed = {
        "fc6": "roi_heads.box_head.fc1", "fc7": "roi_heads.box_head.fc2", "cls_score": "roi_heads.box_predictor.cls_score",
        "bbox_pred": "roi_heads.box_predictor.bbox_pred", "conv5_mask": "roi_heads.mask_head.deconv",
        "mask_fcn_logits": "roi_heads.mask_head.predictor", "kps_score_lowres": "roi_heads.keypoint_head.score_lowres",
        "fpn_6": "backbone.top_block.p6", "fpn_7": "backbone.top_block.p7",
        "retnet_cls_pred_fpn3": "head.cls_score", "retnet_bbox_pred_fpn3": "head.bbox_pred",
    }  # fmt: skip
    rpn = {"conv_rpn": "conv", "rpn_cls_logits": "objectness_logits", "rpn_bbox_pred": "anchor_deltas"}
    fixed |= {f"{blob}{level}": f"proposal_generator.rpn_head.{name}" for blob, name in rpn.items() for level in ("", "_fpn2")}
    rules = [
        (r"(?:res_)?conv1", f"{backbone}stem.conv1"),
        (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?", r"backbone.fpn_lateral\1"),
        (r"fpn_res(\d)_\d+_sum", r"backbone.fpn_output\1"),
        (r"head_conv(\d)", r"roi_heads.box_head.conv\1"),
        (r"_(?:\[mask\]|mask)_fcn(\d)", r"roi_heads.mask_head.mask_fcn\1"),
        (r"conv_fcn(\d)", r"roi_heads.keypoint_head.conv_fcn\1"),
    ]
    result: dict[str, tuple[int, ...]] = {}
    for blob, shape in shapes.items():
        base, leaf = re.fullmatch(r"(.*?)((?:_bn|_gn)?_[wsb])", blob).groups()  # type: ignore[union-attr]
        if base == "kps_score":
            continue
        if match := re.fullmatch(r"res(\d)_(\d+)_branch(2[abc]|1)", base):
            part = "shortcut" if match[3] == "1" else f"conv{'abc'.index(match[3][1]) + 1}"
            name = f"{'roi_heads.' if c4 and match[1] == '5' else backbone}res{match[1]}.{match[2]}.{part}"
        elif match := re.fullmatch(r"retnet_(cls|bbox)_conv_n(\d)_fpn3", base):
            name = f"head.{match[1]}_subnet.{2 * int(match[2])}"
        else:
            name = fixed.get(base) or next(re.sub(old, new, base) for old, new in rules if re.fullmatch(old, base))
        if "n_" in leaf:
            result[f"{name}.norm.{'weight' if leaf.endswith('s') else 'bias'}"] = shape
            if leaf == "_bn_s":
                result[f"{name}.norm.running_mean"] = result[f"{name}.norm.running_var"] = shape
            continue
        if base == "bbox_pred":
            shape = (4 * (classes - 1), *shape[1:])
        if base == "mask_fcn_logits":
            shape = (classes - 1, *shape[1:])
        result[f"{name}.{'weight' if leaf == '_w' else 'bias'}"] = shape
    return result


D2 = {
    "faster_rcnn_r50_fpn_1x": {},
    "mask_rcnn_r50_fpn_1x": {"masks": True},
    "keypoint_rcnn_r50_fpn_1x": {"keypoints": True, "classes": 2},
    "rpn_r50_fpn_1x": {"kind": "rpn"},
    "mask_rcnn_r50_c4_1x": {"kind": "c4", "masks": True},
    "rpn_r50_c4_1x": {"kind": "rpn_c4"},
    "retinanet_r50_fpn_1x": {"kind": "retinanet"},
    "mask_rcnn_r50_fpn_3x_gn_scratch": {"masks": True, "norm": "gn"},
    "faster_rcnn_x101_32x8d_fpn_1x": {"depth": 101, "groups": 32, "width": 8},
}


@pytest.mark.parametrize("recipe", [pytest.param(name, marks=() if "mask" in name else pytest.mark.slow) for name in D2])
def test_detectron2(recipe: str, tmp_path: Path) -> None:
    parts: dict[str, Any] = D2[recipe]
    names = d2_names(network(**parts), parts.get("depth", 50), "c4" in parts.get("kind", ""), parts.get("classes", 81))
    arrays = random_blobs(names)
    extra = {"proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32)}
    file = tmp_path / "model_final.pkl"
    with file.open("wb") as stream:
        pickle.dump({"model": arrays | extra, "__author__": "Detectron2 Model Zoo"}, stream, protocol=2)
    config = resolve(recipe)
    imported = import_weights(file, "detectron2", config)
    report, saved = imported.report, imported.saved
    assert {*report.loaded.values(), *report.reordered.values()} == arrays.keys() and list(report.unused) == list(extra)
    assert {*report.loaded, *report.reordered, *report.constant, *report.initialised} == saved.state.keys() and not report.constant
    assert not any(value.is_meta for value in saved.state.values())
    for ours, theirs in report.loaded.items():
        assert torch.equal(saved.state[ours], torch.from_numpy(arrays[theirs])), ours
    stem = (
        "backbone.bottom_up.stem.conv1.weight" if "backbone.bottom_up.stem.conv1.weight" in arrays else "backbone.stem.conv1.weight"
    )
    assert torch.equal(saved.state["backbone.conv1.conv.weight"], torch.from_numpy(arrays[stem]).flip(1))
    of_anchors = {"c4": 4, "retinanet": 4, "rpn_c4": 4}.get(parts.get("kind", ""), 0)
    assert len(report.reordered) == 1 + of_anchors
    assert saved.config.model == without_pretrained(config.model)
    assert any(note.startswith("differs: the anchors of level 0") for note in imported.notes)
    assert len(saved.categories) == (1 if "keypoint" in recipe else 80)


def test_anchors_of_detectron2_are_reordered(tmp_path: Path) -> None:
    """RPN on C4: channel (size, ratio) becomes (ratio, size)."""
    arrays = random_blobs(d2_names(network(kind="rpn_c4"), c4=True))
    arrays["proposal_generator.rpn_head.objectness_logits.bias"] = np.arange(15, dtype=np.float32)
    arrays["proposal_generator.rpn_head.anchor_deltas.bias"] = np.arange(60, dtype=np.float32)
    torch.save({"model": {name: torch.from_numpy(value) for name, value in arrays.items()}}, tmp_path / "model.pth")
    state = import_weights(tmp_path / "model.pth", "detectron2", resolve("rpn_r50_c4_1x")).saved.state
    assert state["rpn.objectness.bias"].view(3, 5).tolist() == [[size * 3 + ratio for size in range(5)] for ratio in range(3)]
    assert state["rpn.deltas.bias"].view(3, 5, 4)[1, 2].tolist() == [28, 29, 30, 31]


def test_unsupported_networks_of_detectron2_are_refused(tmp_path: Path) -> None:
    arrays = random_blobs(d2_names(network()))
    arrays["roi_heads.box_head.0.fc1.weight"] = np.zeros((4, 4), np.float32)
    torch.save({name: torch.from_numpy(value) for name, value in arrays.items()}, tmp_path / "cascade.pth")
    for config in (resolve("faster_rcnn_r50_fpn_1x"), None):
        with pytest.raises(UserError, match="Cascade R-CNN"):
            import_weights(tmp_path / "cascade.pth", "detectron2", config)
    torch.save({"roi_heads.box_predictor.cls_score.bias": torch.zeros(81)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="nothing like R-FCN"):
        import_weights(tmp_path / "other.pth", "detectron2", resolve("rfcn_r50"))


# --------------------------------------------------------------------------------------------------------- torchvision's


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("fasterrcnn_resnet50_fpn", 91),
        pytest.param("fasterrcnn_resnet50_fpn_v2", 91, marks=pytest.mark.slow),
        pytest.param("maskrcnn_resnet50_fpn", 91, marks=pytest.mark.slow),
        pytest.param("maskrcnn_resnet50_fpn_v2", 91, marks=pytest.mark.slow),
        pytest.param("keypointrcnn_resnet50_fpn", 2, marks=pytest.mark.slow),
        pytest.param("retinanet_resnet50_fpn", 91, marks=pytest.mark.slow),
        pytest.param("retinanet_resnet50_fpn_v2", 91, marks=pytest.mark.slow),
    ],
)
def test_torchvision(name: str, classes: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes)
    theirs = {key: value + 1 if key.endswith("running_var") else value for key, value in network.state_dict().items()}
    file = tmp_path / f"{name}_coco-01234567.pth"
    torch.save(theirs, file)
    imported = import_weights(file, "torchvision")
    saved, report = imported.saved, imported.report
    assert {*report.loaded, *report.reordered} == saved.state.keys() and not report.initialised
    assert {*report.loaded.values(), *report.reordered.values(), *report.unused} == theirs.keys()
    assert all(key.endswith("num_batches_tracked") for key in report.unused)
    assert len(saved.categories) == (1 if classes == 2 else 80)
    model: Any = saved.config.model.build(saved.categories, saved.config.test)
    assert load_state(model, saved.state) == []
    if isinstance(saved.config.model, RetinaNetConfig):
        logits = theirs["head.classification_head.cls_logits.bias"].view(9, 91)
        assert torch.equal(saved.state["class_logits.bias"].view(9, 80), logits[:, list(COCO.ids)])
    elif classes == 91:
        bias = theirs["roi_heads.box_predictor.cls_score.bias"]
        assert torch.equal(saved.state["class_logits.bias"], bias[[*COCO.ids, 0]])
        deltas = theirs["roi_heads.box_predictor.bbox_pred.weight"].view(91, 4, -1)
        assert torch.equal(saved.state["box_deltas.weight"].view(80, 4, -1), deltas[list(COCO.ids)])
    scale = theirs["backbone.body.bn1.weight"] * theirs["backbone.body.bn1.running_var"].rsqrt()
    norm = model.backbone.conv1.norm
    if "_v2" not in name:  # published without an epsilon in the variance
        torch.testing.assert_close(norm.weight * (norm.running_var + 1e-5).rsqrt(), scale, rtol=1e-6, atol=0)


def torchvisions(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of a Faster R-CNN of torchvision with three classes: shapes, so that a test gives values where it reads them."""
    with torch.device("meta"):
        network = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=4)
    return network.state_dict() | changes


CLASSES = Categories((1, 2, 3), ("hex nut", "lock nut", "wing nut"))


def test_the_callers_configuration_wins_over_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "read_tensors", lambda path: torchvisions())
    config = resolve("faster_rcnn_r50_fpn_1x", ["model.pixel_mean=[1, 2, 3]", "model.rois.aligned=true"])
    imported = import_weights(tmp_path / "a.pth", "torchvision", config, CLASSES)
    assert imported.saved.config.model == without_pretrained(config.model)
    assert {note.split(" = ")[0] for note in imported.notes} == {
        f"differs: model.{key}" for key in ("pixel_mean", "rpn.rounded_anchors", "rois.aligned")
    }
    imported = import_weights(tmp_path / "a.pth", "torchvision", None, CLASSES, overrides=["model.rois.aligned=true"])
    assert imported.saved.config.model.rois.aligned and imported.saved.config.model.rpn.rounded_anchors  # type: ignore[attr-defined]
    assert imported.notes == ()
    with pytest.raises(UserError, match=r"is Faster R-CNN.* --model names RetinaNet"):
        import_weights(tmp_path / "a.pth", "torchvision", resolve("retinanet_r50_fpn_1x"), CLASSES)


def test_a_tensor_of_torchvision_without_a_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "backbone.body.layer4.3.conv1.weight"
    monkeypatch.setattr(weights, "read_tensors", lambda path: torchvisions(**{name: torch.zeros(3)}))
    with pytest.raises(UserError, match="1 tensors that the model has no place for: " + name.replace(".", r"\.")):
        import_weights(tmp_path / "a.pth", "torchvision", None, CLASSES)


# --------------------------------------------------------------------------------------------------------------- refusals


class Attack:
    def __reduce__(self) -> Any:
        return eval, ("open('hacked', 'w').write('x')",)


def test_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in (".pth", ".pkl"):
        file = tmp_path / f"evil{suffix}"
        if suffix == ".pth":
            torch.save({"model": Attack()}, file)
        else:
            file.write_bytes(pickle.dumps({"model": {"a": Attack()}}, protocol=2))
        for source in ("detectron2", "torchvision"):
            with pytest.raises(UserError, match="refused") as error:
                import_weights(file, source, resolve("faster_rcnn_r50_fpn_1x"))  # type: ignore[arg-type]
            assert "\n" not in str(error.value)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": Attack()}}, protocol=2))
    with pytest.raises(UserError, match="refused"):
        import_weights(tmp_path / "evil.pkl", "detectron")
    assert not (tmp_path / "hacked").exists()


def test_a_configuration_of_objects_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.pkl", random_blobs({"conv1_w": (64, 3, 7, 7)}), "MODEL: !!python/object/apply:os.system ['touch hacked']\n")
    with pytest.raises(UserError, match=r"os\.system"):
        import_weights(tmp_path / "a.pkl", "detectron")
    write(tmp_path / "b.pkl", random_blobs({"conv1_w": (64, 3, 7, 7)}), None)
    with pytest.raises(UserError, match="--model"):
        import_weights(tmp_path / "b.pkl", "detectron")


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 50_000_000)
    with pytest.raises(UserError, match="it has compressed entries"):
        read_tensors(tmp_path / "bomb.pth")


@pytest.mark.parametrize("damage", ["cut", "text", "missing", "empty", "no tensors"])
def test_error_of_a_damaged_file_is_one_line(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(1000)}, buffer)
    content = {"cut": buffer.getvalue()[:900], "text": b"hello world", "missing": None, "empty": b""}.get(damage)
    if damage == "no tensors":
        torch.save({"epoch": 3}, file)
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_tensors(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_published_classes() -> None:
    assert (len(COCO), len(VOC), len(PERSON)) == (80, 20, 1) and len(set(COCO.names)) == 80
    index = dict(zip(COCO.names, COCO.ids, strict=True))
    some = {"person": 1, "fire hydrant": 11, "stop sign": 13, "handbag": 31, "toilet": 70, "tv": 72, "book": 84, "toothbrush": 90}
    assert {name: index[name] for name in some} == some
    facts = PERSON.keypoints
    assert facts is not None and len(facts.names) == len(facts.sigmas) == 17 and math.isclose(sum(facts.sigmas), 1.138)
    assert all(facts.flip[other] == index for index, other in enumerate(facts.flip))
    assert all(facts.names[i].replace("left", "right") == facts.names[j].replace("left", "right") for i, j in enumerate(facts.flip))
