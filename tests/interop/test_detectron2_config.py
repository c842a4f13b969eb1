"""detectron2's configurations and the weights beside them: what is read, with which settings, and what is refused.

``python -m pytest -s tests/interop/test_detectron2_config.py -k page`` prints a new table for docs/detectron2-models.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boxwood.config import ConfigError, to_tree
from boxwood.data.known_classes import COCO, PERSON, VOC
from boxwood.errors import UserError
from boxwood.interop import detectron2, weights
from boxwood.interop.detectron2_config import read_config
from boxwood.interop.detectron2_config.convert import from_detectron2
from boxwood.interop.detectron2_config.keys import KEYS
from boxwood.interop.weights import import_weights
from boxwood.models.config import without_pretrained
from boxwood.recipes import resolve
from boxwood.structures import Categories
from tests.interop.detectron2_files import names, shapes_of, tree_of, write_config

PAGE = Path(__file__).parents[2] / "docs" / "detectron2-models.md"
NAMES = names()
FAST = (
    "COCO-Detection/fast_rcnn_R_50_FPN_1x",
    "COCO-Detection/faster_rcnn_R_50_DC5_1x",
    "COCO-Detection/retinanet_R_50_FPN_1x",
    "COCO-Detection/rpn_R_50_FPN_1x",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x",
    "Misc/cascade_mask_rcnn_R_50_FPN_1x",
    "Misc/scratch_mask_rcnn_R_50_FPN_9x_syncbn",
)
FASTER = "COCO-Detection/faster_rcnn_R_50_FPN_1x"
RPN = "COCO-Detection/rpn_R_50_FPN_1x"


def meta_state(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes_of(name).items()}


def classes(count: int) -> Categories:
    return Categories(tuple(range(1, count + 1)), tuple(f"class {number}" for number in range(count)))


def refusal(name: str) -> str | None:
    """The sentence with which the weights or their configuration are refused; None where they are read."""
    try:
        detectron2.check_architecture(meta_state(name), "model_final.pth")
        from_detectron2(tree_of(name))
    except UserError as error:
        return str(error).split(": ", 1)[1]
    return None


def row(name: str) -> str:
    if (sentence := refusal(name)) is not None:
        return f"| {name} | | | | | refused: {sentence} |"
    read = from_detectron2(tree_of(name))
    model: Any = read.config.model
    pooling = f"{model.rois.sampling_ratio}, {model.rois.aligned}".lower() if "rcnn" in name.lower() else ""
    cells = [name, model.title, model.backbone.stride_in, ", ".join(f"{value:g}" for value in model.pixel_std), pooling]
    needs = [] if read.published_classes else ["with `--categories FILE`"]
    needs += ["with files of proposals"] if model.needs_proposals else []
    needs += [f"without `{note.split(' = ')[0].removeprefix('left out: ')}`" for note in read.notes if note.startswith("left out")]
    return f"| {' | '.join(cells)} | {', '.join(needs) or 'read'} |"


def test_the_page_lists_every_configuration() -> None:
    rows = [row(name) for name in NAMES]
    print("", *rows, sep="\n")
    assert [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "/" in line] == rows
    assert len(rows) == 61 and sum("refused" in line for line in rows) == 12


# ----------------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NAMES])
def test_weights_of_every_configuration(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is built from config.yaml, has exactly the tensors that detectron2's has, and the settings of the file."""
    monkeypatch.setattr(weights, "read_tensors", lambda path: meta_state(name))
    write_config(tmp_path, name)
    path = tmp_path / "model_final.pth"
    if (sentence := refusal(name)) is not None:
        with pytest.raises(UserError) as error:
            import_weights(path, "detectron2")
        assert str(error.value).endswith(sentence) and "\n" not in str(error.value)
        return
    tree = tree_of(name)
    keys, group = tree["MODEL"], "RETINANET" if "retinanet" in name else "ROI_HEADS"
    count = keys[group]["NUM_CLASSES"]
    if name.startswith(("LVIS", "Cityscapes")):
        with pytest.raises(UserError, match=f"has {count} classes, whose names .* --categories"):
            import_weights(path, "detectron2")
        imported = import_weights(path, "detectron2", categories=classes(count))
    else:
        imported = import_weights(path, "detectron2")
        assert imported.saved.categories == (PERSON if "eypoint" in name else VOC if "VOC" in name else COCO)
    report, model, test = imported.report, imported.saved.config.model, imported.saved.config.test
    assert {*report.loaded.values(), *report.reordered.values(), *report.unused} == shapes_of(name).keys()
    assert all(key.endswith(".num_batches_tracked") for key in report.unused)  # of norms that are frozen
    assert all(key.startswith("backbone.layer4.") for key in report.initialised) and ("rpn_R_50_C4" in name) == bool(
        report.initialised
    )
    with torch.device("meta"):
        network = model.build(imported.saved.categories, test)
    assert {key: value.shape for key, value in network.state_dict().items()} == {
        key: value.shape for key, value in imported.saved.state.items()
    }

    assert model.pixel_mean == tuple(reversed(keys["PIXEL_MEAN"])) and model.pixel_std == tuple(reversed(keys["PIXEL_STD"]))
    backbone: Any = model.backbone
    assert (backbone.stride_in == "1x1") == keys["RESNETS"]["STRIDE_IN_1X1"] and backbone.depth == keys["RESNETS"]["DEPTH"]
    assert backbone.frozen_stages == keys["BACKBONE"]["FREEZE_AT"]
    assert (backbone.last_stage == "dilated") == (keys["RESNETS"]["RES5_DILATION"] == 2) == ("DC5" in name)
    assert model.geometry == "continuous" and model.size_divisor == (32 if "FPN" in name else 1)
    anchors: Any = model.head if "retinanet" in name else model.rpn
    if anchors is not None:
        assert [list(sizes) for sizes in anchors.anchor_sizes] == keys["ANCHOR_GENERATOR"]["SIZES"]
        assert anchors.test_candidates == (1000 if "retinanet" in name else keys["RPN"]["PRE_NMS_TOPK_TEST"])
    if "rcnn" in name.lower():
        assert model.rois.sampling_ratio == keys["ROI_BOX_HEAD"]["POOLER_SAMPLING_RATIO"]
        assert model.rois.aligned == (keys["ROI_BOX_HEAD"]["POOLER_TYPE"] == "ROIAlignV2")
        assert (model.mask_head is not None, model.keypoint_head is not None) == (keys["MASK_ON"], keys["KEYPOINT_ON"])
    if "rpn" not in name:
        assert test.score_threshold == keys[group]["SCORE_THRESH_TEST"] and test.nms_threshold == keys[group]["NMS_THRESH_TEST"]
    assert test.detections_per_image == tree["TEST"]["DETECTIONS_PER_IMAGE"]
    (resize,) = imported.saved.config.data.val.transforms
    assert (resize.short, resize.long) == ((tree["INPUT"]["MIN_SIZE_TEST"],), tree["INPUT"]["MAX_SIZE_TEST"])  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------- single keys


