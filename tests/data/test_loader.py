"""The loader: the same batches with any number of workers and processes, from any start; errors name the image."""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import signal
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as pycoco_mask

from boxwood.data import CocoDataset, HorizontalFlip, ResizeShortestEdge, Transform
from boxwood.data.class_order import ReorderedClasses
from boxwood.data.loader import MASK_SIZE, collate, eval_batches, make_target, train_batches
from boxwood.data.packing import PackedBatch
from boxwood.data.proposals import write_proposals
from boxwood.errors import UserError
from boxwood.structures import Batch, Bitmap, Polygons, Sample
from tests.data.cases import sound, write

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools under numpy 2
TRANSFORMS: tuple[Transform, ...] = (ResizeShortestEdge(short=(30, 40), long=90), HorizontalFlip())


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    """Nine landscape and five portrait images with polygons, bitmaps, crowd regions and keypoints; some have no annotations."""
    tree = sound()
    rng = np.random.default_rng(0)
    tree["categories"][0]["keypoints"] = ["left", "right"]
    tree["images"], tree["annotations"] = [], []
    for image in range(14):
        height, width = (40, 60) if image < 9 else (50, 30)
        tree["images"].append({"id": 100 + image, "file_name": f"{image}.png", "height": height, "width": width})
        for _ in range(image % 4):
            x, y, w, h = (rng.uniform(0, 14, 4) + 1).round(2).tolist()
            row = {"id": len(tree["annotations"]), "image_id": 100 + image, "category_id": 900, "bbox": [x, y, w, h], "iscrowd": 0,
                   "area": w * h, "segmentation": [[x, y, x + w, y, x, y + h]], "keypoints": [3, 4, 2, 5, 6, 1]}  # fmt: skip
            tree["annotations"].append(row)
        if image % 5 == 1:
            tree["annotations"].append(
                {**row, "id": len(tree["annotations"]), "iscrowd": 1, "segmentation": {"size": [height, width], "counts": [7, 99]}}
            )
    proposals = [
        (row["id"], rng.uniform(0, 12, (image % 6, 4)) + np.array([0, 0, 15, 15]), rng.uniform(size=image % 6))
        for image, row in enumerate(tree["images"])
    ]
    write_proposals(tmp_path / "proposals.safetensors", proposals)
    return CocoDataset(write(tmp_path, tree), tmp_path, proposals=tmp_path / "proposals.safetensors")


def flat(item: Any) -> Iterator[Any]:
    """The leaves of a batch, for exact comparisons."""
    if is_dataclass(item):
        for entry in fields(item):
            yield from flat(getattr(item, entry.name))
    elif isinstance(item, dict):
        yield from flat(tuple(item.items()))
    elif isinstance(item, tuple):
        yield len(item)
        for part in item:
            yield from flat(part)
    else:
        yield (item.dtype, item.shape, item.tolist()) if isinstance(item, torch.Tensor) else item


def same(some: Sequence[Batch], others: Sequence[Batch]) -> bool:
    return len(some) == len(others) and all(list(flat(a)) == list(flat(b)) for a, b in zip(some, others, strict=True))


def take(dataset: CocoDataset, count: int, **options: Any) -> list[Batch]:
    batches = train_batches(dataset, TRANSFORMS, **{"batch_size": 4, "seed": 5, "workers": 0, **options})
    return list(itertools.islice(batches, count))


def test_workers_change_neither_batches_nor_random_state(dataset: CocoDataset) -> None:
    alone = take(dataset, 9)
    state = torch.random.get_rng_state()
    assert same(take(dataset, 9, workers=2), alone)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not same(take(dataset, 9, seed=6), alone)


@pytest.mark.parametrize("start", [1, 5, 23])
def test_a_start_at_k_gives_the_batches_from_k(dataset: CocoDataset, start: int) -> None:
    assert same(take(dataset, 3, start=start), take(dataset, start + 3)[start:])


