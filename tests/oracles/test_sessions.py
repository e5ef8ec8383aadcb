"""Sessions: clean kernels pass them, and mistakes that only show between steps are found, blamed and made small."""

from dataclasses import replace

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.rng import derive
from indexfuzz.core.session import Turn, follow
from indexfuzz.core.signature import Signature
from indexfuzz.core.stage_names import STATEFUL
from indexfuzz.devices import open_device
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import load_faults, plant
from indexfuzz.implementations.faults.planting import edited_kernels
from indexfuzz.oracles import schedules
from indexfuzz.oracles import sessions as oracle
from indexfuzz.reference import cache as writer
from indexfuzz.reference import compress, gather
from indexfuzz.reference.intervals import Interval
from indexfuzz.samples.kept import kept_by
from indexfuzz.samples.serving import Serving
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.minimize import minimise

DEVICE = open_device("lockstep")
OVERLAPPING = ("compress", "fused_compress")


def turn(request, new, drafts=0, accepted=0):
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted).model_dump()


STEPS = (
    {"turns": (turn(0, 7), turn(1, 5))},
    {"turns": (turn(0, 1, 3, 1), turn(1, 1, 2)), "pad_tokens": 2},
    {"forks": ({"parent": 0, "child": 2},), "turns": (turn(2, 6), turn(1, 9)), "free": (0,)},
    {"turns": (turn(0, 20), turn(2, 1))},
)


def case_of(node="compress", ratio=4, overlap=True, steps=STEPS, pooling="softmax", **parts):
    session = {"node": node, "ratio": ratio, "overlap": overlap, "pooling": pooling, "steps": steps}
    return Case().replace(
        cache={"block_size": 2, "layout": "normal"}, batch={"max_model_len": 300}, session=session, **parts
    )


def with_mistake(old, new, file="compress"):
    edits = [("mistake", f"kernels/{file}.py", old, new)]
    return builtin(edited_kernels(f"mistake-{derive(0, file + old + new)}", edits), "mistaken")


@pytest.mark.parametrize(
    ("node", "ratio", "overlap"),
    [
        ("compress", 4, True),
        ("compress", 8, False),
        ("none", 1, False),
        ("pool", 4, False),
        ("fused_compress", 4, True),
        ("fused_compress", 8, False),
        ("fused_pool", 4, False),
        ("compress_norm", 2, False),
        ("compress_norm", 1, False),
    ],
)
def test_clean_kernels_pass(node, ratio, overlap):
    outcome = oracle.run(case_of(node, ratio, overlap), builtin(), DEVICE)
    assert not outcome.findings
    assert {*outcome.stages} & {*STATEFUL} == {node} - {"none"}
    assert ("k_quant_cache" in outcome.stages) == (not node.startswith("fused"))
    assert "gather" in outcome.stages


def test_a_long_ratio_is_compressed():
    steps = ({"turns": (turn(0, 130),)}, {"turns": (turn(0, 126),)})
    outcome = oracle.run(case_of(ratio=128, overlap=False, steps=steps), builtin(), DEVICE)
    assert not outcome.findings
    assert outcome.stages.count("k_quant_cache") == 2


def test_the_reference_fills_in_what_is_missing():
    outcome = oracle.run(case_of(), builtin(), DEVICE, frozenset({"k_quant_cache"}))
    assert not outcome.findings
    assert set(outcome.stages) == {"k_quant_cache"}


@pytest.mark.parametrize("node", STATEFUL)
def test_drawn_sessions_are_clean_and_varied(node):
    cases = draw(sessions((node,)), 11, 6)
    assert len({case.id for case in cases}) == 6
    for case in cases:
        assert not InProcess(builtin(), DEVICE).run(case).findings


MISTAKES = {
    "compress/bound-exceeded/keys": ("& (position >= 0) & (position < context)", "& (position > context)"),
    "compress/out-of-bounds": ("(position >= 0) & (position < context)", "(position < context)"),
    "compress/race": ("(rank < count) & (rank >= count - ROWS)", "(rank < count)"),
    "compress/uninitialised": ("position = context + rank\n\n    column", "position = rank\n\n    column"),
    "compress/code-mismatch/visible": ("(position + 1) // RATIO, 0)", "position // RATIO + 1, 0)", "groups"),
    "compress/code-mismatch/slot_mapping": (
        "page * BLOCK_SIZE + key % BLOCK_SIZE",
        "page * BLOCK_SIZE + position % BLOCK_SIZE",
        "groups",
    ),
}


