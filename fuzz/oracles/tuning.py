"""Launch every stage with other warps, and with another entry of its tuner: neither may matter.

Programs of a kernel have as many warps as their launcher says, and whatever one lane of a program stores and another
loads may come in time with one warp, and late with eight. A tuner takes the entry that is fastest on some machine, so
any of those that it keeps may run. What comes out is judged as always.
"""

from dataclasses import replace

from indexfuzz.core.case import Case
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.rng import ALIKE, derive
from indexfuzz.devices.base import Device, Tuning
from indexfuzz.devices.tuning import Choice
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles import differential, sessions

KIND = "metamorphic/tuning"

WARPS = (1, 4, 8)


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Judge a case on a device that launches as the case's choice says.

    Where the device has no choice, or no kernel is launched otherwise by it, nothing is found. What is wrong by itself
    is left to others. Raises UnsupportedKernelError as `differential.run` does.
    """
    outcome = Outcome(case)
    if not isinstance(device, Tuning):
        return outcome
    choice, judged = judge_otherwise(case, implementation, device, only)
    if choice.changed:
        outcome.stages = judged.stages
        outcome.findings = [replace(f, kind=KIND, detail=f"{tell(choice)}: {f.detail}") for f in judged.findings]
    return outcome


def judge_otherwise(
    case: Case, implementation: Implementation, device: Tuning, only: frozenset[str]
) -> tuple[Choice, Outcome]:
    """The choice of a case, and what is wrong where launches are made by it, and right where they are not."""
    choice = choice_of(case)
    judged = _judge(case, implementation, device.tuned(choice), only)
    if judged.findings:
        known = {finding.signature for finding in _judge(case, implementation, device, only).findings}
        judged.findings = [finding for finding in judged.findings if finding.signature not in known]
    return choice, judged


def choice_of(case: Case) -> Choice:
    """The choice that a case's seed makes."""
    seed = case.values.seed % ALIKE
    return Choice(WARPS[derive(seed, "num_warps") % len(WARPS)], derive(seed, "entry"))


def _judge(case: Case, implementation: Implementation, device: Device, only: frozenset[str]) -> Outcome:
    judge = sessions.run if case.session.steps else differential.run
    return judge(case, implementation, device, only)


def tell(choice: Choice) -> str:
    """Which kernels were launched otherwise, and how."""
    how = "; ".join(f"{kernel} with {otherwise.words}" for kernel, otherwise in sorted(choice.changed.items()))
    return f"launched otherwise ({how})"
