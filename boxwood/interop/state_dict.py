"""Weights of another program put under our names: what each tensor is called there, and what became of all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from boxwood.errors import UserError
from boxwood.weights.file import some_of

__all__ = ["Collected", "Report", "Rules", "collect", "finish", "ratio_by_ratio", "split_name", "their_name"]

Rules = Sequence[tuple[str, Callable[[re.Match[str]], str]]]
"""Patterns of our modules, and what the other program calls the one that matches."""


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


@dataclass
class Collected:
    """What a file has for the tensors of a model."""

    found: dict[str, tuple[str, Tensor, bool]] = field(default_factory=dict)
    """Our name -> their name, the values in our order, and whether that is another than theirs."""
    constant: dict[str, Tensor] = field(default_factory=dict)
    """Our name -> the value that the format implies."""
    lacking: dict[str, str] = field(default_factory=dict)
    """Our name -> what the file should have called it."""


def collect(
    names: Iterable[str],
    theirs: Mapping[str, Tensor],
    candidates: Callable[[str], Sequence[str]],
    arrange: Callable[[Tensor, str], Tensor],
    implied: Callable[[str], float | None],
) -> Collected:
    """Look up our tensors ``names`` in a file.

    ``candidates`` of a name are what it may be called there, the first that is there is it; ``arrange(value, module)`` brings
    values into our order and returns the same tensor where that is theirs; ``implied`` is what a tensor that is not there always
    is, None where it has to be there.
    """
    collected = Collected()
    for name in names:
        possible = candidates(name)
        source = next((candidate for candidate in possible if candidate in theirs), None)
        if source is not None:
            arranged = arrange(theirs[source], name.rpartition(".")[0])
            collected.found[name] = (source, arranged, arranged is not theirs[source])
        elif (constant := implied(name)) is not None:
            collected.constant[name] = torch.tensor(constant)
        else:
            collected.lacking[name] = possible[0]
    return collected


def finish(
    model: nn.Module, collected: Collected, theirs: Iterable[str], where: str, excused: Collection[str] = ()
) -> tuple[dict[str, Tensor], Report]:
    """The state dict of ``model`` with what was collected, and the account of all tensors; ``theirs`` are all names of the file.

    Raises `UserError` where tensors are missing that are not ``excused``, or are of another shape: it names them.
    """
    if needed := [source for name, source in collected.lacking.items() if name not in excused]:
        raise UserError(
            f"{where}: lacks {len(needed)} tensors of the model: {some_of(needed)}; name the configuration it was trained with"
        )
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    wrong = [
        f"{source} gives {name} the shape {tuple(value.shape)} instead of {tuple(state[name].shape)}"
        for name, (source, value, _) in collected.found.items()
        if value.shape != state[name].shape
    ]
    if wrong:
        raise UserError(f"{where}: does not fit the model: {some_of(wrong)}; name the configuration that it was trained with")
    for name, (_, value, _) in collected.found.items():
        state[name] = value.to(state[name].dtype).contiguous()
    for name, value in collected.constant.items():
        state[name] = value.to(state[name].dtype).expand_as(state[name]).contiguous()
    used = {source for source, _, _ in collected.found.values()}
    report = Report(
        loaded={ours: source for ours, (source, _, other) in collected.found.items() if not other},
        reordered={ours: source for ours, (source, _, other) in collected.found.items() if other},
        constant=list(collected.constant),
        anew=list(collected.lacking),
        unused=sorted(name for name in theirs if name not in used),
    )
    return state, report


def split_name(name: str) -> tuple[str, str, str]:
    """Our module without its last part where that is ``conv`` or ``norm``, that part, and the leaf.

    >>> split_name("backbone.conv1.norm.weight"), split_name("rpn.deltas.bias")
    (('backbone.conv1', 'norm', 'weight'), ('rpn.deltas', '', 'bias'))
    """
    module, _, leaf = name.rpartition(".")
    path, _, part = module.rpartition(".")
    return (path, part, leaf) if part in ("conv", "norm") else (module, "", leaf)


def their_name(module: str, rules: Rules, what: str) -> str:
    """What the first rule that matches makes of our ``module``. Raises `UserError` where none does; ``what`` begins it."""
    name = next((rule(match) for pattern, rule in rules if (match := re.fullmatch(pattern, module))), None)
    if name is None:
        raise UserError(f"{what} had nothing like its {module}, so no weights of it can be imported")
    return name


def ratio_by_ratio(value: Tensor, sizes: int, ratios: int) -> Tensor:
    """Outputs (sizes * ratios * c, ...) of a cell's anchors that stand size by size, put ratio by ratio as ours do.

    >>> ratio_by_ratio(torch.arange(6), sizes=2, ratios=3).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return value.reshape(sizes, ratios, -1, *value.shape[1:]).transpose(0, 1).flatten(0, 2)
