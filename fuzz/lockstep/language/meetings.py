"""Where the paths of a kernel meet: what runs may still be nothing that Triton compiles, and Triton is asked.

Lockstep takes the path that the programs take; Triton compiles all of them, and wants one type of each name. A type
that changes, or a name that one path alone assigns, is a doubt. The front end of Triton itself then says whether the
kernel compiles, so that a doubt alone never refuses anything: once for each way to specialise it where a type was seen
to change, once for all sizes where something may be wrong on a path that nobody took.
"""

from dataclasses import dataclass
from typing import Any, Final

from indexfuzz.lockstep.language.flow import Flow, condition_of
from indexfuzz.lockstep.language.paths import Meeting
from indexfuzz.lockstep.language.recording import key_of
from indexfuzz.lockstep.language.translate import Translated
from indexfuzz.lockstep.tracking.ends import Place
from indexfuzz.lockstep.tracking.run import Launch
from indexfuzz.lockstep.tracking.violations import KernelCompilationError, LanguageError, StaticAssertionError
from indexfuzz.lockstep.triton_api.errors import (
    CompilationError,
    CompileTimeAssertionFailure,
    UnsupportedLanguageConstruct,
)
from indexfuzz.lockstep.triton_api.front_end import Refusal, find_refusal
from indexfuzz.lockstep.triton_api.functions import place_of
from indexfuzz.lockstep.triton_api.types import BaseValue, Constexpr, Tensor, Tuple

_KINDS: Final[dict[type[CompilationError], type[KernelCompilationError]]] = {
    UnsupportedLanguageConstruct: LanguageError,
    CompileTimeAssertionFailure: StaticAssertionError,
}
"""What a launch ends with for an error of Triton's, where it has a kind of its own."""


_LARGEST_CHOICE: Final = 3


@dataclass(frozen=True, slots=True)
class Fork:
    """A branch on a value that only the launch knows: which way it went, and the types of some names before it."""

    taken: bool
    types: tuple[Any, ...]

    def __bool__(self) -> bool:
        """Which way it went."""
        return self.taken


class Meetings(Flow):
    """What is asked of types where paths meet; translated functions come from the runtime."""

    translated: dict[int, Translated]
    verdicts: dict[Any, Refusal | None]
    alike: set[Any]

    def fork(self, test: Any, place: Place | None, *values: Any) -> bool | Fork:
        """Decide an `if` before which names have these values; a bool where it is known while compiling."""
        taken = self.branch(test, place)
        return Fork(taken, types_of(*values)) if isinstance(condition_of(test), Tensor) else taken

    def join(self, fork: Any, meeting: Meeting, *values: Any) -> None:
        """Look at the names of a meeting behind an `if`, which `fork` has decided."""
        if type(fork) is not Fork:
            return
        types = types_of(*values)
        ways = self.builder.run.launch.joined.setdefault(meeting, {})
        ways[fork.taken] = types
        same = types[: len(meeting.before)] == fork.types and types == ways.get(not fork.taken, types)
        if not same:
            self.ask(self.builder.run.launch)
        elif meeting.partial:
            self.doubt()

    def carry(self, before: tuple[Any, ...], *values: Any) -> None:
        """Look at names at the end of a loop's round, which had these types before the loop."""
        if types_of(*values) != before:
            self.ask(self.builder.run.launch)

    def settle(self, launch: Launch) -> None:
        """Behind a launch: ask about branches that went one way in all programs, so that nobody saw the other types.

        So it is with loops that no program entered; those of the library, which have no place, are right.
        """
        if any(len(ways) == 1 for ways in launch.joined.values()) or launch.idle - launch.entered - {None}:
            self._doubt(launch)

    def doubt(self) -> None:
        """Ask about the launch that goes on, unless Triton compiles the kernel for other sizes."""
        self._doubt(self.builder.run.launch)

    def doubt_function(self, function: object, *arguments: Any) -> None:
        """Ask about the launch that goes on, unless Triton compiles the function that it calls for such arguments."""
        key = function, *map(_likeness, arguments)
        if key not in self.alike:
            self.ask(self.builder.run.launch)
            self.alike.add(key)

    def _doubt(self, launch: Launch) -> None:
        if launch.is_compiled or launch.is_alike:
            return
        key = id(launch.kernel), *map(_likeness, launch.values)
        if key not in self.alike:
            self.ask(launch)
            self.alike.add(key)
        launch.is_alike = True

    def ask(self, launch: Launch) -> None:
        """Ask Triton whether it compiles the kernel as it is launched; KernelCompilationError where it does not."""
        if launch.is_compiled:
            return
        key = id(launch.kernel), *map(_specialisation, launch.values)
        if key not in self.verdicts:
            try:
                self.verdicts[key] = find_refusal(launch.kernel, launch.values, launch.num_warps)
            except LookupError:
                self.verdicts[key] = None
        refusal = self.verdicts[key]
        if refusal is not None:
            kind = _KINDS.get(refusal.kind, KernelCompilationError)
            raise kind(f"{self._place(refusal, launch)}: in {launch.name}: {refusal.words}")
        launch.is_compiled = True

    def _place(self, refusal: Refusal, launch: Launch) -> str:
        """file:line of what Triton refuses."""
        file, first = place_of(launch.kernel)
        for function in (launch.kernel, *(code.function for code in self.translated.values())):
            if function.src == refusal.source:
                file, first = place_of(function)
                return f"{file}:{first + refusal.line - 1}"
        return f"{file}:{first}"


def types_of(*values: Any) -> tuple[Any, ...]:
    """The types of values, as far as Triton wants them to be the same wherever paths meet."""
    return tuple([value.type if type(value) is Tensor else _type_of(value) for value in values])


def _type_of(value: Any) -> Any:
    if isinstance(value, Tuple):
        return tuple(_type_of(part) for part in value)
    if isinstance(value, BaseValue) and not isinstance(value, Constexpr):
        return getattr(value, "type", type(value))
    return type(value)


def _likeness(value: Any) -> Any:
    """An argument as far as the types of a kernel may depend on it: not on sizes, only on small numbers that choose."""
    known = value.value if isinstance(value, Constexpr) else None
    is_size = type(known) is float or (type(known) is int and abs(known) > _LARGEST_CHOICE)
    return type(known) if is_size else _specialisation(value)


def _specialisation(value: Any) -> Any:
    """An argument as far as a compiled kernel depends on it."""
    return value.value if isinstance(value, Constexpr) and key_of(value) is None else key_of(value) or types_of(value)