def changed(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 3
    if isinstance(value, list):
        return [changed(item) for item in value] if value else ["another"]
    return 0.5 if value is None else f"{value}x"


def outcome(name: str, **changes: Any) -> Any:
    try:
        read = from_detectron2(tree_of(name, **changes))
    except UserError:
        return "refused"
    return to_tree(read.config), read.bgr, read.num_classes, read.published_classes, read.notes


@pytest.mark.parametrize("fate", ["read", "same", "training", "no effect"])
def test_no_key_is_ignored_without_a_reason(fate: str) -> None:
    """Each key that is read changes the configuration of some network, or is refused; the others as their fate says."""
    some = [*FAST[:6], "Misc/scratch_mask_rcnn_R_50_FPN_9x_gn", "LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"]
    before = {name: outcome(name) for name in some}

    def outcomes(key: str, tried: list[str]) -> Iterator[tuple[Any, Any]]:
        """The outcomes before and after the key's value is changed, by configuration."""
        for name in tried:
            value: Any = tree_of(name)
            for part in key.split("."):
                value = value[part]
            yield before[name], outcome(name, **{key.replace(".", "__"): changed(value)})

    for key in (key for key, entry in KEYS.items() if entry.fate == fate):
        if fate == "no effect":
            assert all(new == old for old, new in outcomes(key, some[:2])), key
        elif fate == "same":
            assert any(new == "refused" for _, new in outcomes(key, some)), key
        elif fate == "training":
            assert any(f"left out: {key} = " in str(new[-1]) for _, new in outcomes(key, some)), key
        else:
            assert any(new != old for old, new in outcomes(key, some)), key


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=8,
)


