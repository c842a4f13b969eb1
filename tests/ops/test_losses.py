"""Losses: torch's smooth L1, and means that two processes share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from boxwood.ops.losses import global_mean, smooth_l1

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from boxwood.ops.losses import global_mean

dist.init_process_group("gloo")
rank = dist.get_rank()
rows = torch.arange(21.0).reshape(7, 3) / 10
gradients = []
for shares in ((5, 2), (7, 0), (0, 0)):
    weight = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    mine = rows[: shares[0]] if rank == 0 else rows[shares[0] : sum(shares)]
    global_mean((mine @ weight).square().sum(), len(mine)).backward()
    dist.all_reduce(weight.grad)
    gradients.append(weight.grad / 2)
if rank == 0:
    with torch.no_grad():
        alone = global_mean(torch.tensor(6.0), 4)  # without gradients no process waits for the other
    torch.save([*gradients, alone], sys.argv[1])
dist.barrier()
dist.destroy_process_group()
"""


def test_global_mean_alone() -> None:
    total = torch.tensor(6.0, requires_grad=True)
    mean = global_mean(total, torch.tensor(4))
    assert mean.item() == 1.5
    mean.backward()
    assert total.grad is not None and total.grad.item() == 0.25
    assert global_mean(torch.tensor(0.0), 0).item() == 0.0
    assert global_mean(torch.tensor(6.0), 4.0).item() == 1.5


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_the_pooled_mean(tmp_path: Path) -> None:
    """Where both count something, where one alone does, and where none does."""
    script, out = tmp_path / "script.py", tmp_path / "out.pt"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, timeout=240, capture_output=True)
    both, one, none, alone = torch.load(out, weights_only=True)

    weight = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    (torch.arange(21.0).reshape(7, 3) / 10 @ weight).square().mean().backward()
    torch.testing.assert_close(both, weight.grad)
    torch.testing.assert_close(one, weight.grad)
    assert none.tolist() == [0, 0, 0]
    assert alone.item() == 1.5


@pytest.mark.parametrize("beta", [1.0, 1 / 9, 0.0])
def test_smooth_l1_is_torchs_and_by_hand(beta: float) -> None:
    x = torch.tensor([-3.0, -1.0, -beta, -beta / 2, 0.0, beta / 3, 0.7, 2.0])
    ours = smooth_l1(x, torch.zeros(8), beta)
    by_hand = [0.5 * v * v / beta if abs(v) < beta else abs(v) - 0.5 * beta for v in x.tolist()]
    torch.testing.assert_close(ours, torch.tensor(by_hand))
    torch.testing.assert_close(ours, F.smooth_l1_loss(x, torch.zeros(8), beta=beta, reduction="none"))
    torch.testing.assert_close(smooth_l1(x + 5, torch.full((8,), 5.0), beta), ours, atol=1e-6, rtol=1e-5)