@pytest.mark.parametrize("signature", MISTAKES)
def test_mistakes_between_steps_are_found(signature):
    finding, *_ = oracle.run(case_of(), with_mistake(*MISTAKES[signature]), DEVICE).findings
    assert str(finding.signature).startswith(signature)
    assert finding.detail.startswith("step ")


def test_what_is_remembered_of_a_step_of_the_same_shape_is_found():
    known, clean = {}, builtin()

    def compress_by_first_lengths(*, context_lens, **arguments):
        lens = known.setdefault((len(arguments["kv"]), len(context_lens)), context_lens.clone())
        clean.stages["compress"](context_lens=lens, **arguments)

    remembering = replace(clean, stages={**clean.stages, "compress": compress_by_first_lengths})
    steps = [{"turns": (turn(0, new),)} for new in (6, 1, 1, 1)]
    assert not oracle.run(case_of(steps=tuple(steps)), clean, DEVICE).findings
    finding, *_ = oracle.run(case_of(steps=tuple(steps)), remembering, DEVICE).findings
    assert finding.detail.startswith("step 2 of the session: ")


def test_a_known_mistake_is_named():
    implementation = with_mistake(
        "tl.load(bias_ptr + (position % RATIO)[:, None] * WIDTH + column, mask=is_new[:, None], other=0.0)\n\n",
        "0.0\n\n",
    )
    steps = ({"turns": (turn(0, 8),)},)
    (finding,) = oracle.run(case_of(steps=steps), implementation, DEVICE).findings
    assert "the position bias is left out" in finding.detail
    assert "token 3 of request 0 of the step, with which its key 0 is due, made of tokens 0 to 3" in finding.detail


def test_other_schedules_leave_the_same_bytes():
    assert not schedules.run(case_of(), builtin(), DEVICE).findings
    assert not schedules.run(case_of("none", 1, overlap=False), builtin(), DEVICE).findings
    for pooling in ("softmax", "max"):
        assert not schedules.run(case_of("pool", overlap=False, pooling=pooling), builtin(), DEVICE).findings
    assert not schedules.run(case_of("fused_compress"), builtin(), DEVICE).findings


SCHEDULES = 5


@pytest.mark.parametrize("node", STATEFUL)
def test_any_schedule_leaves_the_same_bytes(node):
    case = case_of(node, overlap=node in OVERLAPPING)
    _, first = oracle.serve(case, builtin(), DEVICE)
    others = [schedules.reschedule(case, f"schedule {number}") for number in range(SCHEDULES)]
    assert len({other.session for other in others}) > SCHEDULES // 2
    assert not any(schedules.compare(first, other, builtin(), DEVICE).findings for other in others)


MISTAKES_OF_POOLS = {
    "pool/bound-exceeded/keys": ("kept_at + HEAD_DIM, is_kept", "kept_at, is_kept"),
    "pool/uninitialised": ("rank >= count - ROWS", "rank >= count - 1"),
    "pool/race": ("& (rank >= count - ROWS)", "& (rank >= count - ROWS - 1)"),
}


@pytest.mark.parametrize("signature", MISTAKES_OF_POOLS)
def test_mistakes_of_pools_are_found(signature):
    assert not oracle.run(case_of("pool", overlap=False), builtin(), DEVICE).findings
    wrong = with_mistake(*MISTAKES_OF_POOLS[signature], "pool")
    finding, *_ = oracle.run(case_of("pool", overlap=False), wrong, DEVICE).findings
    assert str(finding.signature).startswith(signature)


MISTAKES_OF_FUSED = {
    "fused_compress/code-mismatch/cache_scales": ("(end - RATIO).to(tl.int64)", "(end - 1).to(tl.int64)"),
    "fused_compress/race": ("scale, is_due[None]", "scale, is_due[None] | True"),
    "fused_compress/uninitialised": ("[(num_requests, triton.cdiv(num_tokens, TOKENS))]", "[(1, 1)]"),
    "fused_pool/code-mismatch/cache_scales": ("        POOLING,\n    )", '        "max",\n    )'),
    "fused_pool/race": ("scale, is_due[None]", "scale, is_due[None] | True"),
    "fused_pool/uninitialised": ("[(num_requests, triton.cdiv(num_tokens, TOKENS))]", "[(1, 1)]"),
}


@pytest.mark.parametrize("signature", MISTAKES_OF_FUSED)
def test_mistakes_of_a_fused_operation_are_found(signature):
    node = signature.partition("/")[0]
    wrong = with_mistake(*MISTAKES_OF_FUSED[signature], node)
    finding, *_ = oracle.run(case_of(node, overlap="compress" in node), wrong, DEVICE).findings
    assert str(finding.signature).startswith(signature)


