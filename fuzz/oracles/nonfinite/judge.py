"""NaN and infinities, a class of values with oracles of its own.

What a kernel makes of them is its own affair, but they must not spread: one in a row, token or page changes no bit of
another. What Triton's operators make of them on a GPU is known, and a project that promises as much is held to it: a
maximum ignores NaN, so that a row's scale comes from its numbers and a NaN dot product passes the ReLU as 0;
conversion to FP8 keeps NaN, and an infinity makes the scale infinite, its row's numbers 0 and itself NaN.
"""

from dataclasses import replace

from indexfuzz.core.case import Case
from indexfuzz.core.terms import Terms
from indexfuzz.oracles.nonfinite.reach import Tensors, reached, replaced
from indexfuzz.oracles.nonfinite.rules import broken_rule
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.judges import Verdict


def is_drawn(case: Case) -> bool:
    """Whether a case has, or may have, values that are not finite."""
    values = case.values
    regimes = (values.q, values.k, values.weights, values.cache, values.rope)
    overrides = (float.fromhex(str(entry[-1])) for entries in values.set.values() for entry in entries)
    return "nonfinite" in regimes or any(x - x != 0 for x in overrides)


def judge(stage: Stage, case: Case, given: Call, got: Tensors, terms: Terms) -> Verdict:
    """The verdict on a stage that may have been given NaN or infinities.

    What they do not reach is judged as ever, as if numbers stood in their place. What they reach is judged where the
    implementation promises Triton's rules, else left alone.
    """
    follows = terms.promises.nonfinite == "triton"
    masks, clean = reached(stage.name, case, given.tensors, hides_nan=follows)
    finite = replace(given, tensors={**given.tensors, **clean})
    want = finite.copy().run(stage.reference)
    judged = {name: replaced(masks.get(name), want[name], tensor) for name, tensor in got.items()}
    # The reference's dots, which are exact, are no matrix unit's bits.
    verdict = stage.judge(case, finite.tensors, judged, replace(terms, simulated_dot=None))
    if verdict.findings or not follows:
        return verdict
    found = broken_rule(stage.name, case, given.tensors, got, terms)
    return replace(verdict, findings=(found,)) if found else verdict
