"""An implementation for the tests: its process dies once, at the moment and of the signal that a file orders."""

import os
from pathlib import Path

from indexfuzz.core.contract import Unlimited
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference import gather as reference
from indexfuzz.subjects.isolation import worker

ORDER = Path(os.environ["INDEXFUZZ_ORDER"])


def obey(moment):
    """Carry out an order for this moment, once."""
    try:
        wanted, signal = ORDER.read_text().split()
    except FileNotFoundError:
        return
    if wanted == moment:
        ORDER.unlink()
        os.kill(os.getpid(), int(signal))


class Contract(Unlimited):
    def outside(self, stage, case):
        obey("contract")
        return super().outside(stage, case)


def gather(**given):
    reference.gather(**given)
    obey("stage")


def answer(outcome, plain=worker.from_outcome):
    obey("answer")
    return plain(outcome)


worker.from_outcome = answer
implementation = Implementation("struck", {"gather": gather}, Contract())
