"""What `boxwood demo` trains with; that it runs to its end is a test of the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boxwood.library.demo import demo
from boxwood.run_config import RunConfig


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    ("has_bf16", "overrides", "precision"),
    [(True, [], "bf16"), (False, [], "fp32"), (True, ["train.precision=fp32"], "fp32"), (False, ["train.precision=bf16"], "bf16")],
)
def test_a_cpu_with_bf16_trains_in_it(
    has_bf16: bool, overrides: list[str], precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[RunConfig] = []

    def note(config: RunConfig, *rest: Any) -> None:
        configs.append(config)
        raise Stopped

    monkeypatch.setattr("boxwood.library.demo.cpu_has_bf16", lambda: has_bf16)
    monkeypatch.setattr("boxwood.library.demo.write_shapes", lambda *rest, **more: None)
    monkeypatch.setattr("boxwood.library.demo.train", note)
    with pytest.raises(Stopped):
        demo(tmp_path, ["train.device=cpu", *overrides], seed=3)
    assert configs[0].train.precision == precision and configs[0].train.seed == 3
