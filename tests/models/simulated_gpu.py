"""A simulated GPU: tensors that report cuda:0 as their device and hold their values on the CPU, and a list of the places where the
host waits.

Fake tensors alone (`torch._subclasses.FakeTensorMode`) have no values, so a program that reads one ends there and its further steps
are not run; nor do they run custom operators, and autograd refuses them where there is no driver. Here every operator runs twice:
on fake tensors of cuda:0, which give the device of the result and refuse a mixture of devices as a GPU would; and on the CPU, for
the values.

The host waits where

* an operator gives a number to Python (``.item()``, ``int()``, ``if``, ``.tolist()``, ``torch.equal``),
* the shape of its result depends on values (``nonzero``, an index of bools, ``unique``, ``bincount``, ``nms`` ...),
* values move from the device to the host, or from the host to the device without ``non_blocking`` (``torch.tensor(list,
  device=...)``, ``tensor.new_tensor(list)``, an index that lies on the CPU): torch waits for the whole stream.

    with SimulatedGPU() as gpu:
        gpu.move(model)
        model(batch.to("cuda"))
    gpu.waits  # [Place(file, function, line, code, operator)], one each time

With ``triton`` it has the Triton kernels for NMS and RoIAlign, else torchvision's operators do that work. With ``launches`` it also
lists the operators that give the GPU work, in ``gpu.launches``: all but views and allocations. An operator may start more than one
kernel, so these are the fewest launches that there can be.
"""

from __future__ import annotations

import linecache
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

import boxwood
from boxwood.ops.anchors import _points
from boxwood.ops.nms import nms_mask
from boxwood.ops.roi_align import pool_levels

if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14):  # it is made of private parts of torch
    pytest.skip("the simulated GPU needs torch 2.14", allow_module_level=True)

__all__ = ["GPUTensor", "Place", "SimulatedGPU"]

CUDA = torch.device("cuda", 0)
ROOT = Path(boxwood.__file__).parent
CALLED_WITH_BOOLS = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}
CALLED_WITH_BOOLS.add(torch.ops.aten._index_put_impl_.default)
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
ALLOCATIONS = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"}
WITHOUT_WORK = {*ALLOCATIONS, "aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh", "aten::resize_"}
"""Operators besides views that start no kernel."""


@dataclass(frozen=True)
class Place:
    """The innermost line of Boxwood that makes the host wait or starts work; in a backward pass, the line whose gradient is
    computed."""

    file: str
    function: str
    line: int
    code: str
    operator: str

    @property
    def place(self) -> str:
        return f"{self.file}: {self.function}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}: {self.code}  [{self.operator}]"


class GPUTensor(torch.Tensor):
    """``values`` on the CPU. To C++ it is a meta tensor, for which autograd needs no driver; Python sees cuda:0."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> GPUTensor:
        tensor: GPUTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            *(cls, values.shape, values.stride(), values.storage_offset()), dtype=values.dtype, device="meta"
        )
        tensor.values = values
        return tensor

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"on the simulated GPU: {self.values}"

    def tolist(self) -> Any:
        """Counts one wait; torch's method would count one for each value."""
        SimulatedGPU.current().wait("tolist")
        return self.values.tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        """torch's method asks C++ for the device."""
        return torch.tensor(data, dtype=dtype or self.dtype, device=CUDA, **options)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a tensor of a simulated GPU was used outside of it")


