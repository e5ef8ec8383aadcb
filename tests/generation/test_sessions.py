"""Sessions are drawn where an implementation keeps something between steps, and of every kind that they have."""

from dataclasses import replace

import pytest

from indexfuzz.campaign import drawing
from indexfuzz.campaign.chunk import CHUNK, Chunk
from indexfuzz.campaign.drawing import draw_chunk
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.steered import Drawn, Steered
from indexfuzz.core.case import FAR
from indexfuzz.core.case_parts import TILE
from indexfuzz.core.presets import PRESETS
from indexfuzz.core.stage_names import FUSED_POOL, RMS_NORM, STATEFUL, STATEFUL_COVERS
from indexfuzz.devices import open_device
from indexfuzz.generation.sessions import NODES, sessions
from indexfuzz.generation.strategies import OFFSETS
from indexfuzz.generation.stream import draw
from indexfuzz.implementations.builtin import builtin
from indexfuzz.subjects.in_process import InProcess

CASES = draw(sessions(), 5, 200)


def drawn(number=0, **settings):
    stages = settings.pop("stages", builtin().stages)
    subject = InProcess(replace(builtin(), stages=stages), open_device("lockstep"))
    wanted = Settings(subject, seed=3, **({"steered": False} | settings))
    return [drawn.case for drawn in draw_chunk(wanted, Chunk(number))]


def test_each_shape_has_a_session_beside_it_and_the_others_are_what_they_were():
    mixed = drawn()
    found = [bool(case.session.steps) for case in mixed]
    assert found == [False, True] * CHUNK
    stateless = {name: run for name, run in builtin().stages.items() if name not in STATEFUL}
    assert drawn(stages=stateless) == [case for case in mixed if not case.session.steps]


def test_sessions_keep_their_share_where_a_shape_becomes_several_cases(monkeypatch):
    def steer(wanted, key, fresh, chunk, others):
        return Steered([[Drawn(case)] * 9 for case in fresh], [])

    monkeypatch.setattr(drawing, "steer_cases", steer)
    found = [bool(case.session.steps) for case in drawn(1, steered=True)]
    assert sum(found) == CHUNK
    assert len(found) > 5 * CHUNK


def test_sessions_alone_are_drawn_where_only_stateful_operations_are_there_or_wanted():
    pool = {"pool": builtin().stages["pool"]}
    for cases in (drawn(stages=pool), drawn(only=frozenset({"pool"}))):
        assert {case.session.node for case in cases} == {"pool"}
    both = drawn(only=frozenset({"pool", "compress"}))
    assert {case.session.node for case in both} == {"pool", "compress"}


@pytest.mark.parametrize(
    "settings",
    [{"only": frozenset({"gather"})}, {"preset": next(iter(PRESETS.values()))}, {"values": ("nonfinite",)}],
)
def test_sessions_are_left_out_where_they_are_not_wanted(settings):
    assert not any(case.session.steps for case in drawn(**settings))


@pytest.mark.parametrize(
    "has",
    [
        lambda session: session.node == "none",
        lambda session: session.ratio == 128,
        lambda session: session.overlap,
        lambda session: session.node == "pool" and session.pooling == "softmax" and session.ratio == 4,
        lambda session: session.pooling == "max",
        lambda session: session.node == "compress_norm",
        lambda session: any(step.forks for step in session.steps),
        lambda session: any(step.free for step in session.steps),
        lambda session: any(step.pad_tokens for step in session.steps),
        lambda session: any(not step.turns for step in session.steps) or len(session.steps) == 6,
        lambda session: any(turn.new == 0 for step in session.steps for turn in step.turns),
        lambda session: any(0 < turn.accepted < turn.drafts for step in session.steps for turn in step.turns),
        lambda session: any(turn.drafts == 5 and not turn.accepted for step in session.steps for turn in step.turns),
    ],
)
def test_sessions_have_all_that_they_may_have(has):
    assert any(has(case.session) for case in CASES)


@pytest.mark.parametrize("what", ["state", "k", "weights", "table"])
def test_sessions_have_tensors_that_are_far(what):
    assert 2 < sum(case.memory.far == what for case in CASES) < 40


def test_pages_of_sessions_that_are_far_lie_beyond_an_offset():
    far = [case for case in draw(sessions(), 5, 400) if case.cache.page_pad > FAR]
    assert {case.cache.scales for case in far} == {"fp32", "ue8m0", "mxfp4"}
    for case in far:
        stride = case.cache.page_pad + case.cache.block_size * case.token_bytes
        beyond = [case.cache.spare_blocks * stride - offset for offset in OFFSETS]
        assert any(0 <= bytes_ < 4 * case.cache.spare_blocks for bytes_ in beyond)


def test_keys_of_every_node_have_values_of_every_size():
    for node in NODES:
        drawn_for = {case.values.k for case in draw(sessions((node,)), 5, 60)}
        assert drawn_for >= {"zeros", "clamp", "normal", "large"}


def test_keys_that_are_normed_are_often_as_small_as_eps():
    for node, nodes in STATEFUL_COVERS.items():
        of_node = draw(sessions((node,)), 5, 100)
        faint = sum(case.values.k == "faint" for case in of_node)
        assert (faint > 15) if RMS_NORM in nodes else (faint == 0)


def test_the_same_seed_gives_the_same_sessions():
    assert [case.id for case in draw(sessions(), 5, 20)] == [case.id for case in CASES[:20]]
    assert len({case.id for case in CASES}) == len(CASES)


@pytest.mark.parametrize("form", [("fp32", 1), ("ue8m0", 1), ("ue8m0", 4), ("mxfp4", 4)])
@pytest.mark.parametrize("node", NODES)
def test_keys_of_each_form_are_drawn_for_each_node(node, form):
    of_node = draw(sessions((node,)), 5, 60)
    assert form in {(case.cache.scales, case.model.head_dim // case.model.quant_group) for case in of_node}
    assert all(case.has_scales for case in of_node)


def test_interleaved_exponents_often_go_beyond_the_first_tile_of_a_page():
    interleaved = [case for case in draw(sessions((FUSED_POOL,)), 5, 200) if case.cache.layout == "shuffle-scales"]
    beyond = [
        case for case in interleaved if case.cache.block_size > TILE and case.session.length > TILE * case.session.ratio
    ]
    assert len(beyond) > len(interleaved) / 2 > 3
