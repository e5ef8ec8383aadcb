"""The process of one side of `throughput`: runs cases as often as it is told, and says how long that took.

It is started as a file, with whatever `indexfuzz` its path leads to: it uses nothing that an older release may lack. It
reads JSON from standard input, an object a line, and answers each with one.
"""

import json
import sys
import time
from typing import Any

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup
from indexfuzz.subjects.open import prepare


class Side:
    """What is measured: the built-in kernels on a device, and the cases, by number."""

    def __init__(self, device: str) -> None:
        self._subject = prepare(Setup(device=device)).subject
        self._cases: dict[int, Case] = {}

    def take(self, cases: dict[str, str]) -> list[int]:
        """Read the cases; the numbers of those that this release knows."""
        for number, text in cases.items():
            try:
                self._cases[int(number)] = Case.model_validate_json(text)
            except ValueError:  # made of words that came later
                continue
        return sorted(self._cases)

    def run(self, numbers: list[int]) -> dict[str, Any]:
        """Run cases: CPU and wall seconds, and the signatures that each showed, None where it could not be run."""
        shown: dict[int, list[str] | None] = {}
        wall, cpu = time.perf_counter(), time.process_time()
        for number, case in [(number, self._cases[number]) for number in numbers]:
            try:
                shown[number] = [str(finding.signature) for finding in self._subject.run(case).findings]
            except Exception:  # noqa: BLE001 - whatever it is, there is nothing to compare
                shown[number] = None
        return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "shown": shown}


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    (device,) = sys.argv[1:]
    if device == "interpreter":
        from indexfuzz.evaluation.bench.interpreter_child import repair_masks  # noqa: PLC0415 - others lack it

        repair_masks()
    side = Side(device)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = side.take(asked["take"]) if "take" in asked else side.run(asked["run"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
