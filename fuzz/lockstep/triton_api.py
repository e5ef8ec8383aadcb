"""The one module that touches Triton's internals; the rest of the executor goes through the names here.

Kernels keep Triton's own typing, broadcasting and promotion: its TritonSemantic runs unchanged over our builder, apart
from the few methods that would build regions of IR or throw away what a checker needs.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any, Final

import torch
from triton import knobs, language
from triton.compiler.code_generator import CodeGenerator
from triton.language import core
from triton.language.semantic import TritonSemantic
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import ConstexprFunction, JITCallable, JITFunction, type_canonicalisation_dict
from triton.tools.tensor_descriptor import TensorDescriptor

Tensor = core.tensor
Constexpr = core.constexpr
Tuple = core.tuple
Dtype = core.dtype
Slice = core.slice
INT1: Final = core.int1
BaseValue = core.base_value

unwrap: Final[Callable[[Any], Any]] = core._unwrap_if_constexpr  # noqa: SLF001
is_builtin: Final[Callable[[Any], bool]] = core.is_builtin

RETURNS_CONSTEXPR: Final = hasattr(CodeGenerator, "decide_return_type")
"""Newer releases keep a constexpr that a function returns; older ones make a tensor of it."""

BUILTIN_NAMES: Final[MappingProxyType[str, Any]] = MappingProxyType(CodeGenerator.builtin_namespace)
STATIC_ASSERT: Final = core.static_assert
STATIC_PRINT: Final = core.static_print
MAP_ELEMENTWISE: Final = core.map_elementwise
DEVICE_ASSERT: Final = core.device_assert
STATIC_RANGE: Final = language.static_range
RANGE: Final = language.range

OPTIONS: Final = SimpleNamespace(
    debug=True,
    sanitize_overflow=False,
    enable_iisan=False,
    arch="lockstep",
    supported_fp8_dtypes=("fp8e4nv", "fp8e4b8", "fp8e4b15", "fp8e5", "fp8e5b16"),
    deprecated_fp8_dot_operand_dtypes=(),
    allowed_dot_input_precisions=("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6"),
    default_dot_input_precision="ieee",
    max_num_imprecise_acc_default=1 << 30,
)

_TORCH_NAMES: Final = MappingProxyType(
    {
        torch.bool: "int1",
        torch.uint8: "uint8",
        torch.uint16: "uint16",
        torch.uint32: "uint32",
        torch.uint64: "uint64",
        torch.int8: "int8",
        torch.int16: "int16",
        torch.int32: "int32",
        torch.int64: "int64",
        torch.float16: "fp16",
        torch.bfloat16: "bf16",
        torch.float32: "fp32",
        torch.float64: "fp64",
        torch.float8_e4m3fn: "fp8e4nv",
        torch.float8_e4m3fnuz: "fp8e4b8",
        torch.float8_e5m2: "fp8e5",
        torch.float8_e5m2fnuz: "fp8e5b16",
    }
)

_ANNOTATED: Final = MappingProxyType(
    {"i1": "int1", "u1": "int1"}
    | {f"i{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
    | {f"u{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
    | {name: name for name in ("fp16", "bf16", "fp32", "fp64")}
)

_TYPES: Final[dict[str, Any]] = {}
INTERNED: Final[dict[int, Any]] = {}
"""The one object of each type that has been seen, by its identity."""

_FACTS: Final[dict[int, tuple[Any, Any, Any]]] = {}
_new: Final = object.__new__


def interned_type(ty: Any) -> Any:
    """One object for each type, which lives as long as the process, so that its identity stands for it."""
    if INTERNED.get(id(ty)) is ty:
        return ty
    space = getattr(ty.scalar, "address_space", "")
    found = _TYPES.setdefault(f"{ty.name}@{space}", ty)
    INTERNED[id(found)] = found
    return found


def fast_tensor(handle: Any, ty: Any) -> Any:
    """A tensor of an interned type, with the facts about its shape looked up instead of made."""
    facts = _FACTS.get(id(ty))
    made = _new(Tensor)
    if facts is None:
        made.__init__(handle, ty)
        _FACTS[id(ty)] = made.shape, made.numel, made.dtype
        return made
    made.handle = handle
    made.type = ty
    made.shape, made.numel, made.dtype = facts
    return made


class LockstepSemantic(TritonSemantic):  # type: ignore[misc]
    """Triton's typing rules over the executor's builder."""

    def add(self, input: Any, other: Any, sanitize_overflow: bool) -> Any:  # noqa: A002, FBT001
        """Addition that tells the builder how the operands read."""
        with self._signs(input, other):
            return super().add(input, other, sanitize_overflow)

    def sub(self, input: Any, other: Any, sanitize_overflow: bool) -> Any:  # noqa: A002, FBT001
        """Subtraction that tells the builder how the operands read."""
        with self._signs(input, other):
            return super().sub(input, other, sanitize_overflow)

    def mul(self, input: Any, other: Any, sanitize_overflow: bool) -> Any:  # noqa: A002, FBT001
        """Multiplication that tells the builder how the operands read."""
        with self._signs(input, other):
            return super().mul(input, other, sanitize_overflow)

    @contextmanager
    def _signs(self, a: Any, b: Any) -> Iterator[None]:
        if not _is_unsigned(a) and not _is_unsigned(b):
            yield
            return
        self.builder.read_unsigned(True)  # noqa: FBT003
        try:
            yield
        finally:
            self.builder.read_unsigned(False)  # noqa: FBT003

    def reduction(
        self, inputs: Sequence[Any], axis: int | None, region_builder_fn: Callable[..., Any]
    ) -> tuple[Any, ...]:
        """Reduce with the combine function itself instead of a region built from it."""
        if axis is None:
            inputs = tuple(self.reshape(t, [t.numel.value], can_reorder=True) for t in inputs)
            axis = 0
        shape = [int(unwrap(s)) for s in inputs[0].shape]
        combine = inspect.getclosurevars(region_builder_fn).nonlocals["combine_fn"]
        handles = self.builder.reduce(inputs, axis, combine)
        rest = [s for i, s in enumerate(shape) if i != axis]
        return tuple(self.wrap_tensor(h, t.type.scalar, rest) for h, t in zip(handles, inputs, strict=True))

    def associative_scan(
        self, inputs: Sequence[Any], axis: int, region_builder_fn: Callable[..., Any], reverse: Any
    ) -> tuple[Any, ...]:
        """Scan with the combine function itself instead of a region built from it."""
        shape = [int(unwrap(s)) for s in inputs[0].shape]
        combine = inspect.getclosurevars(region_builder_fn).nonlocals["combine_fn"]
        handles = self.builder.scan(inputs, axis % len(shape), combine, reverse=bool(unwrap(reverse)))
        return tuple(self.wrap_tensor(h, t.type.scalar, shape) for h, t in zip(handles, inputs, strict=True))

    def multiple_of(self, x: Any, values: list[int]) -> Any:
        """Check the promise instead of believing it."""
        self.builder.promise("multiple_of", x.handle, values)
        return x

    def max_contiguous(self, x: Any, values: list[int]) -> Any:
        """Check the promise instead of believing it."""
        self.builder.promise("max_contiguous", x.handle, values)
        return x

    def max_constancy(self, x: Any, values: list[int]) -> Any:
        """Check the promise instead of believing it."""
        self.builder.promise("max_constancy", x.handle, values)
        return x


def _is_unsigned(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype.is_int_unsigned()


def dtype_of(tensor_dtype: Any) -> Any:
    """Triton's name for a torch (or Triton) element type; ValueError where it has none."""
    if isinstance(tensor_dtype, Dtype):
        return tensor_dtype
    name = _TORCH_NAMES.get(tensor_dtype)
    if name is None:
        raise ValueError(f"Triton has no element type for {tensor_dtype}")
    return Dtype(name)


