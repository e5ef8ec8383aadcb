"""Compile a specialisation and say whether what it became may be so."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from triton.compiler.errors import CompilationError

from indexfuzz.compiling.dots import Dot, read_dots
from indexfuzz.compiling.machine_code import MachineCode, read_machine_code
from indexfuzz.compiling.specialisation import Specialisation, compile_for_target
from indexfuzz.compiling.targets import Target
from indexfuzz.lockstep.triton_api.functions import location_of

Verdict = Literal["right", "wrong", "unsupported"]

NO_MISTAKE = re.compile(r"type \w+ not supported in this architecture|<stand-in for [\w.]+>")
"""What Triton says of a kernel in a format that a target has not, or of one that refers to an import which got a
stand-in, as it looks at branches, too, that are never taken. Neither is a mistake of the kernel."""


@dataclass(frozen=True)
class Wanted:
    """A specialisation to compile, the operation that launches it, and whether it may make FP8 wider before a dot."""

    specialisation: Specialisation
    stage: str
    may_widen: bool = False


@dataclass(frozen=True)
class Examined:
    """One kernel in one specialisation on one target.

    `place` is file:line of the kernel, `constants` its compile-time arguments as text. `verdict` is "wrong" where
    `sentence` is a finding, "unsupported" where it cannot be compiled and is not to blame. `code` is None where it did
    not compile.
    """

    target: str
    stage: str
    kernel: str
    place: str
    constants: dict[str, str]
    verdict: Verdict = "right"
    sentence: str = ""
    code: MachineCode | None = None


def examine(wanted: Wanted, *, assemble: bool = True) -> Examined:
    """Compile for the target and judge what came of it; without `assemble`, NVIDIA's assembler is left out."""
    examined, target = unexamined(wanted), wanted.specialisation.target
    try:
        compiled = compile_for_target(wanted.specialisation, assemble=assemble)
    except Exception as error:  # noqa: BLE001 - a compiler raises anything
        return refused(examined, *_explain(error, wanted.specialisation.kernel))
    code = read_machine_code(target.text, compiled)
    wrong = next(_complaints(code, read_dots(compiled.ttir), target, may_widen=wanted.may_widen), "")
    return replace(examined, code=code, verdict="wrong" if wrong else "right", sentence=wrong)


def unexamined(wanted: Wanted) -> Examined:
    """What is known before it is compiled."""
    made = wanted.specialisation
    constants = {name: _short(value) for name, value in made.named_constants.items()}
    return Examined(made.target.name, wanted.stage, made.kernel.fn.__name__, location_of(made.kernel), constants)


def refused(examined: Examined, message: str, where: str = "") -> Examined:
    """The same of a kernel that did not compile, with the compiler's message and the line that it is about."""
    if lacking := NO_MISTAKE.search(message):
        return replace(examined, verdict="unsupported", sentence=lacking[0])
    return replace(examined, verdict="wrong", sentence=f"does not compile: {where}{message}")


def _complaints(code: MachineCode, dots: list[Dot], target: Target, *, may_widen: bool) -> Iterator[str]:
    """What a kernel must not have become, a sentence each."""
    if code.shared > target.shared:
        yield f"needs {code.shared} bytes of shared memory, a program on {target.name} can have {target.shared}"
    if may_widen or not target.multiplies_fp8:
        return
    for dot in dots:
        if dot.is_widened:
            yield f"{dot.place}: FP8 is made {' and '.join(dict.fromkeys(dot.operands))} before tl.dot"
    fp8 = [dot for dot in dots if dot.is_fp8]
    wide = code.wide_matrices or (() if code.matrices else ("operations without a matrix instruction",))
    # Where other dots are meant to be wide, a wide instruction may be theirs as long as there is one for FP8 besides.
    if fp8 and wide and (len(fp8) == len(dots) or code.wide_matrices == code.matrices):
        yield f"{fp8[0].place}: tl.dot of {' and '.join(fp8[0].operands)} became {wide[0]}, which takes no FP8"


def _explain(error: Exception, kernel: Any) -> tuple[str, str]:
    """The compiler's message, and the line that it is about."""
    innermost: BaseException = error
    while isinstance(innermost.__cause__, CompilationError):
        innermost = innermost.__cause__
    where = _line_of(innermost, kernel) if isinstance(innermost, CompilationError) else ""
    said = innermost.error_message or innermost.__cause__ if isinstance(innermost, CompilationError) else error
    return " ".join(str(said or "").split()) or type(innermost).__name__, where


def _line_of(error: CompilationError, kernel: Any) -> str:
    """file:line of what an error is about where its function stands in the kernel's file, and the text of the line."""
    number = getattr(error.node, "lineno", None)
    if not error.src or number is None:
        return ""
    file = kernel.fn.__code__.co_filename
    text = error.src.splitlines()[number - 1].strip()
    before, found, _ = Path(file).read_text(encoding="utf-8").partition(error.src.rstrip())
    return f"{file}:{before.count(chr(10)) + number}: {text}: " if found else f"{text}: "


def _short(value: Any) -> str:
    """A constant of a kernel, which may be a function or a type."""
    return getattr(value, "__name__", None) or str(value)
