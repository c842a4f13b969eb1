"""RPN: the sampled anchors computed again with a graph, beside the backward pass through all cells."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from boxwood.models.config import RPNConfig
from boxwood.models.rpn import RPN
from tests.models.test_rcnn import ONE, TWO, batch_of, network


def a_network(convs: int) -> RPN:
    """Three levels, double precision, weights large enough that a ReLU cuts half of what it reads."""
    torch.manual_seed(convs)
    rpn = RPN(RPNConfig(anchor_sizes=[[8], [16], [32]], convs=convs), 6, [4, 8, 16]).double()
    for conv in rpn.convs:
        torch.nn.init.normal_(conv.weight, std=0.3)
        torch.nn.init.normal_(conv.bias, std=0.3)
    return rpn


def all_cells(rpn: RPN, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Logits (B, A) and deltas (B, A, 4) of every anchor, with a graph."""
    logits, deltas = [], []
    for hidden in maps:
        for conv in rpn.convs:
            hidden = F.relu(conv(hidden))
        logits.append(rpn.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
        deltas.append(rpn.deltas(hidden).permute(0, 2, 3, 1).reshape(len(hidden), -1, 4))
    return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)


@pytest.mark.parametrize("convs", [1, 2, 3])
@pytest.mark.parametrize("shapes", [[(9, 13), (5, 7), (1, 3)], [(2, 2), (1, 1), (1, 1)]])
def test_gradients_of_the_sampled_anchors_are_those_of_all_cells(convs: int, shapes: list[tuple[int, int]]) -> None:
    """Maps narrower than the convolutions' windows, and anchors at every border, included."""
    rpn = a_network(convs)
    maps = [torch.randn(2, 6, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    output = rpn(maps)
    assert not output.logits.requires_grad and not output.deltas.requires_grad
    indices = torch.stack([torch.randperm(output.logits.shape[1])[:15] for _ in range(2)])
    again = rpn.with_graph(maps, output, indices)
    torch.testing.assert_close(again.logits, output.logits)
    torch.testing.assert_close(again.deltas, output.deltas)
    weights, box_weights = torch.randn(2, 15), torch.randn(2, 15, 4)

    def gradients(logits: Tensor, deltas: Tensor) -> tuple[Tensor, ...]:
        sampled = logits.gather(1, indices) * weights, deltas.gather(1, indices[..., None].expand(-1, -1, 4)) * box_weights
        return torch.autograd.grad(sampled[0].sum() + sampled[1].sum(), [*maps, *rpn.parameters()])

    expected = gradients(*all_cells(rpn, maps))
    for ours, theirs in zip(gradients(again.logits, again.deltas), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()))


def test_the_gradients_of_a_detector_are_those_of_all_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(ONE, TWO, sizes=[[96, 128], [64, 90]])

    def step() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        model = network()
        losses = model.losses(model(batch), batch.targets or ())
        torch.stack(list(losses.values())).sum().backward()
        return losses, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    losses, gradients = step()
    monkeypatch.setattr(RPN, "forward", RPN.forward.__wrapped__)  # type: ignore[attr-defined]  # without its torch.no_grad
    monkeypatch.setattr(RPN, "with_graph", lambda self, maps, output, indices: output)
    all_losses, all_gradients = step()
    torch.testing.assert_close(losses, all_losses, rtol=1e-6, atol=1e-7)
    assert gradients.keys() == all_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, all_gradients[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
