"""The keys that a session ends with: of forks, of drafts that were rejected, of tokens that are keys themselves."""

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.session import Turn
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.triage.session_keys import make_keys

FORKED = (
    {"turns": (Turn(request=0, new=4),)},
    {"forks": ({"parent": 0, "child": 1},), "turns": (Turn(request=1, new=2),)},
)
DRAFTED = (
    {"turns": (Turn(request=0, new=3, drafts=3, accepted=0),)},
    {"turns": (Turn(request=0, new=2),)},
)


def keys_of(node, ratio, steps):
    session = {"node": node, "ratio": ratio, "steps": steps}
    case = Case().replace(batch={"max_model_len": 8}, model={"scale_fmt": "ue8m0"}, session=session)
    return make_keys(case, builtin(), open_device("lockstep"))


def test_a_fork_has_the_keys_of_its_parent():
    found = keys_of("compress", 2, FORKED)
    assert [*found] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert torch.equal(found[1, 1]["keys"], found[0, 1]["keys"])


def test_keys_of_rejected_drafts_give_way():
    found = keys_of("compress", 2, DRAFTED)
    assert [*found] == [(0, 0), (0, 1)]
    in_one_step = keys_of("compress", 2, ({"turns": (Turn(request=0, new=5),)},))
    assert torch.equal(found[0, 1]["keys"], in_one_step[0, 1]["keys"])


def test_keys_that_are_inserted_have_codes_and_a_scale():
    for node, ratio, count in (("fused_compress", 2, 5), ("none", 1, 4 + 6)):
        found = keys_of(node, ratio, FORKED)
        assert len(found) == count
        last = found[1, 5 // ratio]
        assert {name: (part.dtype, part.dim()) for name, part in last.items()} == {
            "cache_values": (torch.uint8, 1),
            "cache_scales": (torch.float32, 0),
        }
        assert torch.equal(found[1, 0]["cache_values"], found[0, 0]["cache_values"])
