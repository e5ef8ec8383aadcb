"""No drawn case makes the fuzzer itself raise, whatever stands under test.

INDEXFUZZ_CASES in the environment says how many cases all implementations get together; 20000 take some minutes.
"""

import os
from itertools import cycle, islice

import torch

from indexfuzz.core.contract import Checked, Clause, Clauses, Lifted
from indexfuzz.core.stage_names import COMPRESS
from indexfuzz.generation.narrowing import narrow
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw, stream_cases
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import CONTRACT
from indexfuzz.reference.fp8 import FORMATS
from indexfuzz.stages.table import STAGES
from indexfuzz.subjects.in_process import InProcess

CASES = int(os.environ.get("INDEXFUZZ_CASES", "300"))
NAMES = tuple(dict.fromkeys(stage.name for stage in STAGES))


def silent(**_):
    """Writes nothing, returns nothing."""


def crash(**_):
    raise RuntimeError("boom")


def reject(**_):
    raise ValueError("not today")


def wrong(**given):
    """Overwrites inputs and outputs, and returns wrong numbers in the right form."""
    for name in ("cache", "logits", "k_fp8", "k_scale"):
        if name in given:
            given[name].view(torch.uint8).fill_(0x11)
    if "positions" in given:
        return given["q"] * 2, given["k"]
    if "weights" in given and "fp8" in given:
        return torch.ones(given["q"].shape).to(FORMATS[given["fp8"]].dtype), given["weights"].clone()
    return (
        torch.zeros((len(given["logits"]), given["index_topk"]), dtype=torch.int32) if "index_topk" in given else None
    )


def no_numbers(**given):
    """Fills outputs with NaN, returns NaN and the smallest integers."""
    for name in ("logits", "k_scale"):
        if name in given:
            given[name].fill_(float("nan"))
    if "positions" in given:
        return torch.full_like(given["q"], float("nan")), torch.full_like(given["k"], float("nan"))
    if "weights" in given and "fp8" in given:
        dtype = FORMATS[given["fp8"]].dtype
        return torch.full(given["q"].shape, float("nan")).to(dtype), torch.full_like(given["weights"], float("nan"))
    if "index_topk" in given:
        return torch.full((len(given["logits"]), given["index_topk"]), -(1 << 31), dtype=torch.int32)
    return None


NARROW = Clauses((Clause(NAMES, lambda case: case.model.head_dim == 64, "head_dim is 64", "here"),))
CHECKED = Checked(NARROW.clauses)


def shapes(reference: Implementation) -> dict[str, Implementation]:
    """Implementations of every shape, without a contract where none is named."""
    right = dict(reference.stages)
    found = {f"only {name}": Implementation("one", {name: function}) for name, function in right.items()}
    for function in (silent, crash, reject, wrong, no_numbers):
        found[function.__name__] = Implementation("all", dict.fromkeys(NAMES, function))
        found |= {
            f"{function.__name__} {name}": Implementation("mixed", right | {name: function}) for name in NAMES[::2]
        }
    contracts = {"narrow": NARROW, "checked": CHECKED, "builtin": CONTRACT}
    for name, contract in contracts.items():
        for function in (silent, wrong):
            stages = dict.fromkeys(NAMES, function)
            found[f"{name} {function.__name__}"] = Implementation("bound", stages, contract)
            found[f"lifted {name} {function.__name__}"] = Implementation("lifted", stages, Lifted(contract))
    return found | {"right": Implementation("right", right), "none": Implementation("none", {})}


def test_no_drawn_case_makes_the_fuzzer_raise(pytorch_device, reference_with):
    subjects = [InProcess(each, pytorch_device) for each in shapes(reference_with()).values()]
    cases = islice(stream_cases(CASES, ("e4m3fn", "e4m3fnuz")), CASES)
    for case, subject in zip(cases, cycle(subjects), strict=False):
        inside = subject.narrow(case)
        outcome = subject.run(inside)
        if outcome.findings:
            signature = outcome.findings[case.values.seed % len(outcome.findings)].signature
            subject.ask(inside, signature)


def keeps_nothing(**given):
    """A stateful operation that leaves its state as it is and writes keys of its own."""
    given["keys"].fill_(1.0)


def overwrites_state(**given):
    """A stateful operation that writes over everything that it is given to keep."""
    given["keys"].fill_(float("nan"))
    given["state"].fill_(float("inf"))


def test_no_drawn_session_makes_the_fuzzer_raise(pytorch_device, reference_with):
    """A session costs as much as ten cases of a step, so there are a tenth as many."""
    right = dict(reference_with().stages)
    stateful = (silent, crash, reject, keeps_nothing, overwrites_state)
    shapes = [Implementation("alone", {COMPRESS: function}) for function in stateful]
    shapes += [Implementation("mixed", right | {COMPRESS: function}) for function in stateful]
    shapes += [
        Implementation("bound", right | {COMPRESS: f}, contract) for f in stateful for contract in (NARROW, CHECKED)
    ]
    shapes += [Implementation("steps", right | {name: f}) for name in NAMES[::2] for f in (silent, wrong, no_numbers)]
    subjects = [InProcess(each, pytorch_device) for each in shapes]
    for case, subject in zip(draw(sessions(), 3, max(CASES // 10, 1)), cycle(subjects), strict=False):
        inside = subject.narrow(case)
        outcome = subject.run(inside)
        if outcome.findings:
            signature = outcome.findings[case.values.seed % len(outcome.findings)].signature
            subject.ask(inside, signature)


def test_what_has_no_right_result_is_narrowed_away_without_a_contract(pytorch_device, reference_with):
    right = Implementation("right", reference_with().stages)
    for case in islice(stream_cases(3, ("e4m3fn",)), 200):
        inside = narrow(case, right)
        assert inside.has_layout(inside.cache.layout)
        assert inside.model.quant_group == inside.model.head_dim