class SimulatedGPU:
    """While it is open, the device "cuda" is simulated; ``waits`` grows, and so does ``launches`` where they are counted."""

    _open: ClassVar[list[SimulatedGPU]] = []

    def __init__(self, *, launches: bool = False, triton: bool = False) -> None:
        self.waits: list[Place] = []
        self.launches: list[Place] = []
        self.counts_launches, self.triton = launches, triton
        self.context = ExitStack()

    @classmethod
    def current(cls) -> SimulatedGPU:
        return cls._open[-1]

    def __enter__(self) -> Self:
        _points.cache_clear()  # what is computed once has the values of this GPU
        fakes = FakeTensorMode()
        self.context.enter_context(fakes)  # it keeps torch from looking for a driver where Python asks for "cuda"
        self.context.enter_context(_set(torch._C._only_lift_cpu_tensors, torch._C._set_only_lift_cpu_tensors, True))
        generator = torch.Generator
        self.context.enter_context(mock.patch.object(torch, "Generator", side_effect=lambda device="cpu": generator()))
        # Each node of the graph then knows the line that made it.
        self.context.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
        self.context.callback(_points.cache_clear)
        kernel = _survivors if self.triton else None
        self.context.enter_context(mock.patch("boxwood.ops.nms._survivors_on_gpu", return_value=kernel))
        pooling = _pool_levels if self.triton else None
        self.context.enter_context(mock.patch("boxwood.ops.roi_align._kernel_on_gpu", return_value=pooling))
        self.context.enter_context(mock.patch("boxwood.ops.convolution._cudnn_conv_relu", _conv_relu))
        self._open.append(self)
        self.context.callback(self._open.pop)
        self.context.enter_context(_EveryOperator(fakes, self.wait, self.launch))
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def move(self, module: nn.Module) -> None:
        """``module.to("cuda")``."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(GPUTensor(parameter.detach()), parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = GPUTensor(buffer)

    def wait(self, operator: str) -> None:
        """The host waits now."""
        self.waits.append(_locate(operator))

    def launch(self, operator: str) -> None:
        """Work for the GPU begins now."""
        if self.counts_launches:
            self.launches.append(_locate(operator))


def _survivors(boxes: Tensor, ends: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """`boxwood.ops.nms_kernel.survivors`, which is one launch besides two that change types."""
    for operator in ("to", "kernel", "to"):
        SimulatedGPU.current().launch(operator)
    assert all(isinstance(tensor, GPUTensor) for tensor in (boxes, ends, valid))
    with _disable_current_modes():
        ranks = torch.arange(len(boxes), 0, -1).float()
        return GPUTensor(nms_mask(boxes.values, ranks, ends.values, threshold, valid.values))  # type: ignore[attr-defined]


def _conv_relu(x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, *geometry: Any) -> Tensor:
    """`boxwood.ops.convolution._cudnn_conv_relu`, which is one launch."""
    SimulatedGPU.current().launch("cudnn_convolution_relu")
    inputs = [None if tensor is None else tensor.values for tensor in (x, weight, bias, shortcut)]  # type: ignore[attr-defined]
    with _disable_current_modes():
        output = F.conv2d(*inputs[:3], *geometry)
        return GPUTensor(F.relu(output if inputs[3] is None else output + inputs[3]))


def _pool_levels(features: Sequence[Tensor], strides: Sequence[int], *arguments: Any) -> Tensor:
    """`boxwood.ops.roi_align_kernel.pool_levels`, which is one launch; its gradient is one too, besides the zeros of each map."""
    pooled: Tensor = _PoolLevels.apply(strides, *arguments, *features)
    return pooled


class _PoolLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, strides: Sequence[int], *arguments: Any) -> Tensor:
        SimulatedGPU.current().launch("kernel")
        levels, rois, images, size, sampling_ratio, aligned = arguments[:6]
        ctx.maps = [level.values for level in arguments[6:]]
        places = [tensor.values for tensor in (levels, rois, images)]
        ctx.pool = lambda maps: pool_levels(maps, strides, *places, size, sampling_ratio=sampling_ratio, aligned=aligned)
        with _disable_current_modes():
            return GPUTensor(ctx.pool(ctx.maps))

    @staticmethod
    def backward(ctx: Any, *gradient: Any) -> tuple[Tensor | None, ...]:
        for operator in (*["zeros"] * len(ctx.maps), "kernel"):
            SimulatedGPU.current().launch(operator)
        with _disable_current_modes(), torch.enable_grad():
            maps = [level.detach().requires_grad_() for level in ctx.maps]
            gradients = torch.autograd.grad(ctx.pool(maps), maps, gradient[0].values)
        return (None,) * 7 + tuple(map(GPUTensor, gradients))


class _EveryOperator(TorchDispatchMode):
    def __init__(self, fakes: FakeTensorMode, wait: Callable[[str], None], launch: Callable[[str], None]) -> None:
        super().__init__()
        self.fakes, self.wait, self.launch = fakes, wait, launch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (custom := OPDEFS.get(func._schema.name)) is not None:
            with self:  # an operator of Boxwood: its steps on this device count too
                return custom._init_fn(*args, **kwargs)
        leaves, _ = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        target = kwargs.get("device")
        to_gpu = target is not None and torch.device(target).type != "cpu"
        if not to_gpu and not any(isinstance(tensor, GPUTensor) for tensor in tensors):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if not func.is_view and func._schema.name not in WITHOUT_WORK and not _is_there(func, args, kwargs):
            self.launch(_name(func))
        devices = self._devices(func, args, kwargs)
        with _disable_current_modes():
            result = func(*tree_map(_values, args), **tree_map(_values, kwargs))
        if func._schema.is_mutable:
            return _mutated(func, args, kwargs)
        return tree_map(lambda out: _place(out, devices), result)

    def _devices(self, func: Any, args: Any, kwargs: Any) -> Iterator[torch.device]:
        """The device of each tensor in the result; notes a wait of the host."""
        if self._copies_to_host_or_device(func, args, kwargs):
            self.wait(_name(func))
        if func in CALLED_WITH_BOOLS and (reason := _reads_index(func, args)):
            self.wait(f"{_name(func)} {reason}")
            return _always(CUDA)
        if not func._schema.returns:
            return iter(())
        try:
            with self.fakes, warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torchvision's nms asks for a new size by an old name
                result = func(*tree_map(self._fake, args), **tree_map(self._fake, kwargs))
        except (DataDependentOutputException, DynamicOutputShapeException):
            self.wait(_name(func))
            return _always(CUDA)
        return iter([leaf.device for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor)])

    def _copies_to_host_or_device(self, func: Any, args: Any, kwargs: Any) -> bool:
        if func not in COPIES:
            return False
        if func is torch.ops.aten.copy_.default:
            there, here = args[:2]
            blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            to_gpu = isinstance(there, GPUTensor)
        else:
            here, blocking = args[0], not kwargs.get("non_blocking", False)
            device = kwargs.get("device")
            to_gpu = isinstance(here, GPUTensor) if device is None else torch.device(device).type != "cpu"
        from_gpu = isinstance(here, GPUTensor)
        # Values that move to the host are read there: torch waits, or the program has to.
        return from_gpu != to_gpu and (blocking or from_gpu)

    def _fake(self, leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and not isinstance(leaf, FakeTensor):
            on = CUDA if isinstance(leaf, GPUTensor) else leaf.device
            with self.fakes:
                return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=on)
        if isinstance(leaf, torch.device) and leaf.type != "cpu":
            return CUDA
        return None if isinstance(leaf, torch._C.Generator) else leaf


def _values(leaf: Any) -> Any:
    """An argument as the CPU computes with it."""
    if isinstance(leaf, GPUTensor):
        return leaf.values
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _place(out: Any, devices: Iterator[torch.device]) -> Any:
    if not isinstance(out, Tensor):
        return out
    return GPUTensor(out) if next(devices).type == "cuda" else out


def _mutated(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operator that writes into its arguments: these arguments."""
    written = [
        kwargs[argument.name] if argument.name in kwargs else args[index]
        for index, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write and (argument.name in kwargs or index < len(args))
    ]
    if not func._schema.returns:
        return None
    for tensor in written:
        assert not isinstance(tensor, GPUTensor) or tensor.shape == tensor.values.shape, f"{func} changes a tensor's shape"
    return written[0] if len(func._schema.returns) == 1 else tuple(written)


