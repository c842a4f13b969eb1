"""What became of every tensor when the weights of another program were imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from boxwood.errors import UserError

__all__ = ["Found", "Report", "account", "fill", "missing"]

MAX_NAMED = 6
"""Tensors that an error names of each sort."""


@dataclass
class Report:
    """The tensors of a model, by where they came from; together all of them."""

    loaded: dict[str, str] = field(default_factory=dict)
    """Our name -> theirs, values as they were."""
    reordered: dict[str, str] = field(default_factory=dict)
    """Our name -> theirs, values put in our order of classes, anchors or colours."""
    constant: list[str] = field(default_factory=list)
    """Made, since theirs follow from the format: statistics of 0 and 1."""
    anew: list[str] = field(default_factory=list)
    """Left as the model made them, since the file has a body alone."""
    unused: list[str] = field(default_factory=list)
    """Theirs, that belong to nothing here: the optimizer's, a classifier's, fixed filters."""

    def summary(self) -> str:
        """One line of counts."""
        counts = (("loaded", self.loaded), ("reordered", self.reordered), ("constant", self.constant), ("anew", self.anew))
        ours = ", ".join(f"{len(names)} {sort}" for sort, names in counts if names)
        return f"{ours}; {len(self.unused)} tensors of the file not used"

    def table(self) -> str:
        """One line a tensor: what became of it, our name, theirs."""
        rows = [("loaded", ours, theirs) for ours, theirs in self.loaded.items()]
        rows += [("reordered", ours, theirs) for ours, theirs in self.reordered.items()]
        rows += [("constant", ours, "") for ours in self.constant] + [("anew", ours, "") for ours in self.anew]
        rows += [("unused", "", theirs) for theirs in self.unused]
        width = max((len(ours) for _, ours, _ in rows), default=0)
        return "\n".join(f"{sort:9}  {ours:{width}}  {theirs}".rstrip() for sort, ours, theirs in rows)


Found = Mapping[str, tuple[str, Tensor, bool]]
"""Our name -> their name, the values in our order, and whether that is another than theirs."""


def fill(model: nn.Module, found: Found, constant: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The state dict of ``model`` with what was ``found``, and with the values of ``constant``, which the format implies.

    Raises `UserError` where one is of another shape: it names both.
    """
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    wrong = [
        f"{theirs} gives {name} the shape {tuple(value.shape)} instead of {tuple(state[name].shape)}"
        for name, (theirs, value, _) in found.items()
        if value.shape != state[name].shape
    ]
    if wrong:
        raise UserError(f"{where}: does not fit the model: {_some(wrong)}; name the configuration that it was trained with")
    for name, (_, value, _) in found.items():
        state[name] = value.to(state[name].dtype).contiguous()
    for name, value in constant.items():
        state[name] = value.to(torch.float32).expand_as(state[name]).contiguous()
    return state


def account(found: Found, theirs: Iterable[str], *, constant: Sequence[str] = (), anew: Sequence[str] = ()) -> Report:
    """What became of all tensors: those ``found``, the names in the file, and ours that it does not have."""
    used = {name for name, _, _ in found.values()}
    return Report(
        loaded={ours: name for ours, (name, _, other) in found.items() if not other},
        reordered={ours: name for ours, (name, _, other) in found.items() if other},
        constant=list(constant),
        anew=list(anew),
        unused=sorted(name for name in theirs if name not in used),
    )


def missing(names: Sequence[str], where: str) -> UserError:
    """That a file lacks tensors."""
    return UserError(
        f"{where}: lacks {len(names)} tensors of the model: {_some(names)}; name the configuration it was trained with"
    )


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