@settings(max_examples=30)
@given(st.sampled_from(FAST[:6]), st.dictionaries(st.sampled_from(sorted(KEYS)), anything, min_size=1, max_size=4))
def test_any_values_are_read_or_refused_in_one_line(name: str, values: dict[str, Any]) -> None:
    message = ""
    try:
        from_detectron2(tree_of(name, **{key.replace(".", "__"): value for key, value in values.items()}))
    except UserError as error:
        message = str(error)
    assert "\n" not in message and len(message) < 3000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL__RESNETS__DEFORM_ON_PER_STAGE": [False, True, True, True]}, "no convolution is deformable"),
        ({"MODEL__ROI_HEADS__NAME": "CascadeROIHeads"}, "MODEL.ROI_HEADS.NAME = 'CascadeROIHeads'"),
        ({"MODEL__BACKBONE__NAME": "build_mnasnet"}, "MODEL.BACKBONE.NAME = 'build_mnasnet'"),
        ({"MODEL__ROI_BOX_HEAD__NUM_FC": 3}, "two fully connected layers, or convolutions and one"),
        ({"MODEL__ROI_BOX_HEAD__NUM_CONV": 10**8}, "it must be 0 to 100"),
        ({"MODEL__RPN__CONV_DIMS": [64, 256]}, "-1 or 256"),
        ({"MODEL__PIXEL_MEAN": [1, 2]}, "three numbers"),
        ({"MODEL__PIXEL_MEAN": "dark"}, "MODEL.PIXEL_MEAN should be a list, got 'dark'"),
        ({"INPUT__FORMAT": "YUV"}, "'BGR' or 'RGB'"),
        ({"MODEL__POINT_HEAD__NUM_FC": 3}, "unknown key 'MODEL.POINT_HEAD.NUM_FC'.*--model"),
    ],
)
def test_keys_that_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_detectron2(tree_of(FASTER, **changes))


def test_several_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        from_detectron2(tree_of(FASTER, MODEL__FPN__FUSE_TYPE="avg", SEED="seven"))
    assert len(error.value.problems) == 2


def test_rules_of_training_that_boxwood_lacks_are_noted() -> None:
    notes = from_detectron2(tree_of("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_giou")).notes
    assert [note.split(" = ")[0] for note in notes] == [
        f"left out: MODEL.{group}.BBOX_REG_LOSS_{end}" for group in ("ROI_BOX_HEAD", "RPN") for end in ("TYPE", "WEIGHT")
    ]


def test_schedule_and_data() -> None:
    voc = from_detectron2(tree_of("PascalVOC-Detection/faster_rcnn_R_50_FPN")).config
    assert [part.split for part in voc.data.train.parts] == ["trainval", "trainval"]  # type: ignore[attr-defined]
    assert (voc.train.steps, voc.train.batch_size, voc.optim.lr, voc.optim.warmup_steps) == (18000, 16, 0.02, 100)
    assert [round(drop * voc.train.steps) for drop in voc.optim.schedule.drops] == [12000, 16000]  # type: ignore[attr-defined]
    lvis: Any = from_detectron2(tree_of("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x")).config
    assert lvis.data.train.repeat_threshold == 0.001 and lvis.test.detections_per_image == 300
    fast: Any = from_detectron2(tree_of("COCO-Detection/fast_rcnn_R_50_FPN_1x")).config
    assert (
        fast.data.train.proposals == "proposals/coco_2017_train_box_proposals_21bc3a.pkl" and fast.data.val.proposal_limit == 1000
    )
    ranged: Any = from_detectron2(tree_of(FASTER, INPUT__MIN_SIZE_TRAIN=[640, 643], INPUT__MIN_SIZE_TRAIN_SAMPLING="range"))
    assert ranged.config.data.train.transforms[0].short == (640, 641, 642, 643)


# ------------------------------------------------------------------------------------------------------------------- files