FORMS = {
    "one exponent": ({"scales": "ue8m0"}, 32),
    "four exponents": ({"scales": "ue8m0"}, 8),
    "two values to a byte": ({"scales": "mxfp4"}, 8),
    "interleaved exponents": ({"scales": "mxfp4", "block_size": 16, "layout": "shuffle-scales"}, 8),
}
"""Of keys: fields of the cache, and how many dims have a scale."""


@pytest.mark.parametrize("node", ["compress", "fused_compress", "fused_pool"])
@pytest.mark.parametrize("form", FORMS)
def test_keys_of_other_forms_are_made_and_inserted_in_any_schedule(node, form):
    cache, group = FORMS[form]
    changes = {"cache": cache, "model": {"quant_group": group, "scale_fmt": "ue8m0"}}
    case = case_of(node, overlap=node in OVERLAPPING).replace(**changes)
    outcome = oracle.run(case, builtin(), DEVICE)
    assert not outcome.findings
    assert {node, "gather"} <= {*outcome.stages}
    assert not schedules.run(case, builtin(), DEVICE).findings


MISTAKES_OF_FORMS = {
    "fused_compress": ("page * scales_page_stride", "(page + is_due) * scales_page_stride"),
    "fused_pool": ("QUANT_MAX=stored.largest", "QUANT_MAX=4.0"),
}


@pytest.mark.parametrize("node", MISTAKES_OF_FORMS)
@pytest.mark.parametrize("form", FORMS)
def test_mistakes_in_other_forms_are_found(node, form):
    cache, group = FORMS[form]
    changes = {"cache": cache, "model": {"quant_group": group, "scale_fmt": "ue8m0"}}
    case = case_of(node, overlap=node in OVERLAPPING).replace(**changes)
    assert oracle.run(case, with_mistake(*MISTAKES_OF_FORMS[node], node), DEVICE).findings


def test_interleaved_exponents_of_a_second_tile_are_judged():
    case = case_of("fused_pool", 2, overlap=False, steps=({"turns": (turn(0, 36),)},)).replace(
        model={"head_dim": 32, "quant_group": 8, "scale_fmt": "ue8m0"},
        cache={"scales": "mxfp4", "block_size": 32, "layout": "shuffle-scales"},
    )
    fault = load_faults()["fused-pool-interleaved-of-first-tile"]
    assert not oracle.run(case, builtin(), DEVICE).findings
    finding, *_ = oracle.run(case, plant((fault.id,)), DEVICE).findings
    assert fault.is_blamed_by(finding)


def test_one_scale_for_all_groups_is_blamed_on_the_insertion():
    case = case_of("fused_compress").replace(
        cache={"scales": "mxfp4"}, model={"head_dim": 64, "quant_group": 16, "scale_fmt": "ue8m0"}
    )
    fault = load_faults()["fused-compress-scale-never-packed"]
    (finding,) = oracle.run(case, plant((fault.id,)), DEVICE).findings
    assert fault.is_blamed_by(finding)


def test_a_race_for_a_scale_is_blamed_on_the_insertion():
    fault = load_faults()["fused-compress-scale-where-none-is-due"]
    case = case_of("fused_compress", overlap=True, steps=({"turns": (turn(0, 9),)},)).replace(
        cache={"pages": "ordered"}
    )
    (finding,) = oracle.run(case, plant((fault.id,)), DEVICE).findings
    assert (finding.kind, finding.tensor) == ("race", "cache")
    assert fault.is_blamed_by(finding)


def test_keys_that_their_scales_do_not_divide_are_refused():
    for node in ("fused_compress", "fused_pool"):
        for scales, group in (("fp32", 8), ("ue8m0", 16), ("mxfp4", 32)):
            case = case_of(node, overlap=node in OVERLAPPING, model={"quant_group": group, "scale_fmt": "ue8m0"})
            outcome = oracle.run(case.replace(cache={"scales": scales}), builtin(), DEVICE)
            assert not outcome.findings
            assert node in outcome.refused


def test_what_a_fused_operation_must_reject_is_no_finding():
    for node in ("fused_compress", "fused_pool"):
        case = case_of(node, overlap="compress" in node, model={"scale_fmt": "fp32"})
        outcome = oracle.run(case, builtin(), DEVICE)
        assert not outcome.findings
        assert node in outcome.refused