def test_shares_of_processes_add_up_to_the_batch(dataset: CocoDataset) -> None:
    batches = take(dataset, 8)
    shares = [take(dataset, 8, rank=rank, world_size=2) for rank in range(2)]
    for batch, first, second in zip(batches, *shares, strict=True):
        assert batch.image_ids == first.image_ids + second.image_ids and batch.seeds == first.seeds + second.seeds
        assert torch.equal(batch.sizes, torch.cat([first.sizes, second.sizes]))
        assert batch.targets is not None and first.targets is not None and second.targets is not None
        assert list(flat(batch.targets))[1:] == list(flat(first.targets))[1:] + list(flat(second.targets))[1:]
        images = [image for share in (first, second) for image in share.images]
        for image, share, (height, width) in zip(batch.images, images, batch.sizes.tolist(), strict=True):
            assert torch.equal(image[:, :height, :width], share[:, :height, :width])
    with pytest.raises(UserError, match=r"train.batch_size: 4 images cannot be shared by 3 processes"):
        take(dataset, 1, world_size=3)


@pytest.mark.parametrize(("workers", "world_size"), [(0, 1), (0, 2), (0, 9), (2, 1), (2, 2)])
def test_evaluation_has_each_image_once(dataset: CocoDataset, workers: int, world_size: int) -> None:
    image_ids: list[int] = []
    for rank in range(world_size):
        for batch in eval_batches(dataset, TRANSFORMS[:1], batch_size=3, workers=workers, rank=rank, world_size=world_size):
            assert batch.targets is None and len(batch) <= 3
            assert batch.proposals is not None and [len(part) for part in batch.proposals] == [
                (i - 100) % 6 for i in batch.image_ids
            ]
            image_ids += batch.image_ids
    assert sorted(image_ids) == list(range(100, 114))
    with_targets = next(iter(eval_batches(dataset, TRANSFORMS[:1], batch_size=3, workers=workers, with_targets=True)))
    assert with_targets.targets is not None and [len(t.boxes) for t in with_targets.targets] == [0, 1, 2]


def test_a_broken_image_in_a_worker_is_one_line(dataset: CocoDataset) -> None:
    path = Path(dataset.folder, "3.png")
    path.write_bytes(path.read_bytes()[:200])
    for workers in (0, 2):
        with pytest.raises(UserError, match=r"3.png: the image is truncated or damaged") as caught:
            take(dataset, 4, workers=workers)
        assert "\n" not in str(caught.value)


class Failing(Transform):
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if sample.file_name == "6.png":
            raise KeyError("a bug")
        return sample


def test_a_bug_in_a_worker_keeps_its_traceback_and_names_the_image(dataset: CocoDataset) -> None:
    with pytest.raises(RuntimeError, match=r"KeyError: .a bug.") as caught:
        list(itertools.islice(train_batches(dataset, [Failing()], batch_size=4, seed=0, workers=1), 4))
    assert "while image 6 of the data set" in str(caught.value) and "in __call__" in str(caught.value)


def test_padding_and_sizes(dataset: CocoDataset) -> None:
    batch = collate([dataset[0], dataset[9]], [1, 2], with_targets=False)
    assert batch.images.shape == (2, 3, 64, 64) and batch.sizes.tolist() == [[40, 60], [50, 30]]
    assert torch.equal(batch.images[1, :, :50, :30], dataset[9].image)
    assert not batch.images[0, :, 40:].any() and not batch.images[1, :, :, 30:].any()
    assert batch.original_sizes == ((40, 60), (50, 30)) and batch.file_names == ("0.png", "9.png") and batch.targets is None


def test_crowd_regions_become_ignored_boxes(dataset: CocoDataset) -> None:
    target = make_target(dataset[6])
    assert target.boxes.shape == (2, 4) and target.ignore.shape == (1, 4)
    assert target.masks is not None and target.masks.bitmaps.shape == (2, MASK_SIZE, MASK_SIZE)
    assert target.keypoints is not None and target.keypoints.shape == (2, 2, 3)
    empty = make_target(dataset[0])
    assert empty.boxes.shape == (0, 4) and empty.masks is not None and empty.masks.bitmaps.shape == (0, MASK_SIZE, MASK_SIZE)


