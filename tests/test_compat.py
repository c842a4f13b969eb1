"""Files written by revision 1a5d725 can still be used: weights, a checkpoint, proposals, configurations.

``tests/facts/compat`` is a run of a network of a few thousand weights in Detectron's geometry. The folder ``shared`` beside this
repository, if present, has seven more runs of other architectures, described in ``shared/compat/README.md``. The tests use the
command line and `boxwood.load`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hotcoco import mask as rle
from safetensors import safe_open
from safetensors.torch import load_file

from tests.conftest import SHARED, Boxwood

pytestmark = pytest.mark.usefixtures("one_thread")

COMMITTED = Path(__file__).parent / "facts" / "compat"


class Run(NamedTuple):
    """The folder that the paths of a run's configuration are relative to, and the path of the run in it."""

    root: Path
    path: str

    @property
    def folder(self) -> Path:
        return self.root / self.path


committed = Run(COMMITTED, "whole")
shared = {
    name: Run(SHARED / "compat", f"runs/{name}") for name in ("c4", "detectron1", "keypoint", "mask", "retinanet", "rfcn", "rpn")
}
RUNS = {"whole": pytest.param(committed, id="whole")} | {
    name: pytest.param(run, id=name, marks=pytest.mark.shared) for name, run in shared.items()
}
DETECTORS = [run for name, run in RUNS.items() if name != "rpn"]
WHOLE = [
    pytest.param(committed, 1e-5, id="whole"),
    pytest.param(shared["mask"], 1e-4, id="mask", marks=[pytest.mark.shared, pytest.mark.slow]),
]
"""Complete runs, and the tolerance of their final weights after resuming. On the kind of processor that wrote the run, the weights
are equal; AdamW, the optimizer of the second run, amplifies other rounding."""


def name_of(run: Run) -> str:
    return run.path.removeprefix("runs/")


@pytest.fixture
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current directory, since commands write into a run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copied_run(run: Run, folder: Path) -> Path:
    """A copy of the run in ``folder``, with its data beside it."""
    copy = folder / name_of(run)
    shutil.copytree(run.folder, copy, copy_function=shutil.copyfile)
    for directory in (copy, *(path for path in copy.rglob("*") if path.is_dir())):
        directory.chmod(0o755)
    (folder / "data").symlink_to(run.root / "data", target_is_directory=True)
    return copy


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as archive:
        return dict(archive.metadata() or {})


# ---------------------------------------------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("run", DETECTORS)
def test_predictions(boxwood: Boxwood, run: Run, work_folder: Path) -> None:
    """The recorded output of ``boxwood predict data/val --model RUN --score 0.001 --no-pictures``, up to rounding."""
    folder = copied_run(run, work_folder)
    outcome = boxwood("predict", "data/val", "--model", folder.name, "--score", "0.001", "--no-pictures", "--out", "out")
    assert outcome.status == 0, outcome.err
    compare(json.loads(Path("out/predictions.json").read_text()), json.loads((folder / "predictions.json").read_text()))


