"""Renames the weights of another program to our names, and reports where each tensor came from."""

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
"""Patterns of our modules, and functions that return the other program's name of a match."""


@dataclass
class Report:
    """All tensors of a model, by origin."""

    loaded: dict[str, str] = field(default_factory=dict)
    """Our name -> theirs, values unchanged."""
    reordered: dict[str, str] = field(default_factory=dict)
    """Our name -> theirs, values changed to our order of classes, anchors or colour channels."""
    constant: list[str] = field(default_factory=list)
    """Our names of constants that the file does not hold, since its format implies them: statistics of 0 and 1."""
    initialised: list[str] = field(default_factory=list)
    """Our names of tensors that keep the model's initial values, since the file has only a backbone."""
    unused: dict[str, str] = field(default_factory=dict)
    """Their name of a tensor that the network does not need -> the reason: of the optimizer, of a classifier, a fixed filter."""

    def summary(self) -> str:
        """One line of counts."""
        counts = (
            ("loaded", self.loaded),
            ("reordered", self.reordered),
            ("constant", self.constant),
            ("initialised", self.initialised),
        )
        ours = ", ".join(f"{len(names)} {sort}" for sort, names in counts if names)
        return f"{ours}; {len(self.unused)} tensors of the file not used"

    def table(self) -> str:
        """One line for each tensor: its origin, our name, theirs; of an unused one the reason."""
        rows = [("loaded", ours, theirs) for ours, theirs in self.loaded.items()]
        rows += [("reordered", ours, theirs) for ours, theirs in self.reordered.items()]
        rows += [("constant", ours, "") for ours in self.constant] + [("initialised", ours, "") for ours in self.initialised]
        rows += [("unused", "", f"{theirs} ({reason})") for theirs, reason in self.unused.items()]
        width = max((len(ours) for _, ours, _ in rows), default=0)
        return "\n".join(f"{sort:11}  {ours:{width}}  {theirs}".rstrip() for sort, ours, theirs in rows)


@dataclass
class Collected:
    """The values in a file for the tensors of a model."""

    matched: dict[str, tuple[str, Tensor, bool]] = field(default_factory=dict)
    """Our name -> their name, the values in our order, and whether that differs from theirs."""
    constant: dict[str, Tensor] = field(default_factory=dict)
    """Our name -> the value that the format implies."""
    missing: dict[str, str] = field(default_factory=dict)
    """Our name -> the name that the file should have."""


def collect(
    names: Iterable[str],
    theirs: Mapping[str, Tensor],
    candidates: Callable[[str], Sequence[str]],
    arrange: Callable[[Tensor, str], Tensor],
    implied: Callable[[str], float | None],
) -> Collected:
    """Look up our tensors ``names`` in a file.

    ``candidates(name)`` are its possible names in the file, of which the first that exists is used; ``arrange(value, module)`` puts
    values in our order and returns the same tensor where that is theirs; ``implied(name)`` is the constant value of a tensor that
    the file lacks, None if the file must have it.
    """
    collected = Collected()
    for name in names:
        possible = candidates(name)
        source = next((candidate for candidate in possible if candidate in theirs), None)
        if source is not None:
            try:
                arranged = arrange(theirs[source], name.rpartition(".")[0])
            except (RuntimeError, IndexError):
                arranged = theirs[source]  # of another shape, which `finish` reports
            collected.matched[name] = (source, arranged, arranged is not theirs[source])
        elif (constant := implied(name)) is not None:
            collected.constant[name] = torch.tensor(constant)
        else:
            collected.missing[name] = possible[0]
    return collected


def finish(
    model: nn.Module,
    collected: Collected,
    theirs: Iterable[str],
    where: str,
    harmless: Callable[[str], str | None],
    excused: Collection[str] = (),
) -> tuple[dict[str, Tensor], Report]:
    """The state dict of ``model`` with the collected values, and the report; ``theirs`` are all tensor names of the file.

    Missing tensors in ``excused`` keep the model's values. ``harmless(name)`` is the reason why a tensor of the file may be unused.
    Raises `UserError`, which names them, where others are missing, unused, or have another shape.
    """
    if needed := [source for name, source in collected.missing.items() if name not in excused]:
        raise UserError(
            f"{where}: lacks {len(needed)} tensors of the model: {some_of(needed)}; name the configuration it was trained with"
        )
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    wrong = [
        f"{source} gives {name} the shape {tuple(value.shape)} instead of {tuple(state[name].shape)}"
        for name, (source, value, _) in collected.matched.items()
        if value.shape != state[name].shape
    ]
    if wrong:
        raise UserError(f"{where}: does not fit the model: {some_of(wrong)}; name the configuration that it was trained with")
    used = {source for source, _, _ in collected.matched.values()}
    unused = {name: harmless(name) for name in sorted(name for name in theirs if name not in used)}
    if extra := [name for name, reason in unused.items() if reason is None]:
        raise UserError(
            f"{where}: has {len(extra)} tensors that the model has no place for: {some_of(extra)}; name the configuration that "
            "it was trained with"
        )
    for name, (_, value, _) in collected.matched.items():
        state[name] = value.to(state[name].dtype).contiguous()
    for name, value in collected.constant.items():
        state[name] = value.to(state[name].dtype).expand_as(state[name]).contiguous()
    report = Report(
        loaded={ours: source for ours, (source, _, other) in collected.matched.items() if not other},
        reordered={ours: source for ours, (source, _, other) in collected.matched.items() if other},
        constant=list(collected.constant),
        initialised=list(collected.missing),
        unused={name: reason for name, reason in unused.items() if reason is not None},
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
    """The other program's name of our ``module``. Raises `UserError`, which begins with ``what``, where no rule matches."""
    name = next((rule(match) for pattern, rule in rules if (match := re.fullmatch(pattern, module))), None)
    if name is None:
        raise UserError(f"{what} has nothing like the module {module}, so its weights cannot be imported")
    return name


def ratio_by_ratio(value: Tensor, sizes: int, ratios: int) -> Tensor:
    """Outputs (sizes * ratios * c, ...) of a cell's anchors, from the order size, ratio to our order ratio, size.

    >>> ratio_by_ratio(torch.arange(6), sizes=2, ratios=3).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return value.reshape(sizes, ratios, -1, *value.shape[1:]).transpose(0, 1).flatten(0, 2)
