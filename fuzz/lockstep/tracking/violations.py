"""What the executor reports: violations of a launch, and features that it does not have."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from indexfuzz.lockstep.triton_api.errors import (
    CompilationError,
    CompileTimeAssertionFailure,
    OutOfResources,
    TritonError,
    UnsupportedLanguageConstruct,
)

KINDS: Final = ("out-of-bounds", "misaligned", "race", "overflow", "uninitialised", "promise", "order")


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that a kernel must not do, where it did it first.

    program is the program id (x, y, z), lane the index into the accessed block, () for a scalar; byte_offset counts
    from the first byte of the argument's tensor, which lies at address while it lives. Where one of them makes no sense
    it is None.
    """

    kind: str
    kernel: str
    file: str
    line: int
    argument: str | None
    program: tuple[int, int, int] | None
    lane: tuple[int, ...] | None
    byte_offset: int | None
    message: str
    address: int | None = field(default=None, compare=False, repr=False)

    def as_data(self) -> dict[str, Any]:
        """The violation as plain JSON data: what is the same in every run."""
        data = asdict(self)
        del data["address"]
        return data

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Violation":
        """A violation from such data."""
        program, lane = (None if data[name] is None else tuple(data[name]) for name in ("program", "lane"))
        return cls(**{**data, "program": program, "lane": lane})

    @property
    def detail(self) -> str:
        """The message, and which program and lane did it to which byte."""
        places = [f"program {self.program}"] if self.program is not None else []
        if self.lane:
            places.append(f"lane {self.lane}")
        if self.byte_offset is not None and f"byte {self.byte_offset} " not in self.message:
            places.append(f"byte {self.byte_offset}")
        return f"{self.message} [{', '.join(places)}]" if places else self.message

    def __str__(self) -> str:
        """The violation as one line, file and line first."""
        return f"{self.file}:{self.line}: {self.kind} in {self.kernel}: {self.detail}"


class UnsupportedFeature(Exception):  # noqa: N818
    """A kernel uses something that the executor does not have; the message names it and the kernel's file and line."""


class KernelError(TritonError):  # type: ignore[misc]
    """A kernel is wrong in a way that stops it: a failed assertion, a type error; the message names file and line."""


class KernelCompilationError(KernelError, CompilationError):  # type: ignore[misc]
    """What Triton finds while it compiles; to be caught as its CompilationError, the message names file and line."""

    def __init__(self, message: str) -> None:
        super().__init__(None, None, message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """How to make it again in another process."""
        return type(self), (self.message,)


class StaticAssertionError(KernelCompilationError, CompileTimeAssertionFailure):  # type: ignore[misc]
    """A tl.static_assert that does not hold."""


class LanguageError(KernelCompilationError, UnsupportedLanguageConstruct):  # type: ignore[misc]
    """Python that is no part of Triton's language."""


class OutOfSharedMemoryError(KernelError, OutOfResources):  # type: ignore[misc]
    """A program needs more shared memory than there is; the message names file, line and what makes it grow."""

    def __init__(self, message: str, required: int, limit: int) -> None:
        super().__init__(required, limit, "shared memory")
        self.message = message

    def __str__(self) -> str:
        """The message, not Triton's."""
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """How to make it again in another process."""
        return type(self), (self.message, self.required, self.limit)


class LockstepError(Exception):
    """The executor itself is wrong, not the kernel; the message names the kernel's file and line that showed it."""
