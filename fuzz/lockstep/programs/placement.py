"""Tensors "on a GPU" that are on the CPU: which side of a copy a tensor is on, as PyTorch would have it.

The memory is the CPU's either way. What a program sees of it are `.device`, `.is_cuda`, and that a copy to the other
side has storage of its own while a copy to the same side has not.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from torch.multiprocessing import reductions
from torch.overrides import TorchFunctionMode
from torch.utils import _device as default_device

_WeakRef: Final[Any] = reductions.StorageWeakRef

_functorch: Final[Any] = torch._C._functorch  # noqa: SLF001 - where torch has them

_constructors: Final[Any] = default_device._device_constructors  # noqa: SLF001 - there is no other list

_CPU: Final = torch.device("cpu")
_CUDA: Final = torch.device("cuda", 0)
_MANY: Final = 4096
"""Storages that are remembered before those that are gone are looked for."""


class Placement(TorchFunctionMode):
    """Takes device="cuda" of every call of torch to the CPU, and remembers which tensors asked to be there.

    What torch made without being asked, gradients for example, counts as on the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._on_cpu: dict[int, Any] = {}
        self._paused = False
        self._answering = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let torch tell where tensors are in truth."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """See calls again that are made inside a call, by functions of the program that torch comes back to."""
        before, self._answering = self._answering, False
        try:
            if before:
                with self:
                    yield
            else:
                yield
        finally:
            self._answering = before

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what was asked on the CPU, and note where the program thinks that the result is."""
        if self._paused or func is torch.device:
            return func(*args, **kwargs or {})
        before, self._answering = self._answering, True
        try:
            return self._answer(func, args, kwargs or {})
        finally:
            self._answering = before

    def _answer(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _ANSWERS:
            return _ANSWERS[func][self.is_cuda(args[0])]
        if func in _COPIES:
            return self._place(args[0], _COPIES[func], args[:1])
        if func is Tensor.pin_memory:
            return args[0]
        inputs = list(_tensors((*args, *kwargs.values())))
        args, kwargs, named = _without_device(func, args, kwargs)
        if named is not None:
            cuda = named.type == "cuda"
        elif func is Tensor.to and len(inputs) > 1:
            cuda = self.is_cuda(inputs[1])
        else:
            cuda = any(map(self.is_cuda, inputs))
        copied = inputs if named is not None or func is Tensor.to else ()
        result = func(*args, **kwargs)
        if isinstance(result, Tensor):
            return self._place(result, cuda, copied)
        for made in _tensors((result,)):
            self._place(made, cuda, ())
        return result

    def is_cuda(self, tensor: Tensor) -> bool:
        """Whether the program has this tensor on the GPU."""
        known = self._on_cpu.get(_key(tensor))
        return known is None or bool(known.expired())

    def put_on_cpu(self, tensor: Tensor) -> Tensor:
        """Note that the program has this tensor on the CPU."""
        if len(self._on_cpu) > _MANY:
            self._on_cpu = {k: ref for k, ref in self._on_cpu.items() if not ref.expired()}
        if key := _key(tensor):
            self._on_cpu[key] = _WeakRef(_unbatched(tensor).untyped_storage())
        return tensor

    def _place(self, tensor: Tensor, cuda: bool, sources: Iterable[Tensor]) -> Tensor:  # noqa: FBT001
        """A result on its side; as a copy where it is a tensor of the other side."""
        key = _key(tensor)
        if self.is_cuda(tensor) is cuda:
            return tensor
        if any(_key(source) == key for source in sources):
            tensor = tensor.clone()
        if cuda:
            return tensor
        return self.put_on_cpu(tensor)


def _without_device(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], torch.device | None]:
    """The arguments of a call with the CPU for every device, and the device that they named."""
    spelled = func is Tensor.to
    devices = [_named_device(a, spelled=spelled) for a in args]
    named = next((d for d in devices if d is not None), None)
    if named is not None:
        args = tuple(a if d is None else _CPU for a, d in zip(args, devices, strict=True))
    given = _named_device(kwargs.get("device"), spelled=True)
    if given is None and named is None and _goes_to_default(func) == "cuda":
        given = _CUDA
    if given is not None:
        named, kwargs = given, kwargs | {"device": _CPU}
    if kwargs.get("pin_memory"):
        kwargs = kwargs | {"pin_memory": False}
    return args, kwargs, named


def _goes_to_default(func: Callable[..., Any]) -> str:
    """The kind of device that a function without an argument for it makes tensors on; empty where it makes none."""
    default: torch.device | None = default_device.CURRENT_DEVICE
    if default is None or func not in _constructors():
        return ""
    return default.type


def _key(tensor: Tensor) -> int:
    """The address of a tensor's storage; 0 where it has none."""
    tensor = _unbatched(tensor)
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0


def _unbatched(tensor: Tensor) -> Tensor:
    """The tensor, or the batch that it stands for in a function that `torch.vmap` calls."""
    while _functorch.is_batchedtensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _named_device(value: Any, *, spelled: bool) -> torch.device | None:
    """The device that an argument names: an object, or where a string or number can only be one, that."""
    if isinstance(value, torch.device):
        return value
    if spelled and isinstance(value, str):
        return torch.device(value)
    if spelled and type(value) is int:
        return torch.device("cuda", value)
    return None


def _getter(name: str) -> Callable[..., Any]:
    """What a mode is given for an attribute of a tensor that is read."""
    getter: Callable[..., Any] = vars(torch._C.TensorBase)[name].__get__  # noqa: SLF001 - where torch has them
    return getter


_ANSWERS: Final = MappingProxyType(
    {
        _getter("device"): (_CPU, _CUDA),
        _getter("is_cuda"): (False, True),
        _getter("is_cpu"): (True, False),
        Tensor.get_device: (-1, 0),
    }
)
"""What a program may ask of a tensor, and the answers for one on the CPU and one on the GPU."""

_COPIES: Final = MappingProxyType({Tensor.cuda: True, Tensor.cpu: False})
