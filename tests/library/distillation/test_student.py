"""A student's training: on a mixture of labels by people and by a detector."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from boxwood.data import CocoConfig, MixtureConfig
from boxwood.library.distillation.label import label
from boxwood.recipes import resolve
from boxwood.training.loop import train
from boxwood.weights import read_weights
from tests.conftest import tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_ratio_of_one_to_zero_is_ordinary_training(trained: Path, shapes: Path, tmp_path: Path) -> None:
    """The weights of the fixture's run, to the bit; with automatic labels in every batch they are others."""
    (tmp_path / "photos").mkdir()
    shutil.copy(shapes / "val" / "000000.jpg", tmp_path / "photos")
    label(trained, tmp_path / "photos", shapes / "train.json", tmp_path / "labels.json", floor=0.0, one_view=True)
    expected = read_weights(trained / "last.safetensors").state
    equal = []
    for ratio in ((1, 0), (1, 1)):
        config = resolve("demo_shapes", tiny(shapes))
        manual = config.data.train
        automatic = CocoConfig(
            annotations=str(tmp_path / "labels.json"), images=str(tmp_path / "photos"), transforms=manual.transforms
        )
        config.data.train = MixtureConfig(parts=(manual, automatic), ratio=ratio)
        out = tmp_path / f"{ratio[1]}"
        train(config, out)
        state = read_weights(out / "last.safetensors").state
        equal.append(all(torch.equal(state[name], tensor) for name, tensor in expected.items()))
    assert equal == [True, False]
