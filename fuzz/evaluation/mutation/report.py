"""What a run over mutants showed: the score, the count of each operator, and every survivor."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from indexfuzz.evaluation.mutation.examine import Result
from indexfuzz.evaluation.mutation.mutants import Mutant
from indexfuzz.evaluation.mutation.survivors import equivalent, gaps

HEAD = """# Mutation score

Made by `indexfuzz mutate --markdown FILE`; do not edit. A mutant is one small mistake in one line of the built-in
kernels or of `kernels/indexer.py`, made by an operator that knows nothing of what the line means. It is found when a
case that the generator draws shows a finding, and the kernels proper pass the very same case. A mutant that survives
is either equivalent, because no legal input tells it from the kernels (equivalent.toml in fuzz/evaluation/mutation/
says why), or a gap of the fuzzer (gaps.toml, there, says what it would take). The score leaves out the equivalent ones.
"""


@dataclass(frozen=True)
class Report:
    """Results of a run, and what is known about the mutants that survived."""

    results: Sequence[Result]

    @cached_property
    def killed(self) -> list[Result]:
        """Mutants that were found; one that hangs is found by the time it takes."""
        return [result for result in self.results if result.fate in ("killed", "hang")]

    @cached_property
    def equivalent(self) -> list[Result]:
        """Mutants that were not found and that no legal input shows."""
        return [r for r in self.results if r.fate == "survived" and r.mutant.id in equivalent()]

    @cached_property
    def survivors(self) -> list[Result]:
        """Mutants that were not found and are not known to be equivalent."""
        return [r for r in self.results if r.fate == "survived" and r.mutant.id not in equivalent()]

    @property
    def unexplained(self) -> list[Result]:
        """Survivors that no file lists."""
        return [result for result in self.survivors if result.mutant.id not in gaps()]

    @property
    def wrongly_equivalent(self) -> list[Result]:
        """Mutants that were found although they are listed as equivalent."""
        return [result for result in self.killed if result.mutant.id in equivalent()]

    @property
    def score(self) -> float:
        """Killed mutants as a share of those that are not equivalent."""
        total = len(self.killed) + len(self.survivors)
        return len(self.killed) / total if total else 1.0

    @property
    def is_as_known(self) -> bool:
        """Whether every survivor is listed, and none that was found is called equivalent."""
        return not (self.unexplained or self.wrongly_equivalent)

    def summary(self) -> str:
        """The score and what it is made of, in one sentence."""
        crashes = sum(result.kind in ("crash", "import") for result in self.killed)
        hangs = sum(result.fate == "hang" for result in self.killed)
        known = len(self.survivors) - len(self.unexplained)
        odd = len(self.results) - len(self.killed) - len(self.survivors) - len(self.equivalent)
        return (
            f"score {self.score:.1%}: of {len(self.results)} mutants {len(self.killed)} found ({crashes} by a crash, "
            f"{hangs} by a hang), {len(self.survivors)} survived ({known} of them known gaps), "
            f"{len(self.equivalent)} equivalent" + (f", {odd} not executable" if odd else "")
        )

    def counts(self) -> list[tuple[str, int, int, int, int]]:
        """Of each operator: its name, mutants found, equivalent, survived, and all."""
        parts = (self.killed, self.equivalent, self.survivors, self.results)
        by_operator = [Counter(result.mutant.operator for result in part) for part in parts]
        return [(name, *(counts[name] for counts in by_operator)) for name in sorted(by_operator[-1])]  # type: ignore[misc]

    def as_text(self) -> str:
        """Counts by operator, the score, and every survivor with its line."""
        lines = [f"{name:12} {found:4} of {total - same:4} found" for name, found, same, _, total in self.counts()]
        lines.append(self.summary())
        lines += [f"{words(r.mutant)}  (needs: {gaps().get(r.mutant.id, 'not known yet')})" for r in self.survivors]
        lines += [f"{r.mutant.id} is listed as equivalent, but {r.signature} shows it" for r in self.wrongly_equivalent]
        return "\n".join(lines)

    def as_markdown(self, conditions: str) -> str:
        """The page docs/mutation.md; `conditions` says how the run was done."""
        rows = [("operator", "found", "equivalent", "survived", "mutants"), ("---",) * 5, *self.counts()]
        table = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
        left = [f"- `{words(r.mutant)}`. Needs: {gaps().get(r.mutant.id, 'not known yet')}" for r in self.survivors]
        cases = sorted(result.cases for result in self.killed)
        if cases:
            half, last = cases[len(cases) // 2], cases[-1]
            conditions = f"Half of those found take at most {half} cases; the slowest took {last}.\n- {conditions}"
        lines = [
            HEAD,
            f"- {self.summary()}.",
            f"- {conditions}",
            "",
            *table,
            "",
            "## Survivors that are bugs",
            "",
            *(left or ["None."]),
        ]
        return "\n".join(lines) + "\n"

    def as_data(self) -> dict[str, object]:
        """The same for scripts."""
        return {
            "score": self.score,
            "killed": len(self.killed),
            "equivalent": len(self.equivalent),
            "survivors": [result.mutant.id for result in self.survivors],
            "results": [asdict(result) for result in self.results],
        }


def words(mutant: Mutant) -> str:
    """A mutant on one line."""
    return f"{mutant.id}  {mutant.file}:{mutant.line}  {mutant.operator}: {mutant.old} => {mutant.new}"