@pytest.mark.parametrize(("node", "overlap"), [("compress", True), ("pool", False)])
def test_rings_lie_as_far_apart_as_pages(node, overlap):
    case = case_of(node, overlap=overlap)
    dense = Serving(case, "cpu").state.view
    wide = Serving(case.replace(cache={"page_pad": 132}), "cpu").state.view
    far = Serving(case.replace(cache={"page_pad": 1 << 20}), "cpu").state.view
    assert dense.is_contiguous()
    for state, gap in ((wide, 132), (far, 1024)):
        assert state.shape == dense.shape
        assert (state.stride(0) - dense.stride(0)) * state.element_size() == gap
        assert state.stride()[1:] == dense.stride()[1:]


FAR_PAGES = {"spare_blocks": 30, "page_pad": 1 << 29, "pages": "highest"}


@pytest.mark.parametrize(
    ("node", "far", "file", "old", "new"),
    [
        ("compress", "k", "compress", "(first_token + rank).to(tl.int64)", "(first_token + rank)"),
        ("pool", "weights", "pool", "(first_token + rank).to(tl.int64)", "(first_token + rank)"),
        (
            "compress",
            "state",
            "compress",
            ").to(tl.int64) * state_ring_stride\n    saved",
            ") * state_ring_stride\n    saved",
        ),
        ("pool", "state", "pool", ").to(tl.int64) * tail_ring_stride\n    saved", ") * tail_ring_stride\n    saved"),
        ("fused_pool", "table", "fused_pool", "tl.program_id(0).to(tl.int64) * block", "tl.program_id(0) * block"),
        ("fused_compress", "pages", "fused_compress", "other=0).to(tl.int64)", "other=0)"),
        ("fused_pool", "pages", "fused_pool", "other=0).to(tl.int64)", "other=0)"),
    ],
)
def test_what_is_far_shows_an_offset_of_32_bits_and_right_kernels_take_it(node, far, file, old, new):
    steps = ({"turns": tuple(turn(request, 9) for request in range(3))}, *STEPS[3:])
    near = case_of(node, overlap=node in OVERLAPPING, steps=steps, model={"scale_fmt": "ue8m0"})
    case = near.replace(**({"cache": FAR_PAGES} if far == "pages" else {"memory": {"far": far}}))
    wrong = with_mistake(old, new, file)
    assert oracle.run(near, wrong, DEVICE).findings == []
    assert oracle.run(case, builtin(), DEVICE).findings == []
    assert {finding.stage for finding in oracle.run(case, wrong, DEVICE).findings} == {node}


@pytest.mark.parametrize("apart", [False, True])
def test_a_write_beside_a_far_state_is_seen(apart):
    case = case_of(steps=STEPS[:1], memory={"far": "state"})
    state = Serving(case, "cpu", kept=replace(kept_by(case), apart=apart)).state
    state.view[-1, -1, -1, -1] = 1.0
    assert state.first_change(payload_may_change=False) is not None
    assert state.first_change(payload_may_change=True) is None
    state.rows[-1, -1] ^= 0x55
    assert state.first_change(payload_may_change=True) > 0


def test_a_far_state_ends_beyond_32_bits_and_holds_the_same():
    case = case_of(steps=STEPS[:1])
    states = []
    for one in (case, case.replace(memory={"far": "state"})):
        serving = oracle.serve(one, builtin(), DEVICE)[1]
        rings = [serving.kept.nobodys + request for request in serving.requests]
        states.append((serving.state.view.view(torch.int32), rings))
    (near, own), (far, theirs) = states
    assert torch.equal(near[own], far[theirs])
    assert max(theirs) * far.stride(0) >= 1 << 31 > far.stride(0)
    assert far.stride(0) % 64 == 0


