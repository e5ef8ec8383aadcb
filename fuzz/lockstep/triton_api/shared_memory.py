"""How much shared memory a program takes, as Triton's compiler allocates it for an H100; it needs no GPU."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any, Final

from triton._C.libtriton import ir
from triton.compiler import ASTSource

from indexfuzz.lockstep.triton_api.driver import H100, stand_in_driver
from indexfuzz.lockstep.triton_api.front_end import TARGET
from indexfuzz.lockstep.triton_api.specialisation import Specialised, specialise_arguments

LIMIT: Final = H100["max_shared_mem"]
"""Bytes that a program can have."""

_STAGES: Final = ("ttir", "ttgir", "llir")
"""What Triton's compiler makes of a kernel, until shared memory is allocated."""


def explain_shared_memory(kernel: Any, kwargs: Mapping[str, Any]) -> tuple[int, str] | None:
    """What is wrong with a launch that takes more than there is: how many bytes, and the arguments that make it grow.

    kwargs has all arguments and options by name. None where it takes no more, or where Triton compiles no such launch
    for an H100, which says nothing about shared memory.
    """
    needed = _shared_bytes(kernel, kwargs)
    if needed is None or needed <= LIMIT:
        return None
    passed = {p.name for p in kernel.params if not p.is_constexpr}
    grows = []
    for name, value in kwargs.items():
        if name not in passed and type(value) is int and value > 1:
            less = _shared_bytes(kernel, {**kwargs, name: value // 2})
            grows += [f"{name}={value}"] if less is not None and less < needed else []
    why = f", which grows with {' and '.join(grows)}" if grows else ""
    return needed, f"{needed} bytes of shared memory a program{why}; an H100 has {LIMIT}"


_KNOWN: Final[dict[Any, int | None]] = {}


def _shared_bytes(kernel: Any, kwargs: Mapping[str, Any]) -> int | None:
    try:
        made = specialise_arguments(kernel, (), kwargs, TARGET)
    except Exception:  # noqa: BLE001 - Triton compiles no such launch, for a reason that is not asked about here
        return None
    key = id(kernel), *map(str, (made.options, made.types, made.constants, made.attributes))
    if key not in _KNOWN:
        _KNOWN[key] = _compile(kernel, made)
    return _KNOWN[key]


def _compile(kernel: Any, made: Specialised) -> int | None:
    backend, options = made.backend, made.options
    source = ASTSource(kernel, made.types, made.constants, made.attributes)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    metadata: dict[str, Any] = {"target": TARGET, **options.__dict__}
    try:
        with stand_in_driver(), redirect_stdout(StringIO()):
            functions = backend.get_codegen_implementation(options)
            module = source.make_ir(TARGET, options, functions, backend.get_module_map(), context)
            for stage in _STAGES:
                module = stages[stage](module, metadata)
    except Exception:  # noqa: BLE001 - as above
        return None
    return int(metadata["shared"])
