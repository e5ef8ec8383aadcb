"""The pages of a state: taken as tokens come, given back when no key needs them, copied or shared by a fork."""

from collections import Counter

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.session import Turn, follow
from indexfuzz.core.stage_names import COMPRESS
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw
from indexfuzz.samples.kept import Kept
from indexfuzz.samples.serving import NO_PAGE, Serving

PAGED = Kept(64, 7, torch.float32, page=4)
"""Of a window of 8 tokens, in pages of 4."""


def case_of(*steps):
    session = {"node": COMPRESS, "ratio": 4, "overlap": True, "steps": steps}
    return Case().replace(session=session, batch={"max_model_len": 100})


def served(case, kept=PAGED):
    """The serving and the tensors of each step while it runs."""
    serving = Serving(case, "cpu", kept=kept)
    for number, (step, rows) in enumerate(zip(case.session.steps, follow(case.session), strict=True)):
        serving.begin(number, step, rows)
        yield serving, serving.making_step(number, step, rows)
        serving.end(step, rows)


def turn(request, new, drafts=0, accepted=0):
    return Turn(request=request, new=new, drafts=drafts, accepted=accepted).model_dump()


def test_pages_come_with_tokens_and_go_when_no_key_needs_them():
    steps = ({"turns": (turn(0, 9),)}, {"turns": (turn(0, 3),)}, {"turns": (turn(0, 1),)})
    gone = []
    for serving, step in served(case_of(*steps)):
        pages = serving.requests[0].kept
        gone.append(pages.count(NO_PAGE))
        assert len(pages) * PAGED.page >= len(serving.requests[0].tokens.kv)
        assert step.tensors["state_table"][0].tolist() == pages
        assert "rings" not in step.tensors
    # A key that is due with token 9 needs tokens 2 on, one that is due with token 12 tokens 5 on.
    assert gone == [0, 0, 1]


def test_a_page_has_one_owner_and_there_are_as_many_as_are_needed():
    most = 0
    for case in draw(sessions((COMPRESS,)), 5, 30):
        kept = Kept(case.model.head_dim * 2, 7, torch.float32, page=4)
        for serving, _ in served(case, kept):
            owned = Counter(page for r in serving.requests.values() for page in r.kept if page != NO_PAGE)
            forked = any(step.forks for step in case.session.steps)
            assert forked or not owned or max(owned.values()) == 1
            most = max(most, len(owned))
    assert most > 8


def test_a_fork_shares_full_pages_of_the_state_and_copies_the_last():
    fork = {"forks": ({"parent": 0, "child": 1},), "turns": (turn(1, 1),)}
    pages, copied = zip(
        *(
            ({number: list(r.kept) for number, r in serving.requests.items()}, step.copied)
            for serving, step in served(case_of({"turns": (turn(0, 6),)}, fork, {"turns": (turn(1, 1),)}))
        ),
        strict=True,
    )
    assert pages[1][1][0] == pages[1][0][0]
    assert pages[1][1][1] != pages[1][0][1]
    assert copied == ((), ((pages[1][0][1], pages[1][1][1]),), ())


@pytest.mark.parametrize(("kept", "shape"), [(PAGED, [4, 2, 64]), (Kept(64, 7, torch.float32), [7, 2, 64])])
def test_a_state_has_the_form_that_is_asked_for(kept, shape):
    ((serving, step),) = served(case_of({"turns": (turn(0, 6),)}), kept)
    assert list(serving.state.view.shape[1:]) == shape
    assert ("state_table" in step.tensors) == bool(kept.page)


@pytest.mark.parametrize("width", [63, 64])
def test_what_was_written_of_a_state_is_known_however_long_a_row_is(width):
    kept = Kept(width, 3, torch.bfloat16)
    steps = served(case_of({"turns": (turn(0, 3),)}, {"turns": (turn(0, 1),)}), kept)
    serving, first = next(steps)
    assert not first.written["state"].any()
    serving.state.view[0, 1, 0] = 1.0
    written = next(steps)[1].written["state"]
    assert written[0, 1, 0].all()
    assert written.sum() == width * torch.bfloat16.itemsize
