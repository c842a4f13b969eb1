"""The training loop with a real network: Mask R-CNN on generated pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from boxwood.config import apply_overrides, to_yaml
from boxwood.data.synthetic.shapes import write_shapes
from boxwood.recipes import demo_shapes
from boxwood.run_config import RunConfig
from boxwood.weights import read_weights
from tests.training import torchrun
from tests.training.two_processes import after_first_steps, one_and_two


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that starts from a network trained for a few steps. A randomly initialised one gives all anchors similar scores, so
    that rounding decides which of two anchors is suppressed."""
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, train=12, val=3, seed=0, size=(96, 128))
    config = demo_shapes()
    # Batch norm would have statistics of one image on each of two processes, and of two images on one; group norm needs twice the
    # width.
    widths = ["model.backbone.width=32", "model.fpn.channels=64"]
    config = apply_overrides(config, ["model.backbone.norm=gn", "model.fpn.norm=gn", "model.box_head.norm=gn", *widths])
    for split in ("train", "val"):
        data = getattr(config.data, split)
        data.annotations, data.images = str(folder / f"{split}.json"), str(folder / split)
        data.transforms = data.transforms[1:]  # only the flip: the images are already small
    config.data.workers = 0
    return after_first_steps(config, folder, steps=20)


@pytest.mark.slow
def test_two_processes_train_like_one(config: RunConfig, tmp_path: Path) -> None:
    """20 steps, the losses within 1e-4 and the gradient norms within 1e-2, with different numbers of positives on the processes."""
    one, two = one_and_two(config, tmp_path)
    assert len(one) == 20
    for a, b in zip(one, two, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4), a["step"]
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-2), a["step"]


@pytest.mark.slow
def test_two_processes_resume_exactly(config: RunConfig, tmp_path: Path) -> None:
    """Two processes, 8 steps; then 4 steps, a kill, and 4 more."""
    config = config.model_copy(deep=True)
    config.train.steps, config.train.checkpoint_every = 8, 4
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    status, output = torchrun.run(path, tmp_path / "whole")
    assert status == 0, output
    process = torchrun.start(path, tmp_path / "parts")
    torchrun.wait_for(tmp_path / "parts" / "metrics.jsonl", '"step": 5,')
    process.kill()
    process.communicate()
    status, output = torchrun.run(path, tmp_path / "parts", "--resume")
    assert status == 0, output
    whole, parts = (read_weights(tmp_path / name / "last.safetensors").state for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
