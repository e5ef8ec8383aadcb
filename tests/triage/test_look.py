"""A finding looked at closely: which line of which kernel, in which program and lane, with which values."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup
from indexfuzz.core.signature import Signature
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import plant
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles import composition, next_step
from indexfuzz.report.pictures.draw import draw
from indexfuzz.samples.step import Step
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import put_under_test
from indexfuzz.triage.culprit import find_return, tell_launch
from indexfuzz.triage.look import Look
from indexfuzz.triage.looking import look_at, tell
from indexfuzz.triage.prove import Proof
from indexfuzz.triage.repro import script
from indexfuzz.triage.whole import WholeLook


def _subject(*faults: str) -> InProcess:
    return InProcess(plant(faults) if faults else builtin(), open_device("lockstep"))


def _look(case: Case, subject: InProcess, stage: str) -> Look:
    found = next(f for f in subject.run(case, frozenset({stage})).findings if f.stage == stage)
    look = look_at(case, found.signature, subject)
    assert isinstance(look, Look)
    return look


def test_a_wrong_layout_shows_the_offset_and_the_flag_that_made_it(normal_pages: Case):
    look = _look(normal_pages, _subject("layout-hardcoded-shuffle"), "k_quant_cache")
    trace = look.trace()
    assert trace
    assert trace.lane == (0, 16)
    assert "behind cache" in trace.lines[0].access
    values = {name: value for line in trace.lines for name, value in line.values}
    assert values["SHUFFLE"] == "True"
    assert values["dim"] == "16"
    assert any("token 0, dim 16 of k" in line.access for line in trace.lines)
    told = look.sentences()
    launch, *passed = told[told.index("Launched by:") + 1 :]
    assert "_k_quant_cache_kernel[(triton.cdiv(num_slots, TOKENS),)](" in launch
    assert [line.split(maxsplit=1)[1] for line in passed if "SHUFFLE" in line] == ["SHUFFLE=True"]


def _launch(kernel: Any, x: torch.Tensor, out: torch.Tensor, **options: int) -> None:
    kernel[(1,)](x, 4 - 1, out, **options)


@triton.jit
def _add(x_ptr, n, out_ptr, BLOCK: tl.constexpr):
    lane = tl.arange(0, BLOCK)
    tl.store(out_ptr + lane, tl.load(x_ptr + lane, mask=lane < n, other=0.0))


def test_what_a_launch_passes_in_order_is_told_under_the_names_of_the_kernel():
    recorder = Recorder()
    with Lockstep(recorder=recorder):
        _launch(_add, torch.zeros(4), torch.zeros(4), BLOCK=4)
    (launched,) = recorder.launches
    assert launched.parameters == ("x_ptr", "n", "out_ptr", "BLOCK")
    _, call, *passed = tell_launch(launched, {"n", "BLOCK"})
    assert call.endswith("kernel[(1,)](x, 4 - 1, out, **options)")
    assert passed[0].split(maxsplit=1)[1] == "n=4 - 1"


def test_a_result_that_no_kernel_wrote_is_said_to_be_the_argument(normal_pages: Case):
    case = normal_pages.replace(rope={"mode": "functional"}, batch={"prefill": ({"length": 3, "new": 3},)})
    look = _look(case, _subject("rope-result-discarded"), "rope")
    assert look.trace() is None
    told = look.sentences()
    assert told[0] == f"What is returned as {look.finding.output} is the argument {look.finding.output} itself."
    assert told[1] == "rope returns it here."
    assert told[2].endswith("  return q, k")
    assert look.place() in told[2]
    ran = told[told.index("No kernel stores to the first wrong element. What ran, and the lines that called it:") + 1 :]
    assert ran[0].startswith("  _rotate_kernel  ")
    assert ran[1].endswith("out.stride(0), ...")
    assert sum("rope.py:" in line and "rotation(x[...," in line for line in ran) == 1
    assert not any("fuzz/" in line for line in told)


@pytest.mark.parametrize(
    "text", ["k_quant_cache/layout-mismatch/cache_values", "rope/bound-exceeded/q", "rope/metamorphic/batch/q"]
)
def test_nothing_is_told_of_kernels_that_are_right(normal_pages: Case, text: str):
    assert tell(normal_pages, Signature.parse(text), _subject()) == []


@pytest.fixture
def normal_pages() -> Case:
    return Case().replace(
        model={"head_dim": 32, "rope_dim": 16, "quant_group": 32},
        cache={"block_size": 1},
        batch={"prefill": ({"length": 1, "new": 1},)},
    )


SESSION = Case().replace(
    model={"num_heads": 1, "head_dim": 32, "rope_dim": 2, "quant_group": 32},
    cache={"layout": "normal"},
    batch={"max_model_len": 8},
    session={
        "node": "compress",
        "ratio": 2,
        "steps": ({"turns": ({"request": 0, "new": 1},)}, {"turns": ({"request": 0, "new": 2},)}),
    },
)


def test_of_a_session_the_step_is_told_in_which_it_shows():
    look = _look(SESSION, _subject("compress-groups-from-chunk-start"), "compress")
    when, where, store, *_ = look.sentences()
    assert when == "It shows in step 1 of the session: request 0 appends tokens 1 to 2; key 0 is due."
    assert where.startswith("In _compress_kernel (compress.py), program (0, 0, 0)")
    assert "tl.store(keys_ptr + last_token" in store
    assert any("which is token 1, dim 0 of keys" in line for line in look.sentences())


def test_nothing_is_told_of_a_session_that_is_right():
    for text in ("compress/guard-write/keys", "compress/bound-exceeded/keys", "k_quant_cache/crash/ValueError"):
        assert look_at(SESSION, Signature.parse(text), _subject()) is None


WHOLE = {
    "offset-of-another-row": (
        Case().replace(model={"index_topk": 1}, batch={"prefill": ({"length": 1, "new": 1},) * 2}),
        "The stages are called with what they should be; _select_prefill returns what is wrong.",
        "return torch.where(columns >= 0, columns - prefill.ks.roll(1).unsqueeze(1), -1)",
        ("        columns    = [[0], [1]]", "        prefill.ks = [0, 1]"),
    ),
    "rope-lost-without-prefill": (
        Case().replace(rope={"mode": "functional"}, batch={"decode": (5,), "max_model_len": 8}),
        "forward calls q_quant with another q than the stages before it leave: q[0, 0, 0] is",
        "q_fp8, q_weights = q_quant(q, weights, scale_fmt=config.scale_fmt, fp8=config.fp8)",
        ("        config.scale_fmt = 'ue8m0'",),
    ),
}


@pytest.mark.parametrize("fault", WHOLE)
def test_of_the_whole_indexer_the_line_is_told_that_mixes_something_up(fault):
    case, words, text, values = WHOLE[fault]
    subject = _subject(fault)
    (finding,) = composition.run(case, subject.implementation, subject.device).findings
    look = look_at(case, finding.signature, subject)
    assert isinstance(look, WholeLook)
    first, line, *told = look.sentences()
    assert first.startswith(words)
    assert "indexer.py:" in line
    assert line.endswith(text)
    assert set(values) <= set(told)
    assert look.place().rpartition("/")[2].startswith("indexer.py:")
    assert look_at(case, finding.signature, _subject()) is None


def test_in_a_step_with_requests_of_both_kinds_each_call_is_held_against_its_own():
    batch = {"decode": (3, 4), "max_model_len": 6, "prefill": ({"length": 2, "new": 1}, {"length": 3, "new": 2})}
    case, subject = Case().replace(model={"index_topk": 2}, batch=batch), _subject("offset-of-another-row")
    (finding,) = composition.run(case, subject.implementation, subject.device).findings
    assert tell(case, finding.signature, subject)[0] == WHOLE["offset-of-another-row"][1]


BEHIND = Case().replace(model={"index_topk": 2}, batch={"decode": (1, 7), "prefill": (), "max_model_len": 8})


def _edited(label: str, *edits: tuple[str, str]) -> InProcess:
    """The built-in kernels with other text in indexer.py."""
    kernels = edited_kernels(label, [(label, "kernels/indexer.py", old, new) for old, new in edits])
    return InProcess(builtin(kernels), open_device("lockstep"))


def _look_behind(subject: InProcess) -> WholeLook:
    (finding,) = next_step.run(BEHIND, subject.implementation, subject.device).findings
    look = look_at(BEHIND, finding.signature, subject)
    assert isinstance(look, WholeLook)
    assert look.finding.signature == finding.signature
    assert look_at(BEHIND, finding.signature, _subject()) is None
    return look


def test_of_a_step_behind_another_one_it_is_told_what_was_there_in_that_one():
    look = _look_behind(_subject("kept-lengths-of-a-table"))
    when, words, line, *values = look.sentences()
    assert look.finding.index == (1, 1)
    assert when == f"It shows in {look.moment}."
    assert look.moment == (
        "the step right behind one with other contents in the same tensors, after which selected[1, 1] was -1"
    )
    assert words == (
        "_select_decode calls paged_logits with another context_lens than the stages before it leave: "
        "context_lens[0] is 7, must be 1, and was 7 in the step before."
    )
    assert "_LENGTHS.setdefault(" in line
    assert "        decode.context_lens = [1, 7]" in values
    assert look.place().rpartition("/")[2].startswith("indexer.py:")
    (picture,) = draw(look)
    assert picture.mark == (1, 0)
    assert picture.notes[-1] == look.moment


def test_a_step_that_shows_nothing_is_not_the_last_that_is_looked_at():
    keeping, right, served = _subject("kept-lengths-of-a-table"), builtin().forward, []

    def whole(step: Step) -> torch.Tensor:
        """As where the first pair of steps lies at an address that is known."""
        served.append(step)
        forward = keeping.implementation.forward if len(served) > 2 else right
        assert forward
        return forward(step=step)

    subject = InProcess(replace(keeping.implementation, forward=whole), keeping.device)
    look = look_at(BEHIND, Signature.parse("topk/metamorphic/next-step/selected"), subject)
    assert isinstance(look, WholeLook)
    assert look.culprit


KEEPING = ("def _select_decode(", "_KEPT = {}\n\n\ndef _select_decode(")
RETURN = "    return selected\n"


def test_what_goes_wrong_once_for_each_address_is_told_too():
    lens = "decode.context_lens"
    wrong = f"_KEPT.setdefault({lens}.data_ptr(), ({lens}, {lens}.flip(0)))[1]"
    edit = (f"        {lens},\n", f"        {lens} if {lens}.data_ptr() in _KEPT else {wrong},\n")
    subject = _edited("look-once", KEEPING, edit)
    (finding,) = composition.run(BEHIND, subject.implementation, subject.device).findings
    assert tell(BEHIND, finding.signature, subject)[0].startswith("_select_decode calls paged_logits with another")


def test_a_result_that_is_kept_of_the_step_before_is_told_with_who_returns_it():
    keep = "    return _KEPT.setdefault(positions.data_ptr(), selected)\n"
    _, words, line, *_ = _look_behind(_edited("look-keeps-result", KEEPING, (RETURN, keep))).sentences()
    assert words == "The stages are called with what they should be; forward returns what is wrong."
    assert line.endswith(keep.strip())


def test_stages_that_are_left_out_are_named():
    decide = "    if decode:\n"
    known = f"    if positions.data_ptr() in _KEPT:\n        return _KEPT[positions.data_ptr()]\n{decide}"
    keep = f"    _KEPT[positions.data_ptr()] = selected\n{RETURN}"
    look = _look_behind(_edited("look-leaves-out", KEEPING, (decide, known), (RETURN, keep)))
    assert look.sentences()[1:] == ["It does not call paged_logits, topk as often as its stages are run one by one."]


def test_where_python_alone_makes_a_result_the_line_is_told_that_returns_it():
    case = Case().replace(model={"index_topk": 2}, batch={"decode": (3,), "max_model_len": 8})
    look = _look(case, _subject("topk-one-more-than-k"), "topk")
    none, returns, line, *values = look.sentences()
    assert none == "No Triton kernel ran here: this comes from Python code alone."
    assert returns == "topk returns it here."
    assert line.endswith("  return chosen")
    assert values[0].startswith("        chosen = [[")
    assert look.place().rpartition("/")[2].startswith("indexer.py:")


def test_of_an_adapter_the_line_is_told_of_the_function_that_it_calls():
    project = {"__name__": "project", "torch": torch}
    exec(
        compile(
            "def score(x):\n    half = x / 2\n    return half\n\n\ndef other(x):\n    return x + 1\n",
            "project.py",
            "exec",
        ),
        project,
    )

    def adapter(x: torch.Tensor, out: torch.Tensor) -> None:
        project["other"](x)
        out.copy_(project["score"](x))

    x, out = torch.ones(3), torch.zeros(3)
    told = find_return(adapter, lambda: adapter(x, out), torch.full((3,), 0.5))
    assert told
    assert (told.place, told.words) == ("project.py:3", "score returns it here.")
    own = find_return(adapter, lambda: adapter(x, out), torch.full((3,), 7.0))
    assert own
    assert own.words == "adapter returns it here."


def test_what_a_kernel_of_the_whole_does_to_memory_is_told_and_drawn_and_scripted(run_copied: Callable[[str], Proof]):
    fault = "angles-of-context-length"
    target = put_under_test(Setup(faults=(fault,)))
    case = Case().replace(
        model={"num_heads": 1, "head_dim": 32, "rope_dim": 32, "quant_group": 32},
        batch={"decode": (4,), "max_model_len": 4, "positions": "repeated"},
        memory={"angles_pad": 1},
    )
    (finding,) = composition.run(case, target.subject.implementation, target.subject.device).findings
    look = look_at(case, finding.signature, target.subject)
    assert isinstance(look, WholeLook)
    told = look.sentences()
    assert told[0].startswith("forward calls rope with another positions than the stages before it leave")
    assert any(line.startswith("In _rotate_kernel (rope.py)") for line in told)
    (picture,) = draw(look)
    assert picture.title == "memory around the buffer"
    assert picture.mark
    text = script(target.entry(case, finding), target)
    assert run_copied(text).shows
    assert not run_copied(text.replace(f"plant(({fault!r},))", "plant(())")).shows
