"""Sessions: identity of older cases, bounds on what strangers may write, and what becomes of requests."""

import json
from pathlib import Path

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.core.session import MAX_STEPS, Session, follow
from indexfuzz.core.session_words import tell_chunks, tell_session
from indexfuzz.generation.stream import stream_cases

CORPUS = Path(__file__).parents[2] / "corpus"
TURN = {"request": 0, "new": 3}


def session(*steps, **fields):
    return Case().replace(session={"steps": steps} | fields, batch={"max_model_len": 100})


def test_cases_of_one_step_keep_their_ids():
    files = sorted(CORPUS.glob("*/*.json"))
    assert files
    for file in files:
        case = Case.parse(json.loads(file.read_text(encoding="utf-8"))["case"])
        assert case.id == file.stem
    for case, _ in zip(stream_cases(3, ("e4m3fn",)), range(500), strict=False):
        assert "session" not in case.canonical_json()
        assert Case.parse(json.loads(case.canonical_json())) == case


def test_the_id_of_a_session_is_pinned():
    case = session({"turns": (TURN,)}, {"turns": (TURN | {"drafts": 2, "accepted": 1},), "free": (0,)})
    assert case.id == "f892f32ff87f917c"
    assert Case.parse(json.loads(case.canonical_json())) == case


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"ratio": 4}, "ratio must be 1"),
        ({"overlap": True, "steps": [{"turns": [TURN]}]}, 'overlap must be false for node "none"'),
        ({"node": "pool", "ratio": 4, "overlap": True}, 'overlap must be false for node "pool"'),
        ({"node": "compress", "ratio": 4, "pooling": "max"}, 'pooling must be "softmax" for node "compress"'),
        ({"node": "compress", "steps": [{"turns": [TURN]}]}, 'ratio must be at least 2 for node "compress"'),
        ({"node": "compress", "ratio": 4}, "session has no steps"),
        ({"steps": [{"turns": [TURN, TURN]}]}, "step 0 has two turns of request 0"),
        ({"steps": [{"free": [2]}]}, "step 0 frees request 2, which is not there"),
        ({"steps": [{"turns": [TURN], "free": [0]}, {"forks": [{"parent": 0, "child": 1}]}]}, "step 1 forks request 0"),
        ({"steps": [{"turns": [TURN | {"accepted": 1}]}]}, "accepted 1 exceeds drafts 0"),
        ({"steps": [{"turns": [TURN | {"request": 16}]}]}, "less than 16"),
        ({"steps": [{"turns": [TURN | {"new": 1 << 20}]}]}, "less than or equal to 4096"),
        ({"steps": [{"turns": [TURN | {"new": 4096}]}] * 5}, "at most 16384 are allowed"),
        ({"steps": [{}] * (MAX_STEPS + 1)}, "at most 64 items"),
        ({"steps": [{"turns": [TURN | {"new": 101}]}]}, "101 tokens beyond max_model_len 100"),
        ({"steps": [{"colour": 1}]}, "session.steps.0.colour: Extra inputs"),
    ],
)
def test_wrong_sessions_get_one_sentence(data, message):
    with pytest.raises(CaseError) as error:
        Case.parse({"session": data, "batch": {"max_model_len": 100}})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("parts", [{"batch": {"decode": (1,)}}, {"values": {"k": "nonfinite"}}])
def test_a_case_is_a_step_or_a_session(parts):
    with pytest.raises(CaseError, match="session"):
        session({"turns": (TURN,)}).replace(**parts)


@pytest.mark.parametrize("node", ["pool", "fused_pool"])
def test_keys_that_are_turned_have_a_power_of_two_of_dims(node):
    with pytest.raises(CaseError, match=f'"{node}".*power of two, not 63'):
        session({"turns": (TURN,)}, node=node, ratio=4).replace(model={"head_dim": 63})
    assert session({"turns": (TURN,)}, node="compress", ratio=4).replace(model={"head_dim": 63}).model.head_dim == 63


def test_requests_are_followed_through_drafts_forks_and_lives():
    case = session(
        {"turns": (TURN | {"drafts": 3, "accepted": 1},)},
        {"forks": ({"parent": 0, "child": 1},), "turns": (TURN | {"request": 1},), "free": (0,)},
        {"turns": (TURN,)},
    )
    rows = [row for step in follow(case.session) for row in step]
    assert [(r.request, r.life, r.start, r.end, r.length) for r in rows] == [
        (0, 0, 0, 6, 4),
        (1, 0, 4, 7, 7),
        (0, 1, 0, 3, 3),
    ]
    assert case.session.pages(2) == 3 + 4
    assert case.num_blocks == case.session.pages(1) + case.cache.spare_blocks


def test_a_session_is_told_step_by_step():
    steps = (
        {"turns": (TURN,), "pad_tokens": 2},
        {"turns": (TURN | {"new": 1, "drafts": 3, "accepted": 1},), "free": (0,)},
        {"turns": (TURN,)},
        {},
    )
    told = list(tell_session(Session.model_validate({"node": "compress", "ratio": 4, "steps": steps})))
    assert told == [
        ("step 0", "request 0 appends tokens 0 to 2"),
        ("", "2 rows of padding"),
        ("step 1", "request 0 appends token 3, then drafts tokens 4 to 6, 2 of them rejected; key 0 is due"),
        ("", "request 0 goes; its pages and its ring are free"),
        ("step 2", "request 0 anew, as another request appends tokens 0 to 2"),
        ("step 3", "nothing"),
    ]


@pytest.mark.parametrize(
    ("told", "turns"),
    [
        ("in one step", ((7, 0, 0),)),
        ("one a step", ((1, 0, 0), (1, 0, 0), (0, 0, 0))),
        ("in steps of 1, 2", ((1, 0, 0), (2, 0, 0))),
        ("in steps of 0 before 1 rejected draft, 4", ((0, 1, 0), (4, 0, 0))),
        ("in steps of 5 before 2 rejected drafts", ((4, 3, 1),)),
    ],
)
def test_the_chunks_of_a_request_are_told(told, turns):
    other = TURN | {"request": 1}
    steps = tuple({"turns": (other, TURN | {"new": n, "drafts": d, "accepted": a})} for n, d, a in turns)
    session = Session.model_validate({"node": "compress", "ratio": 4, "steps": steps})
    assert tell_chunks(session, 0) == told