BOMB = "k0: &k0 [1, 1]\n" + "".join(f"k{i + 1}: &k{i + 1} [*k{i}, *k{i}]\n" for i in range(30))
"""2**31 values in a kilobyte."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("_BASE_: ../Base-RCNN-FPN.yaml\nMODEL: {META_ARCHITECTURE: GeneralizedRCNN}\n", "builds on another file .*dump"),
        ("model: {_target_: detectron2.modeling.GeneralizedRCNN}\ndataloader: {}\n", "LazyConfigs are not read"),
        ("train: {steps: 10}\nmodel: {kind: rcnn}\n", "is no configuration of detectron2"),
        ("MODEL: !!python/object/apply:os.system ['touch hacked']\n", r"os\.system"),
        ("MODEL: {META_ARCHITECTURE: [", "is damaged"),
        (BOMB, "larger, with its aliases expanded"),
        ("MODEL: \xff", "UTF-8"),
    ],
)
def test_files_that_are_no_configuration_of_detectron2(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        read_config(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and not Path("hacked").exists()


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The tensors of an RPN, as the file of weights holds them: shapes alone, so that a test gives values where it reads them."""
    tensors = meta_state(RPN)
    monkeypatch.setattr(weights, "read_tensors", lambda path: dict(tensors))
    return tensors