def annotated_dtype(annotation: str) -> Any | None:
    """The scalar type that a parameter's annotation asks for, None where it asks for none."""
    name = _ANNOTATED.get(annotation)
    return None if name is None else Dtype(name)


def pointer_dtype(element: Any, *, const: bool) -> Any:
    """The type of a pointer argument."""
    return core.pointer_type(element, const=const)


def parse(function: Any) -> tuple[ast.FunctionDef, str, int]:
    """A jit function's syntax tree, file, and the file's line of its first."""
    tree = function.parse()
    raw: list[str] = function.raw_src
    start = function.starting_line_number
    skipped = next(i for i, line in enumerate(raw) if re.match(r"\s*def\s", line))
    return tree.body[0], function.fn.__code__.co_filename, start + skipped


def scope(function: Any) -> dict[str, Any]:
    """What the free names of a jit function mean."""
    found: dict[str, Any] = function.get_capture_scope()
    return found


def place_of(function: Any) -> str:
    """file:line of a jit function's definition."""
    _, file, line = parse(function)
    return f"{file}:{line}"


def looked_up(function: Any, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What some free names mean now; one that means nothing any more is left out."""
    inner = function.fn
    cells = dict(zip(inner.__code__.co_freevars, inner.__closure__ or (), strict=True))
    for name in names:
        if name in cells:
            yield name, cells[name].cell_contents
        elif name in inner.__globals__:
            yield name, inner.__globals__[name]


def is_visible(name: str, value: Any) -> bool:
    """Whether a kernel may read this global: Triton's own rule."""
    return (
        name in BUILTIN_NAMES
        or value is None
        or isinstance(value, ModuleType | JITCallable | Constexpr | Dtype)
        or getattr(value, "__triton_builtin__", False)
        or getattr(value, "__triton_aggregate__", False)
        or str(getattr(value, "__module__", "")).startswith("triton.language")
        or (isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"))
        or bool(knobs.compilation.allow_non_constexpr_globals)
    )


def is_jit(value: Any) -> bool:
    """Whether a value is a function under @triton.jit."""
    return isinstance(value, JITFunction)


def is_constexpr_function(value: Any) -> bool:
    """Whether a value is a function under @triton.constexpr_function."""
    return isinstance(value, ConstexprFunction)


def is_host_descriptor(value: Any) -> bool:
    """Whether an argument is a tensor descriptor that the launcher made."""
    return isinstance(value, TensorDescriptor)


def is_language_source(module: str) -> bool:
    """Whether a function of this module belongs to Triton's library instead of a kernel's author."""
    return module == "triton.language" or module.startswith("triton.language.")


def annotation_types() -> set[str]:
    """Annotations that name a type."""
    return set(type_canonicalisation_dict.values())


def first_config(tuner: Any, kwargs: dict[str, Any]) -> Any:
    """The first configuration that the tuner's own early pruning keeps."""
    if tuner.early_config_prune:
        return tuner.early_config_prune(tuner.configs, tuner.nargs, **kwargs)[0]
    return tuner.configs[0]


@contextmanager
def routed(run: Callable[..., Any]) -> Iterator[None]:
    """Send every launch of every jit function to `run(kernel, grid, args, kwargs)`, and let tuners not measure."""

    def run_kernel(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
        if warmup:
            return None
        for hook in self.pre_run_hooks:
            hook(*args, **kwargs)
        return run(self, grid, args, kwargs)

    def run_tuner(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        config = first_config(self, kwargs)
        self.best_config = config
        if config.pre_hook is not None:
            config.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()})
        result = self.fn.run(*args, **kwargs, **config.all_kwargs())
        self.nargs = None
        return result

    saved = JITFunction.run, Autotuner.run
    JITFunction.run, Autotuner.run = run_kernel, run_tuner
    try:
        yield
    finally:
        JITFunction.run, Autotuner.run = saved
