"""Predictions of dense pose; and bad inputs: each is one line on stderr that says what to do, and exit status 2."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwood.cli import main
from boxwood.data.synthetic.bodies import write_bodies
from boxwood.dense_pose import decode_png, encode_png
from tests.conftest import Boxwood

PUBLISHED = "it derives from SMPL and is not for commercial use, so it does not come with Boxwood: download it from https://dl.fb"
GENERATED = "boxwood data shapes --surface writes such a file"


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bodies")
    write_bodies(folder, train=3, val=1, size=(96, 128))
    return folder


def settings(bodies: Path) -> list[str]:
    """Overrides of demo_bodies for one step of a small network on few pictures."""
    sets = [f"data.{split}.{key}={bodies / name}" for split in ("train", "val")
            for key, name in (("annotations", f"{split}.json"), ("images", split))]  # fmt: skip
    network = [
        "model.fpn.channels=16",
        "model.dense_pose_head={kind: conv_dense_pose, convs: 1, width: 16, resolution: 7}",
        "model.box_head.width=16",
    ]
    return [
        *sets,
        *network,
        f"data.train.symmetry={bodies / 'body.npz'}",
        f"evaluator.surface={bodies / 'body.npz'}",
        "data.train.transforms.0.short=[64]",
        "data.val.transforms.0.short=[64]",
        "data.workers=0",
        "test.score_threshold=0.0",
        "test.detections_per_image=3",
        "train.steps=1",
        "train.batch_size=2",
        "train.device=cpu",
    ]


@pytest.fixture(scope="module")
def run(bodies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.raises(SystemExit) as exited:
        main(["train", "demo_bodies", *settings(bodies), "--out", str(out)])
    assert exited.value.code == 0
    return out


def test_predictions_are_written_and_drawn(run: Path, bodies: Path, boxwood: Boxwood, tmp_path: Path) -> None:
    outcome = boxwood("predict", bodies / "val", "--model", run, "--score", "0", "--out", tmp_path / "seen")
    assert outcome.status == 0, outcome.err
    records = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    assert records
    for record in records:
        _, _, width, height = record["bbox"]
        planes = decode_png(record["uv_data"], record["uv_shape"])
        assert planes.shape == (3, max(1, int(height)), max(1, int(width))) and planes[0].max() <= 24
    assert (tmp_path / "seen" / "000000.jpg").is_file()


Refused = Callable[..., str]


@pytest.fixture
def refused(boxwood: Boxwood) -> Refused:
    """``refused("train", ...)``: the one line of a command that ends with status 2."""

    def call(*arguments: object) -> str:
        outcome = boxwood(*arguments)
        assert outcome.status == 2 and "Traceback" not in outcome.err
        assert len(outcome.error_lines) == 1, outcome.err
        return outcome.error_lines[0]

    return call


def changed(bodies: Path, tmp_path: Path, split: str, keys: dict[str, Any], *, every: bool = False) -> Path:
    """An annotation file of which the first annotation with dense pose, or each, has other keys; None removes one."""
    coco = json.loads((bodies / f"{split}.json").read_text())
    annotations = [annotation for annotation in coco["annotations"] if annotation.get("dp_x")]
    for annotation in annotations if every else annotations[:1]:
        annotation.update(keys)
        for key in [key for key, value in keys.items() if value is None]:
            del annotation[key]
    (tmp_path / f"{split}.json").write_text(json.dumps(coco))
    return tmp_path / f"{split}.json"


PART_99 = {"dp_I": [99], "dp_x": [1], "dp_y": [1], "dp_U": [0], "dp_V": [0]}
OTHER_SIZE, DAMAGED = {"size": [4, 4], "counts": [16]}, {"size": [256, 256], "counts": [5]}
POINTS = dict.fromkeys(("dp_x", "dp_y", "dp_I", "dp_U", "dp_V", "dp_masks"))


@pytest.mark.parametrize(
    ("keys", "every", "expected"),
    [
        ({"dp_V": None}, False, ("train.json: ", "(id ", "'dp_V' must be a list as 'dp_x' beside it, got nothing; correct")),
        (PART_99, False, ("'dp_I' must be numbers whole, from 1 to 24, got 99",)),
        ({"dp_masks": [OTHER_SIZE]}, False, ("'dp_masks' must be a list of 14 run lengths {'size': [256, 256]",)),
        ({"dp_masks": [DAMAGED]}, True, ("'dp_masks' beside annotation", "its counts make 5 pixels, not 65536")),
        (POINTS, True, ("data.train: has no dense pose", "DensePose-COCO", "not for commercial use", "model.dense_pose_head=null")),
    ],
)  # fmt: skip
def test_annotations(
    bodies: Path, tmp_path: Path, refused: Refused, keys: dict[str, Any], every: bool, expected: tuple[str, ...]
) -> None:
    path = changed(bodies, tmp_path, "train", keys, every=every)
    line = refused("train", "demo_bodies", *settings(bodies), f"data.train.annotations={path}", "--out", tmp_path / "run")
    assert all(words in line for words in expected), line


def files(folder: Path) -> None:
    """Damaged and wrong files of symmetry and surface."""
    (folder / "damaged.mat").write_bytes(b"MATLAB 5.0" * 30)
    (folder / "damaged.npz").write_bytes(b"PK\3\4" * 30)
    np.savez(folder / "other.npz", symmetry_u=np.zeros(3), symmetry_v=np.zeros(3))
    with zipfile.ZipFile(folder / "huge.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("symmetry_u", "symmetry_v"):
            archive.writestr(f"{name}.npy", b"")
            archive.infolist()[-1].file_size = 3_000_000_000
    np.savez(folder / "uneven.npz", chart_part=[1, 1], chart_u=[0.0, 0], chart_v=[0.0, 0], chart_vertex=[0, 1], distances=[0.1, 2])


@pytest.mark.parametrize(
    ("key", "name", "expected"),
    [
        ("data.train.symmetry", "none.mat", ("no such file; dense pose needs UV_symmetry_transforms.mat", PUBLISHED)),
        ("data.train.symmetry", "damaged.mat", ("is no MATLAB file, or a damaged one", PUBLISHED)),
        ("data.train.symmetry", "damaged.npz", ("cannot be read as .npz", GENERATED)),
        ("data.train.symmetry", "huge.npz", ("its arrays take more than 2,000,000,000 bytes", GENERATED)),
        ("data.train.symmetry", "other.npz", ("expected symmetry_u and symmetry_v of 24 x 256 x 256 numbers", GENERATED)),
        ("evaluator.surface", "none.npz", ("no such file, with which dense pose is measured", GENERATED)),
        ("evaluator.surface", "folder", ("lacks SMPL_subdiv.mat", PUBLISHED, "name its folder")),
        ("evaluator.surface", "other.npz", ("lacks the array chart_part", GENERATED)),
        ("evaluator.surface", "uneven.npz", ("has 2 distances, and 2 vertices have 1; take files of one body",)),
    ],
)
def test_files_of_symmetry_and_surface(
    bodies: Path, tmp_path: Path, refused: Refused, key: str, name: str, expected: tuple[str, ...]
) -> None:
    files(tmp_path)
    line = refused("train", "demo_bodies", *settings(bodies), f"{key}={tmp_path / name}", "--out", tmp_path / "run")
    assert f"{tmp_path / name}: " in line and all(words in line for words in expected), line


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.train.symmetry=null", ("set data.train.symmetry to UV_symmetry_transforms.mat", "take horizontal_flip out")),
        ("model.dense_pose_head.parts=3", ("data.train: has part ", "model.dense_pose_head.parts is 3; set it to 24")),
        ("model.dense_pose_head={coarse_from_masks: true, coarse: 15}", ("coarse_from_masks: masks tell body from background",)),
        ("model.dense_pose_head.coarse=3", ("model.dense_pose_head", "coarse", "2 or 15")),
        ("evaluator.kappa=-1", ("evaluator", "kappa", "greater than 0")),
    ],
)  # fmt: skip
def test_settings(bodies: Path, tmp_path: Path, refused: Refused, override: str, expected: tuple[str, ...]) -> None:
    flips = ["data.train.transforms=[{kind: resize_shortest_edge, short: [64], long: 320}, {kind: horizontal_flip, p: 1.0}]"]
    line = refused("train", "demo_bodies", *settings(bodies), *flips, override, "--out", tmp_path / "run")
    assert all(words in line for words in expected), line


def test_mirrored_views_without_the_table(run: Path, refused: Refused, tmp_path: Path) -> None:
    views = "test.tta={dense_pose: {flip: true}}"
    line = refused("eval", run, views, "--out", tmp_path / "out")
    assert "set test.tta.dense_pose.symmetry to UV_symmetry_transforms.mat (https://dl.fbaipublicfiles.com" in line
    assert "not for commercial use), or flip and scale_flip to false" in line and not (tmp_path / "out" / "metrics.json").exists()


def test_a_truth_without_dense_pose(run: Path, bodies: Path, refused: Refused, tmp_path: Path) -> None:
    path = changed(bodies, tmp_path, "val", POINTS, every=True)
    line = refused("eval", run, f"data.val.annotations={path}", "--out", tmp_path / "out")
    assert "needs annotations with dp_x" in line and "set data.val.annotations to a file that has them" in line


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"uv_shape": [3, 1, 1]}, "image id 1, detection 0: expected 'uv_shape' [3, 20, 10], as large as the box"),
        ({"uv_data": "AAAA"}, "image id 1, detection 0: 'uv_data' is no PNG in base64"),
        ({"uv_data": "A"}, "image id 1, detection 0: 'uv_data' is no PNG in base64"),
        ({"uv_data": encode_png(np.zeros((3, 2, 2), dtype=np.uint8))}, "'uv_data' is a PNG of RGB, 2 x 2, where [3, 20, 10] was"),
    ],
)
def test_results(run: Path, refused: Refused, tmp_path: Path, keys: dict[str, Any], expected: str) -> None:
    sound = {"uv_shape": [3, 20, 10], "uv_data": encode_png(np.ones((3, 20, 10), dtype=np.uint8))}
    record = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 20], "score": 0.5, **sound, **keys}
    (tmp_path / "detections.json").write_text(json.dumps([record]))
    line = refused("eval", run, "--detections", tmp_path / "detections.json", "--out", tmp_path / "out")
    assert expected in line and "write the detections again" in line


def test_weights_of_an_unknown_network(refused: Refused, tmp_path: Path) -> None:
    names = ("roi_heads.densepose_predictor.ann_index_lowres.bias", "backbone.bottom_up.res4.0.conv1.weight")
    content = {"model": {name: np.zeros(2, dtype=np.float32) for name in names}, "__author__": "x"}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content, protocol=2))
    line = refused("weights", "import", tmp_path / "model.pkl", "--from", "detectron2", "--out", tmp_path / "out.safetensors")
    assert "model.pkl: has 1 residual blocks in res4, where published models have 6 or 23; name the network with --model" in line
    assert not (tmp_path / "out.safetensors").exists()