def test_a_key_that_depends_on_the_schedule_is_found(monkeypatch):
    implementation = with_mistake(
        'mask=is_kept[:, None], other=float("-inf"))', "mask=is_kept[:, None], other=-1e9) - 1.0"
    )
    assert oracle.run(case_of(), implementation, DEVICE).findings

    def anything(tokens, _bias, *, ratio, overlap):
        shape = (len(tokens.kv) // ratio, tokens.kv.shape[1] // (1 + overlap))
        return Interval(torch.full(shape, -1e9, dtype=torch.double), torch.full(shape, 1e9, dtype=torch.double))

    monkeypatch.setattr(compress, "legal_keys", anything)
    assert not oracle.run(case_of(), implementation, DEVICE).findings
    (finding,) = schedules.run(case_of(), implementation, DEVICE).findings
    assert str(finding.signature).startswith("compress/metamorphic/schedule/cache")
    assert "on other pages where its 15 tokens came in steps of 0 before 2 rejected drafts, 5 before" in finding.detail


def test_what_another_schedule_shows_is_shown_again_and_made_small():
    implementation = with_mistake(
        "(context // RATIO + tl.program_id(1) + 1) * RATIO", "context + (tl.program_id(1) + 1) * RATIO"
    )
    case = case_of(steps=({"turns": (turn(0, 18),)},), values={"seed": 1})
    assert not oracle.run(case, implementation, DEVICE).findings
    (finding,) = schedules.run(case, implementation, DEVICE).findings
    one_step = Clause(("compress",), lambda case: len(case.session.steps) == 1, "one step", "nowhere")
    assert not schedules.run(case, replace(implementation, contract=Clauses((one_step,))), DEVICE).findings
    assert str(finding.signature) == "compress/metamorphic/schedule/keys"
    assert "where the same tokens came in other steps: step " in finding.detail
    subject = InProcess(implementation, DEVICE)
    small, again = minimise(case, subject, finding.signature)
    assert again.signature == finding.signature
    assert small.session.tokens < 18


def test_a_session_is_made_small():
    signature = "compress/bound-exceeded/keys"
    subject = InProcess(with_mistake(*MISTAKES[signature]), DEVICE)
    small, _ = minimise(case_of(), subject, Signature.parse(signature))
    steps = small.session.steps
    assert len(steps) == 2
    assert len({t.request for step in steps for t in step.turns}) == 1
    assert sum(t.new + t.drafts for step in steps for t in step.turns) <= 8


def test_the_plainest_pooling_is_tried():
    subject = InProcess(with_mistake("in tl.static_range(LOG_DIM)", "in tl.static_range(LOG_DIM - 1)", "pool"), DEVICE)
    case = case_of("pool", overlap=False, pooling="max", steps=STEPS[:1])
    (finding,) = subject.run(case).findings
    small, _ = minimise(case, subject, finding.signature)
    assert (small.session.ratio, small.session.pooling) == (2, "softmax")


def test_a_fork_that_never_has_a_turn_is_served():
    steps = ({"turns": (turn(0, 5),)}, {"forks": ({"parent": 0, "child": 3},)})
    assert not oracle.run(case_of(steps=steps), builtin(), DEVICE).findings
    assert not schedules.run(case_of(steps=steps), builtin(), DEVICE).findings


class Remembers:
    """A gather that keeps the pages it has read, and reads no page twice."""

    def __init__(self):
        self.pages = {}

    def __call__(self, *, cache, block_table, **rest):
        seen = cache.clone()
        for page in block_table.unique().tolist():
            if 0 <= page < len(cache):
                self.pages.setdefault(page, cache[page].clone())
                seen[page] = self.pages[page]
        gather.gather(cache=seen, block_table=block_table, **rest)


def test_a_stale_page_is_found(reference_with, pytorch_device):
    case = case_of("none", 1, overlap=False)
    assert not oracle.run(case, reference_with(), pytorch_device).findings
    found = oracle.run(case, reference_with(gather=Remembers()), pytorch_device).findings
    assert str(found[0].signature) in ("gather/unwritten/k_fp8", "gather/code-mismatch/k_fp8")
    assert not found[0].detail.startswith("step 0")


def writes_a_neighbour(*, cache, slot_mapping, **rest):
    writer.k_quant_cache(cache=cache, slot_mapping=slot_mapping, **rest)
    cache[(int(slot_mapping.max()) // cache.shape[1] + 1) % len(cache), 0, :4] = 0


def test_bytes_of_other_requests_must_stay(reference_with, pytorch_device):
    found = oracle.run(case_of(), reference_with(k_quant_cache=writes_a_neighbour), pytorch_device).findings
    assert {finding.stage for finding in found} == {"k_quant_cache"}


def test_pages_are_used_again_and_forks_share_full_ones():
    case = case_of("none", 1, overlap=False)
    serving = Serving(case, "cpu")
    pages = []
    for number, (step, rows) in enumerate(zip(case.session.steps, follow(case.session), strict=True)):
        serving.begin(number, step, rows)
        pages.append({request: list(held.pages) for request, held in serving.requests.items()})
        serving.end(step, rows)
    shared = 9 // case.cache.block_size
    assert pages[2][2][:shared] == pages[2][0][:shared]
    assert not set(pages[2][2][shared:]) & set(pages[2][0])
    assert set(pages[3][0]) & set(pages[2][0][shared:])
    assert not set(pages[3][0]) & (set(pages[3][1]) | set(pages[3][2]))


@pytest.mark.parametrize("node", ["pool", "fused_pool"])
def test_what_the_reference_leaves_alone_holds_nothing_in_any_step(node):
    made = oracle.launches(case_of(node, overlap=False), DEVICE, builtin())
    assert {bool(step.written["state"].any()) for *_, step, _ in made if "state" in step.written} == {False}
