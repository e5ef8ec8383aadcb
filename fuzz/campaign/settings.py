"""What a campaign shall do."""

from collections.abc import Callable
from dataclasses import dataclass

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Regime
from indexfuzz.core.presets import Preset
from indexfuzz.core.signature import Signature
from indexfuzz.subjects.subject import Subject


@dataclass(frozen=True)
class Settings:
    """A campaign ends after `seconds` or `cases`, whichever comes first; with neither it runs until interrupted.

    With `first_only` it ends with its first finding. `known` signatures are counted, not reported. `shard` (i, n) with
    1 <= i <= n gives each of n campaigns cases of its own; together with `seed` it determines the stream of cases. A
    case is made smaller for at most `minimise_seconds`. `before_case` hears of every drawn case before it runs.
    `confirm` says whether a case shows a signature in a process that has run nothing else, and None where nobody can
    look; what `elsewhere` says of a case that does, such as what another device makes of it, ends the finding. With
    `steered` off, cases do not depend on what those before them have shown.
    """

    subject: Subject
    only: frozenset[str] = frozenset()
    preset: Preset | None = None
    values: tuple[Regime, ...] = ()
    seconds: float | None = None
    cases: int | None = None
    first_only: bool = False
    seed: int = 0
    shard: tuple[int, int] = (1, 1)
    known: frozenset[Signature] = frozenset()
    minimise_seconds: float = 20.0
    steered: bool = True
    before_case: Callable[[Case], None] = lambda _case: None
    confirm: Callable[[Case, Signature], bool | None] = lambda _case, _signature: None
    elsewhere: Callable[[Case], str] = lambda _case: ""
