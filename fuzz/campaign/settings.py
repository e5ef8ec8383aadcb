"""What a campaign shall do."""

from dataclasses import dataclass, field

from indexfuzz.core.case import Regime
from indexfuzz.core.presets import Preset
from indexfuzz.core.signature import Signature
from indexfuzz.subjects.subject import Subject


@dataclass(frozen=True)
class Settings:
    """A campaign ends after `seconds` or `cases`, whichever comes first; with neither it runs until interrupted.

    `known` signatures are counted, not reported. `shard` (i, n) with 1 <= i <= n gives each of n workers cases of its
    own; together with `seed` it determines every case.
    """

    subject: Subject
    only: frozenset[str] = frozenset()
    preset: Preset | None = None
    values: tuple[Regime, ...] = ()
    seconds: float | None = None
    cases: int | None = None
    seed: int = 0
    shard: tuple[int, int] = (1, 1)
    known: frozenset[Signature] = frozenset()
    minimise_seconds: float = field(default=20.0)
