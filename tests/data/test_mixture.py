"""Mixtures of data sets: the samples drawn are the same with any number of workers and processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from boxwood.config import ConfigError, apply_overrides, from_yaml, to_tree
from boxwood.data import DataConfig, Dataset, DatasetConfig, DrawingTransform, MixtureConfig, MixtureDataset, Transform
from boxwood.data.loader import eval_batches, train_batches
from boxwood.errors import UserError
from boxwood.structures import Batch, Categories, KeypointFacts, Sample
from boxwood.training.preflight import check_data
from tests.training.tiny import TinyConfig


class PlainData(DatasetConfig):
    """``count`` images whose pixels are all ``value``; image ids begin at ``first``."""

    short_kind: ClassVar[str] = "plain"

    count: int = 6
    value: int = 10
    first: int = 0
    names: tuple[str, ...] = ("a", "b")
    repeats: float | None = None

    def open(self) -> Dataset:
        return Plain(self)


class Plain:
    def __init__(self, config: PlainData) -> None:
        self.config = config
        self.categories = Categories(tuple(range(1, len(config.names) + 1)), config.names)
        self.repeats = None if config.repeats is None else np.full(config.count, config.repeats)

    def __len__(self) -> int:
        return self.config.count

    def size(self, index: int) -> tuple[int, int]:
        return (20, 30) if index % 3 else (30, 20)

    def __getitem__(self, index: int) -> Sample:
        image = torch.full((3, *self.size(index)), self.config.value, dtype=torch.uint8)
        label = torch.tensor([index % 2])
        return Sample(image, self.config.first + index, f"{index}.png", self.size(index), torch.ones(1, 4), label, label > 1)

    def to_coco(self) -> dict[str, Any]:
        images = [{"id": self.config.first + i} for i in range(len(self))]
        return {"images": images, "annotations": [{"id": 7, "image_id": self.config.first}], "categories": []}


class Brighten(Transform):
    by: int = 1

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample.image = sample.image + self.by + int(rng.integers(2))
        return sample


class Recorder(DrawingTransform):
    """Appends the drawn samples to the file name. It occurs twice in a mixture: drawn samples have passed the first one."""

    draws: int = 2

    def mix(self, sample: Sample, rng: np.random.Generator, draw: Callable[[], Sample]) -> Sample:
        drawn = [draw() for _ in range(self.draws)]
        shown = ", ".join(f"{other.file_name}={other.image_id}:{int(other.image[0, 0, 0])}" for other in drawn)
        sample.file_name = f"{sample.file_name}({shown})"
        return sample


def mixture(ratio: tuple[int, ...] | None = (2, 1), **first: Any) -> MixtureConfig:
    return MixtureConfig(
        parts=(
            PlainData(**{"count": 6, "transforms": (Brighten(by=1), Recorder(), Brighten(by=3)), **first}),
            PlainData(count=4, value=100, first=50, transforms=(Recorder(draws=1),)),
        ),
        ratio=ratio,
        transforms=(Recorder(draws=1),),
    )


def take(config: DatasetConfig, count: int, **options: Any) -> list[Batch]:
    batches = train_batches(config.open(), config.transforms, **{"batch_size": 6, "seed": 5, "workers": 0, **options})
    return list(itertools.islice(batches, count))


def facts(batches: list[Batch]) -> list[Any]:
    return [(batch.file_names, batch.image_ids, batch.seeds, batch.images.tolist(), batch.sizes.tolist()) for batch in batches]


def test_each_part_uses_its_transforms_and_draws_from_itself() -> None:
    for batch in take(mixture(), 6):
        assert sum(image_id < 50 for image_id in batch.image_ids) == 4  # the ratio
        for name, image_id, image in zip(batch.file_names, batch.image_ids, batch.images, strict=True):
            inner, outer = name.split(")(", 1)
            values = [int(part.split(":")[1].rstrip(")")) for part in inner.split("(")[1].split(", ")]
            if image_id < 50:
                assert len(values) == 2 and set(values) <= {11, 12}  # of part 0, after only its first Brighten
                assert 14 <= int(image[0, 0, 0]) <= 16
            else:
                assert values == [100] and int(image[0, 0, 0]) == 100
            assert "=" in outer  # the mixture's transform draws from all parts, after their transforms
    outer = [name.rsplit(")(", 1)[1] for batch in take(mixture(), 12) for name in batch.file_names]
    drawn = {int(text.rsplit(":", 1)[1].rstrip(")")) for text in outer}
    assert drawn <= {14, 15, 16, 100} and len(drawn) >= 3


def test_draws_depend_only_on_seed_and_place() -> None:
    config = mixture()
    expected = facts(take(config, 7))
    assert facts(take(config, 7, workers=2)) == expected != facts(take(config, 7, seed=6))
    assert facts(take(config, 3, start=4)) == expected[4:]
    shares = [take(config, 7, rank=rank, world_size=2) for rank in range(2)]
    for whole, first, second in zip(expected, *map(facts, shares), strict=True):
        assert whole[0] == first[0] + second[0] and whole[2] == first[2] + second[2]
    for share in shares:
        assert all(sum(image_id < 50 for image_id in batch.image_ids) == 2 for batch in share)


def test_without_a_ratio_each_image_occurs_once_per_epoch() -> None:
    batches = take(mixture(ratio=None), 5, batch_size=2)
    assert sorted(i for batch in batches for i in batch.image_ids) == [*range(6), *range(50, 54)]
    twice = take(mixture(ratio=None, repeats=2.0), 8, batch_size=2)
    assert sorted(i for batch in twice for i in batch.image_ids) == sorted([*range(6), *range(6), *range(50, 54)])


def test_a_mixture_in_a_mixture() -> None:
    config = MixtureConfig(parts=(mixture(ratio=None), PlainData(count=2, first=90)))
    data = config.open()
    assert [data[index].image_id for index in range(len(data))] == [*range(6), *range(50, 54), 90, 91]
    assert data.size(6) == (30, 20) and data.size(7) == (20, 30)
    with pytest.raises(IndexError):
        data[12]
    assert sorted({i for batch in take(config, 4) for i in batch.image_ids})[-2:] == [90, 91]
    with pytest.raises(UserError, match=r"a mixture that is a part of another mixture cannot have a ratio"):
        MixtureConfig(parts=(mixture(), PlainData())).open()


def test_a_mixture_in_yaml_and_overrides() -> None:
    text = """
    train:
      kind: mixture
      ratio: [3, 1]
      parts:
        - {kind: coco, annotations: a.json, images: a, transforms: [{kind: resize_shortest_edge}, {kind: copy_paste, p: 0.5}]}
        - {kind: coco, annotations: b.json, images: b}
    val: {kind: coco, annotations: c.json, images: c}
    """
    config = from_yaml(DataConfig, text)
    assert isinstance(config.train, MixtureConfig) and config.train.ratio == (3, 1)
    config = apply_overrides(config, ["train.parts.1.annotations=d.json", "train.ratio=[1,2]"])
    tree = to_tree(config)["train"]
    assert tree["parts"][1]["annotations"] == "d.json" and tree["ratio"] == [1, 2] and tree["parts"][0]["transforms"][1]["p"] == 0.5
    with pytest.raises(ConfigError, match=r"'train.ratio.1'"):
        apply_overrides(config, ["train.ratio=[1,-1]"])
    with pytest.raises(ConfigError, match="has a ratio of zeros only"):
        apply_overrides(config, ["train.ratio=[0,0]"])


def test_parts_that_cannot_be_mixed() -> None:
    with pytest.raises(UserError, match=r"part 0 of a mixture and part 1 have different categories: only part 1 has 3 'c'"):
        MixtureConfig(parts=(PlainData(), PlainData(names=("a", "b", "c")))).open()
    with pytest.raises(UserError, match=r"a mixture of 2 data sets has a ratio of 3 numbers"):
        mixture(ratio=(1, 1, 1)).open()
    some, others = PlainData().open(), PlainData().open()
    others.categories = Categories((1, 2), ("a", "b"), KeypointFacts(("nose",), (0,)))
    with pytest.raises(UserError, match=r"part 0 of a mixture and part 1 have different keypoints"):
        MixtureDataset([some, others])
    with pytest.raises(UserError, match=r"train.batch_size: 4 images cannot be divided as 2, 1"):
        take(mixture(), 1, batch_size=4)


def test_a_ratio_of_one_to_zero_is_the_first_part_alone() -> None:
    """The same samples with the same random choices, also where a transform draws other samples."""
    transforms = (Brighten(), Recorder())
    alone, others = PlainData(transforms=transforms), PlainData(count=4, value=200, first=50)
    for parts, ratio in (((alone, others), (1, 0)), ((alone, others, others), (2, 0, 0))):
        assert facts(take(MixtureConfig(parts=parts, ratio=ratio), 9)) == facts(take(alone, 9))
        outer = MixtureConfig(parts=(PlainData(), *parts[1:]), ratio=ratio, transforms=transforms)
        assert facts(take(outer, 9)) == facts(take(alone, 9))
    last = PlainData(count=4, value=150, first=90)
    assert facts(take(MixtureConfig(parts=(alone, others, last), ratio=(2, 0, 1)), 9)) == facts(
        take(MixtureConfig(parts=(alone, last), ratio=(2, 1)), 9)
    )
    with pytest.raises(UserError, match=r"part 0 of a mixture and part 1 have different categories"):
        MixtureConfig(parts=(PlainData(), PlainData(names=("a", "c"))), ratio=(1, 0)).open()


def test_ground_truth_of_a_mixture() -> None:
    tree = mixture().open().to_coco()
    assert [image["id"] for image in tree["images"]] == [*range(6), *range(50, 54)]
    assert [(row["id"], row["image_id"]) for row in tree["annotations"]] == [(1, 0), (2, 50)]
    with pytest.raises(UserError, match=r"images with the same ids"):
        MixtureConfig(parts=(PlainData(), PlainData())).open().to_coco()
    image_ids = [i for batch in eval_batches(mixture().open(), (), batch_size=3, workers=0) for i in batch.image_ids]
    assert sorted(image_ids) == [*range(6), *range(50, 54)]
    with pytest.raises(UserError, match=r"needs other samples, which only training has"):
        next(eval_batches(mixture().open(), (Recorder(),), batch_size=3, workers=0))


def test_no_images() -> None:
    with pytest.raises(UserError, match=r"data.train: the data set has no images"):
        take(PlainData(count=0), 1)
    with pytest.raises(UserError, match=r"data.train.parts.0: the data set has no images"):
        take(mixture(count=0), 1)
    assert list(eval_batches(PlainData(count=0).open(), (), batch_size=2, workers=0)) == []
    take(mixture(ratio=None, count=0), 2)


def test_each_part_is_checked_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Any, categories: Any, first: Any, key: str) -> None:
        raise UserError(f"{key}: {first().image_id}")

    monkeypatch.setattr(TinyConfig, "check_data", check)
    with pytest.raises(UserError, match=r"data\.train\.parts\.0: \d+"):
        check_data(TinyConfig(), mixture().open(), "data.train")