def test_colours_and_several_convolutions(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """BGR means reversed channels, RGB the same ones; several convolutions of an RPN have detectron2's names."""
    stem = state["backbone.bottom_up.stem.conv1.weight"] = torch.rand(64, 3, 7, 7)
    for leaf in ("weight", "bias"):
        first = state.pop(f"proposal_generator.rpn_head.conv.{leaf}")
        for index in (0, 1):
            state[f"proposal_generator.rpn_head.conv.conv{index}.{leaf}"] = torch.rand(first.shape)
    for order, reversed_ in (("BGR", True), ("RGB", False)):
        write_config(tmp_path, RPN, INPUT__FORMAT=order, MODEL__PIXEL_MEAN=[1.0, 2.0, 3.0], MODEL__RPN__CONV_DIMS=[-1, 256])
        saved = import_weights(tmp_path / "model_final.pth", "detectron2").saved
        assert torch.equal(saved.state["backbone.conv1.conv.weight"], stem.flip(1) if reversed_ else stem)
        model: Any = saved.config.model
        assert model.pixel_mean == ((3, 2, 1) if reversed_ else (1, 2, 3)) and model.rpn.convs == 2
        for index in (0, 1):
            theirs = state[f"proposal_generator.rpn_head.conv.conv{index}.weight"]
            assert torch.equal(saved.state[f"rpn.convs.{index}.weight"], theirs)


def test_the_callers_configuration_wins(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model_final.pth"
    config = resolve("rpn_r50_fpn_1x", ["model.pixel_std=[1, 2, 3]", "model.backbone.stride_in=3x3", "model.geometry=detectron1"])
    imported = import_weights(path, "detectron2", config)
    assert imported.saved.config.model == without_pretrained(config.model)
    assert len(imported.notes) == 1 and "stride_in=3x3" in imported.notes[0] and "--config" in imported.notes[0]

    write_config(tmp_path, RPN, INPUT__FORMAT="RGB")
    imported = import_weights(path, "detectron2", config)
    assert imported.saved.config.model == without_pretrained(config.model)
    assert [note.split(" = ")[0] for note in imported.notes] == [
        *(f"differs: model.{key}" for key in ("geometry", "pixel_mean", "pixel_std", "backbone.stride_in")),
        f"differs: {tmp_path / 'config.yaml'} says INPUT.FORMAT RGB; the channels are taken in the order BGR (--config reads it)",
    ]
    imported = import_weights(path, "detectron2", overrides=["model.backbone.stride_in=3x3", "test.detections_per_image=7"])
    assert imported.saved.config.model.backbone.stride_in == "3x3"  # type: ignore[attr-defined]
    assert imported.saved.config.test.detections_per_image == 7 and imported.saved.config.model.pixel_std == (1, 1, 1)


def test_settings_are_asked_for_or_found(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model_final.pth"
    with pytest.raises(UserError, match=r"hold no settings .* --config, or .* --model"):
        import_weights(path, "detectron2")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    file = write_config(elsewhere, RPN)
    assert import_weights(path, "detectron2", detectron2_config=file).notes[0] == f"settings: read from {file}"
    with pytest.raises(UserError, match="--model names the network already"):
        import_weights(path, "detectron2", resolve("rpn_r50_fpn_1x"), detectron2_config=file)
    with pytest.raises(UserError, match="--from torchvision reads no config"):
        import_weights(path, "torchvision", detectron2_config=file)


def test_tensors_without_a_place_are_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Also where the caller names the network."""
    write_config(tmp_path, RPN)
    state["proposal_generator.rpn_head.extra.weight"] = torch.zeros(3)
    for config in (None, resolve("rpn_r50_fpn_1x")):
        with pytest.raises(
            UserError, match=r"1 tensors that the model has no place for: proposal_generator\.rpn_head\.extra\.weight"
        ):
            import_weights(tmp_path / "model_final.pth", "detectron2", config)


def test_settings_among_the_weights_are_compared(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Means, deviations and anchors, which older versions of detectron2 saved."""
    path = tmp_path / "model_final.pth"
    write_config(tmp_path, RPN)
    long = 32 * 2**0.5
    name = "proposal_generator.anchor_generator.cell_anchors.0"
    settings_ = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    settings_[name] = torch.tensor([[-long, -long / 2, long, long / 2], [-32, -32, 32, 32], [-long / 2, -long, long / 2, long]]) / 2
    state |= settings_
    assert set(import_weights(path, "detectron2").report.unused) == settings_.keys()
    for key in settings_:
        state[key] = settings_[key] + 1
        with pytest.raises(UserError, match=r"in the (weights|configuration).* --config"):
            import_weights(path, "detectron2")
        state[key] = settings_[key]
    notes = import_weights(path, "detectron2", resolve("rpn_r50_fpn_1x", ["model.pixel_std=[2, 2, 2]"])).notes
    assert notes[-1] == "differs: pixel_std is (1.0, 1.0, 1.0) in the weights and (2.0, 2.0, 2.0) in the configuration"


def test_the_classes_of_a_users_own_set_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are as many as COCO has."""
    monkeypatch.setattr(weights, "read_tensors", lambda path: meta_state(FASTER))
    write_config(tmp_path, FASTER, DATASETS__TRAIN=["nuts_train"])
    with pytest.raises(UserError, match=r"has 80 classes, whose names detectron2 does not save.*--categories"):
        import_weights(tmp_path / "model_final.pth", "detectron2")
    imported = import_weights(tmp_path / "model_final.pth", "detectron2", categories=classes(80))
    assert any(note.startswith("read as: DATASETS.TRAIN = 'nuts_train'") for note in imported.notes)
    write_config(tmp_path, FASTER, MODEL__ROI_HEADS__NUM_CLASSES=3)
    with pytest.raises(UserError, match=r"has 80 classes, and .*config\.yaml 3"):
        import_weights(tmp_path / "model_final.pth", "detectron2")


def test_tensors_of_another_shape_are_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Also those whose channels or anchors are reordered."""
    write_config(tmp_path, RPN, MODEL__ANCHOR_GENERATOR__SIZES=[[30, 40]])
    with pytest.raises(
        UserError, match=r"objectness_logits\.weight gives rpn\.objectness\.weight the shape \(3, 256, 1, 1\) instead of \(6,"
    ):
        import_weights(tmp_path / "model_final.pth", "detectron2")
    state["backbone.bottom_up.stem.conv1.weight"] = torch.zeros(())
    with pytest.raises(UserError, match=r"stem\.conv1\.weight gives backbone\.conv1\.conv\.weight the shape \(\)"):
        import_weights(tmp_path / "model_final.pth", "detectron2")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x", "is a Cascade R-CNN"),
        ("Misc/mask_rcnn_R_50_FPN_1x_dconv_c3-c5", "has deformable convolutions"),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x", "has a head of semantic segmentation"),
    ],
)
def test_other_architectures_are_named_before_anything_is_asked(
    name: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "read_tensors", lambda path: meta_state(name))
    for config in (None, resolve("mask_rcnn_r50_fpn_1x")):
        with pytest.raises(UserError, match=problem):
            import_weights(tmp_path / "model_final.pth", "detectron2", config)
