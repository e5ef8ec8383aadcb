"""What `indexfuzz mutate` does: examine mutants, report the score, name what survives."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from indexfuzz.mutation.examine import Budget, Result
from indexfuzz.mutation.mutants import Mutant, enumerate_mutants
from indexfuzz.mutation.survivors import equivalent, gaps
from indexfuzz.mutation.workers import run_mutants


@dataclass(frozen=True)
class Report:
    """Results of a run, and what is known about the mutants that survived."""

    results: Sequence[Result]

    @property
    def killed(self) -> list[Result]:
        """Mutants that were found; one that hangs is found by the time it takes."""
        return [result for result in self.results if result.fate in ("killed", "hang")]

    @property
    def survivors(self) -> list[Result]:
        """Mutants that were not found and are not known to be equivalent."""
        return [r for r in self.results if r.fate == "survived" and r.mutant.id not in equivalent()]

    @property
    def wrongly_equivalent(self) -> list[Result]:
        """Mutants that were found although they are listed as equivalent."""
        return [result for result in self.killed if result.mutant.id in equivalent()]

    @property
    def score(self) -> float:
        """Killed mutants as a share of those that are not equivalent."""
        total = len(self.killed) + len(self.survivors)
        return len(self.killed) / total if total else 1.0

    def as_text(self) -> str:
        """Score, counts by operator, and every survivor with its line."""
        counts = Counter(result.mutant.operator for result in self.results)
        killed = Counter(result.mutant.operator for result in self.killed)
        crashes = sum("/crash/" in result.signature or result.signature == "import" for result in self.killed)
        known = sum(result.mutant.id in gaps() for result in self.survivors)
        lines = [f"{name:12} {killed[name]:4} of {counts[name]:4} found" for name in sorted(counts)]
        lines.append(
            f"score {self.score:.1%}: {len(self.killed)} found ({crashes} by a crash), {len(self.survivors)} survived "
            f"({known} of them known gaps), {len(self.results) - len(self.killed) - len(self.survivors)} equivalent"
        )
        for result in self.survivors:
            m = result.mutant
            why = gaps().get(m.id, "not known yet")
            lines.append(f"{m.id}  {m.file}:{m.line}  {m.operator}: {m.old} => {m.new}  (needs: {why})")
        lines += [f"{r.mutant.id} is listed as equivalent, but {r.signature} shows it" for r in self.wrongly_equivalent]
        return "\n".join(lines)

    def as_data(self) -> dict[str, object]:
        """The same for scripts."""
        return {
            "score": self.score,
            "killed": len(self.killed),
            "equivalent": sum(result.mutant.id in equivalent() for result in self.results),
            "survivors": [result.mutant.id for result in self.survivors],
            "results": [asdict(result) for result in self.results],
        }


def chosen(words: Sequence[str]) -> tuple[Mutant, ...]:
    """Mutants whose id, file (gather) or operator is one of the words; all of them without any.

    Raises ValueError for a word that chooses nothing.
    """
    every = enumerate_mutants()
    labels = {m.id: {m.id, m.operator, m.file.removeprefix("kernels/").removesuffix(".py")} for m in every}
    for word in words:
        if not any(word in own for own in labels.values()):
            raise ValueError(f"no mutant, operator or kernel file is called {word!r}")
    return tuple(m for m in every if not words or labels[m.id] & set(words))


def mutate(
    words: Sequence[str] = (),
    *,
    cases: int = 400,
    seconds: float = 40.0,
    seed: int = 0,
    workers: int = 1,
    as_json: bool = False,
) -> int:
    """Examine the chosen mutants and print the report; 1 when one survived that no file lists, or a list is wrong.

    Raises ValueError for a word that chooses no mutant.
    """
    mutants = chosen(words)

    def tell(result: Result) -> None:
        print(f"{result.mutant.id} {result.fate} {result.signature}", file=sys.stderr, flush=True)  # noqa: T201

    report = Report(run_mutants(mutants, Budget(cases, seconds, seed), workers=workers, on_result=tell))
    print(json.dumps(report.as_data(), indent=1) if as_json else report.as_text())  # noqa: T201
    unexplained = [result for result in report.survivors if result.mutant.id not in gaps()]
    return int(bool(unexplained or report.wrongly_equivalent))
