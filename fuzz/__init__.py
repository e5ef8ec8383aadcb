"""IndexFuzz: a differential fuzzer for the FP8 kernels of sparse-attention indexers.

What a user needs is offered here: `from indexfuzz import Implementation, cases, check, target`. Names are imported on
first use, so that the command line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexfuzz.core.case import Case
    from indexfuzz.core.contract import Clause, Clauses
    from indexfuzz.core.guarantees import Promises
    from indexfuzz.generation.strategies import cases
    from indexfuzz.implementations.base import Implementation
    from indexfuzz.implementations.callers import as_callers_do
    from indexfuzz.lockstep import Lockstep
    from indexfuzz.subjects.open import open_subject
    from indexfuzz.testing.target import check, target

__version__ = "0.1.0"

__all__ = [
    "Case",
    "Clause",
    "Clauses",
    "Implementation",
    "Lockstep",
    "Promises",
    "as_callers_do",
    "cases",
    "check",
    "open_subject",
    "target",
]

_HOMES = {
    "Case": "core.case",
    "Clause": "core.contract",
    "Clauses": "core.contract",
    "Implementation": "implementations.base",
    "Lockstep": "lockstep",
    "Promises": "core.guarantees",
    "as_callers_do": "implementations.callers",
    "cases": "generation.strategies",
    "check": "testing.target",
    "open_subject": "subjects.open",
    "target": "testing.target",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"indexfuzz.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
