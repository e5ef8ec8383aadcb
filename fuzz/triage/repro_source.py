"""How a standalone script gets at the kernel that it calls."""

from indexfuzz.core.case import Case
from indexfuzz.implementations.base import ImplementationError, KernelSource
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest


def kernel_source(target: UnderTest[InProcess], stage: str, case: Case) -> KernelSource:
    """Lines of Python that define `kernel`, the stage function of what is under test.

    Where it cannot be called alone, they take it from its adapter. Raises ImplementationError when there is no such
    stage.
    """
    name, faults = target.subject.facts.name, target.setup.faults
    function = target.subject.implementation.stages.get(stage)
    if function is None:
        raise ImplementationError(f"{name} has no stage {stage}")
    if faults:
        return KernelSource(
            f"from indexfuzz.implementations.faults import plant\n\nkernel = plant({faults!r}).stages[{stage!r}]\n",
            "indexfuzz",
        )
    implementation = target.subject.implementation
    if implementation.source_of and (own := implementation.source_of(stage, case)):
        return own
    module, word = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not module or not word.isidentifier():
        spec = target.setup.spec
        code = f"from indexfuzz.implementations import load\n\nkernel = load({spec!r}).stages[{stage!r}]\n"
        return KernelSource(code, f"indexfuzz, whose adapter calls {name}")
    return KernelSource(f"from {module} import {word} as kernel\n", module.partition(".")[0])
