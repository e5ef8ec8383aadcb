"""What pytest was asked to test. The plugin sets it; fuzz targets read it, by a function instead of a fixture."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """The --fuzz options. `corpus` is where known findings are, `findings` where new ones are written."""

    implementation: str = "builtin"
    device: str = "lockstep"
    faults: tuple[str, ...] = ()
    beyond_contract: bool = False
    isolate: bool | None = None
    shard: tuple[int, int] = (1, 1)
    seconds: float | None = None
    corpus: Path = Path("corpus")
    findings: Path = Path("findings")


_present = Options()


def present() -> Options:
    """The options of this pytest session, or the defaults outside of one."""
    return _present


def choose(options: Options) -> None:
    """Make these the options of everything that runs from now on."""
    global _present  # noqa: PLW0603 - one session, one choice
    _present = options


def parse_shard(text: str) -> tuple[int, int]:
    """I/N as two numbers, 1 <= I <= N.

    Raises ValueError.
    """
    index, slash, of = text.partition("/")
    if not (slash and index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of)):
        raise ValueError(f"{text!r} must be I/N with 1 <= I <= N, such as 1/4")
    return int(index), int(of)