def _is_there(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a copy to the GPU is of a tensor there, and of its type: ``to`` gives the tensor itself where the GPU is real."""
    if func is not torch.ops.aten._to_copy.default or not isinstance(args[0], GPUTensor) or "device" not in kwargs:
        return False
    same_type = kwargs.get("dtype") in (None, args[0].dtype)
    return (
        same_type and kwargs.get("memory_format") in (None, torch.preserve_format) and torch.device(kwargs["device"]).type != "cpu"
    )


def _reads_index(func: Any, args: Any) -> str:
    """Why an index makes the host wait; empty where it does not."""
    present = [index for index in args[1] if index is not None]
    if isinstance(args[0], GPUTensor) and not all(isinstance(index, GPUTensor) for index in present):
        return "by a tensor on the CPU"
    if not any(index.dtype in (torch.bool, torch.uint8) for index in present):
        return ""
    fills = func is not torch.ops.aten.index.Tensor and args[2].numel() == 1 and len(present) == 1 and not any(args[3:4])
    return "" if fills else "by a tensor of bools"  # one value into one mask is masked_fill


def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


def _always(device: torch.device) -> Iterator[torch.device]:
    while True:
        yield device


@contextmanager
def _set(read: Callable[[], bool], write: Callable[[bool], None], value: bool) -> Iterator[None]:
    before = read()
    write(value)
    yield
    write(before)


def _locate(operator: str) -> Place:
    """The innermost line of Boxwood that runs now, or in a backward pass the line whose gradient is computed."""
    node = torch._C._current_autograd_node()
    if node is not None:
        for entry in reversed(node.metadata.get("traceback_", [])):
            if match := re.match(rf'\s*File "{re.escape(str(ROOT))}/([^"]*)", line (\d+), in (\S+)\n\s*(.*)', entry):
                file, line, function, code = match.groups()
                return Place(file, function, int(line), code.strip(), f"backward of it: {operator}")
    frame = sys._getframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if ROOT in path.parents:
            code = linecache.getline(str(path), frame.f_lineno).strip()
            return Place(str(path.relative_to(ROOT)), frame.f_code.co_qualname, frame.f_lineno, code, operator)
        frame = frame.f_back  # type: ignore[assignment]
    return Place("elsewhere", "elsewhere", 0, "", operator)
