"""What Triton compiles of a launch: a kernel with the types, the constants and the alignments of its arguments."""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from triton import knobs
from triton.compiler import ASTSource
from triton.compiler import compile as compile_source

from indexfuzz.compiling.targets import Target
from indexfuzz.lockstep.triton_api.specialisation import specialise_arguments


@dataclass(frozen=True)
class Specialisation:
    """A kernel for a target: Triton's types by argument, constants and attributes by their paths, options by name."""

    target: Target
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[tuple[int, ...], Any]
    attributes: Mapping[tuple[int, ...], Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """Equal where Triton compiles only once; of arguments, that is all which it looks at."""
        parts = (self.types, self.constants, self.attributes, self.options)
        return (id(self.kernel), *(tuple(sorted((str(k), str(v)) for k, v in part.items())) for part in parts))

    @property
    def named_constants(self) -> dict[str, Any]:
        """The constants by the names of their arguments."""
        names = list(self.types)
        return {names[path[0]]: value for path, value in self.constants.items()}


def specialise(kernel: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], target: Target) -> Specialisation:
    """As Triton binds the arguments of a launch on that target.

    Raises what Triton does for arguments that do not fit the kernel, or options that the target does not have.
    """
    made = specialise_arguments(kernel, args, kwargs, target.gpu)
    return Specialisation(target, kernel, made.types, made.constants, made.attributes, made.options.__dict__)


@dataclass(frozen=True)
class Compiled:
    """What Triton made of a specialisation: its intermediate form, assembly, what the assembler said, shared bytes."""

    ttir: str
    text: str
    log: str
    shared: int


def compile_for_target(specialisation: Specialisation, *, assemble: bool = True) -> Compiled:
    """Compile, afresh and into no cache of anybody's; without `assemble`, NVIDIA's assembler is left out.

    Raises whatever Triton does where a kernel does not compile.
    """
    target, said = specialisation.target, io.StringIO()
    source = ASTSource(
        specialisation.kernel,
        signature=dict(specialisation.types),
        constexprs=dict(specialisation.constants),
        attrs=dict(specialisation.attributes),
    )
    with _private_cache(), _assembling(assemble), contextlib.redirect_stdout(said):
        made = compile_source(source, target=target.gpu, options=dict(specialisation.options))
    return Compiled(made.asm["ttir"], made.asm[target.text], said.getvalue(), made.metadata.shared)


@contextmanager
def _private_cache() -> Iterator[None]:
    """A folder of its own: a cache answers without the assembler's log, and half a kernel belongs into none."""
    with tempfile.TemporaryDirectory(prefix="indexfuzz-") as folder, knobs.cache.scope(), knobs.nvidia.scope():
        knobs.cache.dir = folder
        knobs.nvidia.dump_ptxas_log = True
        yield


@contextmanager
def _assembling(wanted: bool) -> Iterator[None]:  # noqa: FBT001
    """Leave out the last step for NVIDIA, ptxas, which takes as long as all others."""

    def leave_out(_backend: Any = None, stages: Any = None, *_: Any) -> tuple[str, str]:
        if stages and "cubin" in stages:
            stages["cubin"] = lambda _source, _metadata: b""
        return "", ""

    before = knobs.runtime.add_stages_inspection_hook
    if not wanted:
        knobs.runtime.add_stages_inspection_hook = leave_out
    try:
        yield
    finally:
        knobs.runtime.add_stages_inspection_hook = before
