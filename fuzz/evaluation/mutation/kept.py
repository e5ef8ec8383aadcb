"""What became of mutants, kept from run to run."""

from dataclasses import asdict
from pathlib import Path

from indexfuzz.evaluation.kept import Kept
from indexfuzz.evaluation.mutation.examine import Budget, Result
from indexfuzz.evaluation.mutation.mutants import Mutant


class KeptResults:
    """Results in a folder; what was found with another budget or for another text of the line does not count."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        self._kept = Kept(folder)
        self._budget = asdict(budget)

    def get(self, mutant: Mutant) -> Result | None:
        """What became of a mutant with this budget, if that is known."""
        match self._kept.get(mutant.id):
            case {"budget": budget, "result": {"mutant": of, **rest}} if budget == self._budget and of == asdict(
                mutant
            ):
                return Result(mutant, **rest)
        return None

    def put(self, result: Result) -> None:
        """Keep a result."""
        self._kept.put(result.mutant.id, {"budget": self._budget, "result": asdict(result)})
