"""Paths that a kernel takes inside, which no launcher decides: campaigns find their way there."""

from dataclasses import replace
from importlib.resources import files

import pytest

from indexfuzz.campaign.events import CaseRun, Seen
from indexfuzz.campaign.loop import Campaign
from indexfuzz.campaign.settings import Settings
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import import_source
from indexfuzz.subjects.in_process import InProcess

CASES = 60

PATHS = {
    "rope": (
        "    is_valid_pair = pair < ROPE_DIM // 2\n",
        "    is_valid_pair = pair < (ROPE_DIM // 2{fault} if num_tokens * num_heads > 5000 else ROPE_DIM // 2)\n",
    ),
    "gather": (
        "    is_valid_token = token < num_tokens\n",
        "    is_valid_token = (token < num_tokens) & ((token < 20000){fault})\n",
    ),
}
"""By stage, what stands there, and what stands there with the path; without its fault it does what it should."""


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


def search(subject, stage, *, steered=True):
    """Cases until the first finding, or None; and the conditions that a campaign has seen."""
    count, wanted = 0, Settings(subject, frozenset({stage}), cases=CASES, seed=101, steered=steered)

    def listen(event):
        nonlocal count
        count += isinstance(event, CaseRun)
        if isinstance(event, Seen):
            raise _FoundError

    campaign = Campaign(wanted, listen)
    try:
        campaign.run()
    except _FoundError:
        return count, campaign.summary.goals
    return None, campaign.summary.goals


@pytest.mark.parametrize(("stage", "fault"), [("rope", " - 1"), ("gather", "")])
def test_a_path_of_a_kernel_is_found_by_what_it_compares(stage, fault):
    subject = InProcess(implementation(stage, f"path_{stage}", fault), open_device("lockstep"))
    count, _ = search(subject, stage)
    assert count is not None
    assert search(subject, stage, steered=False)[0] is None


@pytest.mark.parametrize(("stage", "fault"), [("rope", ""), ("gather", " | (token >= 20000)")])
def test_a_path_that_does_nothing_wrong_shows_nothing(stage, fault):
    subject = InProcess(implementation(stage, f"clean_{stage}", fault), open_device("lockstep"))
    count, goals = search(subject, stage)
    assert count is None
    assert goals.turned(inside=True)
    assert not [one for one in goals.unturned() if "5000" in one.text or "20000" in one.text]
