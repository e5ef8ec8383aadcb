"""What became of mutants, kept from run to run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from indexfuzz.evaluation.kept import Kept
from indexfuzz.evaluation.mutation.examine import Budget, Result
from indexfuzz.evaluation.mutation.guarded import Recipe
from indexfuzz.evaluation.mutation.hunt import Budget as HuntBudget
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


class KeptHunts:
    """Hunts in a folder, each as plain data; those of another seed, other words or another budget do not count."""

    def __init__(self, folder: Path, recipe: Recipe, budget: HuntBudget) -> None:
        self._kept = Kept(folder)
        self._about = json.loads(json.dumps({"recipe": asdict(recipe), "budget": asdict(budget)}))

    def get(self, number: int, drawing: str) -> dict[str, Any] | None:
        """How the hunt of a mutant with the cases of a drawing has ended, if that is known."""
        kept = self._kept.get(f"guarded-{number}-{drawing}") or {}
        hunt = kept.get("hunt")
        return hunt if kept.get("about") == self._about and isinstance(hunt, dict) else None

    def put(self, hunt: dict[str, Any]) -> None:
        """Keep how one has ended."""
        self._kept.put(f"guarded-{hunt['number']}-{hunt['drawing']}", {"about": self._about, "hunt": hunt})
