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
        kept = self._kept.get(mutant.id) or {}
        result = kept.get("result")
        if kept.get("budget") != self._budget or not isinstance(result, dict):
            return None
        return Result(mutant, **result) if result.pop("mutant", None) == asdict(mutant) else None

    def put(self, result: Result) -> None:
        """Keep a result."""
        self._kept.put(result.mutant.id, {"budget": self._budget, "result": asdict(result)})