def compare(predictions: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Check that the records match one to one; records of nearly equal scores may be in another order."""
    assert len(predictions) == len(expected)
    assert {tuple(record) for record in predictions} == {tuple(record) for record in expected}
    for key in ("file_name", "category"):
        assert sorted(record[key] for record in predictions) == sorted(record[key] for record in expected)
    unmatched = list(predictions)
    for record in expected:
        matches = [
            index
            for index, other in enumerate(unmatched)
            if other["file_name"] == record["file_name"]
            and other["category"] == record["category"]
            and abs(other["score"] - record["score"]) <= 1e-5
            and np.abs(np.subtract(other["bbox"], record["bbox"])).max() <= 1e-3
        ]
        assert matches, f"no match for {record}"
        other = unmatched.pop(matches[0])
        if "segmentation" in record:
            ours, theirs = (rle.decode(one["segmentation"]).astype(bool) for one in (other, record))
            assert (ours != theirs).sum() <= max(2, 0.01 * theirs.sum())
        if "keypoints" in record:
            np.testing.assert_allclose(other["keypoints"], record["keypoints"], atol=1e-2)


@pytest.mark.parametrize("run", RUNS.values())
def test_weights_can_be_loaded(run: Run, work_folder: Path) -> None:
    """By `boxwood.load`, which checks that all tensors are there."""
    import boxwood

    folder = copied_run(run, work_folder)
    predictor = boxwood.load(folder, device="cpu")
    assert len(predictor.categories) == 6
    (first, *_) = sorted(Path("data/val").glob("*.jpg"))
    assert len(predictor(first)) > 0
    file = next(folder / name for name in ("best.safetensors", "last.safetensors") if (folder / name).exists())
    assert (metadata_of(file)["format"], metadata_of(file)["format_version"]) == ("boxwood", "1")


# -------------------------------------------------------------------------------------------------------------------- training


@pytest.fixture
def some_threads() -> Iterator[Callable[[int], None]]:
    """``some_threads(2)``: set the number of torch threads until the end of the test."""
    threads = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("run", "near"), WHOLE)
def test_a_run_is_resumed(boxwood: Boxwood, run: Run, near: float, work_folder: Path, some_threads: Callable[[int], None]) -> None:
    """Resumed at step 6 of 12, the run ends with the recorded weights, and writes files of the recorded form."""
    folder = copied_run(run, work_folder)
    weights = folder / "last.safetensors"
    expected, form = load_file(weights), metadata_of(weights)
    before = torch.load(folder / "checkpoints" / "step-00000006.pt", map_location="cpu", weights_only=True)
    weights.unlink()
    some_threads(json.loads((folder / "environment.json").read_text())["threads"])  # the rounding of sums depends on them
    outcome = boxwood("train", folder.name, "--resume")
    assert outcome.status == 0 and "resumed after step 6 of 12" in outcome.err, outcome.err
    resumed = load_file(weights)
    assert list(resumed) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=near, atol=near, msg=lambda text, name=name: f"{name}: {text}")
    assert {key: metadata_of(weights)[key] for key in ("format", "format_version", "categories")} == {
        key: form[key] for key in ("format", "format_version", "categories")
    }
    after = torch.load(folder / "checkpoints" / "step-00000012.pt", map_location="cpu", weights_only=True)
    assert before["version"] == 1
    assert after["version"] > 1 or list(after) == list(before)
    assert list(after["model"]) == list(before["model"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == [2, 4, 6, 8, 10, 12]


# ------------------------------------------------------------------------------------------------------------------- proposals


def proposals_in(path: Path) -> dict[int, np.ndarray[Any, Any]]:
    """By image id, rows of box and score: (N, 5) float32."""
    tensors = load_file(path)
    rows = torch.cat([tensors["boxes"], tensors["scores"][:, None]], dim=1).numpy()
    parts = np.split(rows, np.cumsum(tensors["counts"].numpy())[:-1])
    return dict(zip(tensors["image_ids"].tolist(), parts, strict=True))


@pytest.mark.shared
def test_eval_of_an_rpn_gives_the_recorded_proposals(boxwood: Boxwood, work_folder: Path) -> None:
    """``boxwood eval`` of the RPN writes nearly the same proposals, in the same format."""
    folder = copied_run(shared["rpn"], work_folder)
    expected = folder / "proposals.safetensors"
    assert metadata_of(expected) == {"format": "boxwood proposals 1"}
    outcome = boxwood("eval", folder.name, "--out", "again")
    assert outcome.status == 0, outcome.err
    assert metadata_of(work_folder / "again" / "proposals.safetensors") == metadata_of(expected)
    ours, theirs = proposals_in(work_folder / "again" / "proposals.safetensors"), proposals_in(expected)
    assert list(ours) == list(theirs)
    for image, rows in theirs.items():
        assert abs(len(ours[image]) - len(rows)) <= 2
        nearest = np.abs(ours[image][:, None] - rows[None]).max(axis=2).min(axis=0)
        assert (nearest < 1e-3).mean() > 0.995


@pytest.mark.shared
def test_fast_rcnn_trains_on_recorded_proposals(boxwood: Boxwood, work_folder: Path) -> None:
    """The proposals of samples are boxes of the file, and a Fast R-CNN trains a step on them."""
    from boxwood.recipes import resolve

    folder = copied_run(shared["rpn"], work_folder)
    data = [
        f"data.{part}.{key}"
        for part in ("train", "val")
        for key in ("annotations=data/val.json", "images=data/val", f"proposals={folder.name}/proposals.safetensors")
    ]
    sizes = [
        "model.backbone={kind: resnet, depth: 18, width: 8, weights: null}",
        "model.fpn.channels=16",
        "model.box_head.width=16",
        "model.rois.samples_per_image=16",
        "data.train.transforms.0.short=[64]",
        "data.val.transforms.0.short=[64]",
        "data.val.proposal_limit=20",
        "data.workers=0",
        "train={steps: 1, batch_size: 2, log_every: 1, device: cpu}",
    ]
    config = resolve("fast_rcnn_mobilenetv2_fpn", [*data, *sizes])
    dataset: Any = config.data.train.open()
    expected = proposals_in(folder / "proposals.safetensors")
    for index in range(4):
        sample = dataset[index]
        boxes = expected[sample.image_id][:, :4]
        assert len(sample.proposals) > 20
        near = np.abs(sample.proposals.numpy()[:, None] - boxes[None]).max(axis=2).min(axis=1)
        assert near.max() < 1e-3
    outcome = boxwood("train", "fast_rcnn_mobilenetv2_fpn", *data, *sizes, "--out", "fast")
    assert outcome.status == 0, outcome.err
