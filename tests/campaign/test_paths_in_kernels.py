"""Paths that a kernel takes inside, which no launcher decides: campaigns find their way there."""

from dataclasses import replace
from importlib.resources import files

import pytest

from indexfuzz.campaign.events import Seen
from indexfuzz.campaign.loop import Campaign
from indexfuzz.campaign.settings import Settings
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import import_source
from indexfuzz.subjects.in_process import InProcess

CASES, STREAMS = 100, (101, 102, 103)
"""Cases of a stream, and its seeds: what one of them does not come to by chance, another does."""

PATHS = {
    "rope": (
        "    is_valid_pair = pair < ROPE_DIM // 2\n",
        "    is_valid_pair = pair < (ROPE_DIM // 2{fault} if x_head_stride > 1000 else ROPE_DIM // 2)\n",
    ),
    "gather": (
        "    is_valid_token = token < num_tokens\n",
        "    is_valid_token = (token < num_tokens) & ((token < 30000){fault})\n",
    ),
}
"""By stage, what stands there, and what stands there with the path; without its fault it does what it should.

The path begins beyond what is ever drawn: heads are at most 128 wide and 64 elements apart, and the keys that are
gathered fewer than 16,400 of one request, half as many of all others, and some padding.
"""


class _FoundError(Exception):
    pass


def implementation(stage, name, fault):
    old, new = PATHS[stage]
    text = files("indexfuzz.kernels").joinpath(f"{stage}.py").read_text(encoding="utf-8")
    assert text.count(old) == 1
    module = import_source(
        f"indexfuzz_kernels_with_{name}", text.replace(old, new.format(fault=fault)), f"paths/{name}.py"
    )
    return replace(builtin(), name=name, stages={stage: getattr(module, stage)})


def search(subject, stage, seed, *, steered=True):
    """Whether some case shows a finding, and the conditions that a campaign has seen."""
    wanted = Settings(subject, frozenset({stage}), cases=CASES, seed=seed, steered=steered)

    def listen(event):
        if isinstance(event, Seen):
            raise _FoundError

    campaign = Campaign(wanted, listen)
    try:
        campaign.run()
    except _FoundError:
        return True, campaign.summary.goals
    return False, campaign.summary.goals


@pytest.mark.parametrize(("stage", "fault"), [("rope", " - 1"), ("gather", "")])
def test_a_path_of_a_kernel_is_found_by_what_it_compares(stage, fault):
    subject = InProcess(implementation(stage, f"path_{stage}", fault), open_device("lockstep"))
    assert any(search(subject, stage, seed)[0] for seed in STREAMS)
    assert not search(subject, stage, STREAMS[0], steered=False)[0]


@pytest.mark.parametrize(("stage", "fault"), [("rope", ""), ("gather", " | (token >= 30000)")])
def test_a_path_that_does_nothing_wrong_shows_nothing(stage, fault):
    subject, turned = InProcess(implementation(stage, f"clean_{stage}", fault), open_device("lockstep")), False
    for seed in STREAMS:
        found, goals = search(subject, stage, seed)
        assert not found
        assert goals.turned(inside=True)
        turned |= not [one for one in goals.unturned() if "1000" in one.text or "30000" in one.text]
        if turned:
            break
    assert turned