def test_crowd_regions_keep_their_class_and_ignored_instances_have_none(tmp_path: Path) -> None:
    """`iscrowd: 1` is a crowd region of its category, `ignore: 1` (difficult objects of VOC) a region without one."""
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    categories = [{"id": 4, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "eel"}]
    flags: list[dict[str, int]] = [{}, {"iscrowd": 1}, {"ignore": 1}, {"iscrowd": 1, "ignore": 1}]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 7, "bbox": [2 + 4 * i, 3, 20, 20], "area": 400, "iscrowd": 0, **more}
        for i, more in enumerate(flags)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    plain = CocoDataset(file, tmp_path)
    for data, label in ((plain, 1), (ReorderedClasses(plain, [2, 1, 0]), 1), (ReorderedClasses(plain, [1, 2, 0]), 0)):
        target = PackedBatch.of(collate([data[0]], [0], with_targets=True)).unpack().targets[0]  # type: ignore[index]
        assert target.labels.tolist() == [label] and target.ignore[:, 0].tolist() == [6, 10, 14]
        assert target.ignore_labels.tolist() == [label, -1, -1]
        assert target.to("cpu").ignore_labels.tolist() == [label, -1, -1]


def _sample(segmentations: list[Polygons | Bitmap]) -> Sample:
    count = len(segmentations)
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]]).repeat(count, 1)
    return Sample(torch.zeros(3, 80, 80, dtype=torch.uint8), 1, "a", (80, 80), boxes, torch.zeros(count, dtype=torch.int64),
                  torch.zeros(count, dtype=torch.bool), segmentations)  # fmt: skip


def test_training_masks_are_stored_over_their_extent() -> None:
    outline = np.array([[11, 22], [29, 25], [20, 58.5]], dtype=np.float32)
    values = np.tril(np.ones((8, 4), dtype=np.uint8))
    masks = make_target(_sample([Polygons([outline]), Bitmap(values, (12.0, 21.0, 16.0, 29.0))])).masks
    assert masks is not None and masks.boxes.tolist() == [[11, 22, 29, 58.5], [12, 21, 16, 29]]
    # Compare the stored grid, enlarged to its extent, with pycocotools' mask at ten times the size.
    code = pycoco_mask.frPyObjects([(outline * 10).ravel().tolist()], 800, 800)
    fine = pycoco_mask.decode(code)[:, :, 0][220:585, 110:290]
    grid = np.asarray(Image.fromarray(masks.bitmaps[0].numpy()).resize((180, 365), Image.Resampling.NEAREST))
    assert (fine != grid).mean() < 0.02
    assert abs(masks.bitmaps[1].float().mean().item() - values.mean()) < 1e-6


def test_masks_without_area_are_zeros_over_the_box() -> None:
    line = np.array([[11, 22], [29, 22], [15, 22]], dtype=np.float32)
    masks = make_target(_sample([Polygons([]), Polygons([line])])).masks
    assert masks is not None and not masks.bitmaps.any()
    assert masks.boxes.tolist() == [[10, 20, 30, 60]] * 2


def test_boxes_under_a_pixel_keep_a_positive_size(tmp_path: Path) -> None:
    tree = sound()
    tree["annotations"][0]["bbox"] = [29.5, 49.99, 0.01, 0.5]
    target = make_target(ResizeShortestEdge(short=(11,))(CocoDataset(write(tmp_path, tree), tmp_path)[1], np.random.default_rng(0)))
    assert all(math.isfinite(math.log(side)) for side in (target.boxes[:, 2:] - target.boxes[:, :2]).flatten().tolist())


@pytest.mark.parametrize("hard", [24, 100])
def test_few_file_descriptors_are_an_error_before_any_worker_starts(
    dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch, hard: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (24, hard))
    with pytest.raises(
        UserError, match=rf"may open {hard} files, and data\.workers=2 needs 128; raise the limit \(ulimit -n 128\)"
    ):
        take(dataset, 1, workers=2)
    assert len(take(dataset, 1)) == 1, "without workers none are needed"


def test_a_soft_limit_of_file_descriptors_is_raised(dataset: CocoDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (24, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append(limit))
    take(dataset, 1, workers=1)
    assert limits == [(96, 4096)]


class Killing(Transform):
    """Ends the process that applies it, as the kernel does where memory runs out."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        os.kill(os.getpid(), signal.SIGKILL)
        return sample


class Hungry(Transform):
    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        raise MemoryError


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (Killing, "the system has ended a process that loads images, probably because memory ran out"),
        (Hungry, "memory ran out while"),
    ],
)
def test_a_worker_without_memory_is_one_line(dataset: CocoDataset, transform: type[Transform], message: str) -> None:
    batches = train_batches(dataset, (transform(),), batch_size=4, seed=5, workers=1)
    with pytest.raises(UserError, match=message) as error:
        next(batches)
    assert "lower data.workers" in str(error.value) and "\n" not in str(error.value)
