"""What a finding of another device says of lockstep."""

from dataclasses import replace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup
from indexfuzz.devices import toolchain
from indexfuzz.devices.toolchain import describe_toolchain
from indexfuzz.subjects.in_lockstep import tell_of_lockstep

CASE = Case().replace(batch={"decode": (3,), "max_model_len": 4}, cache={"block_size": 4, "layout": "normal"})
ELSEWHERE = Setup(device="cuda", isolate=True)


def test_a_bug_of_the_kernel_shows_there_too():
    told = tell_of_lockstep(replace(ELSEWHERE, faults=("relu-after-sum",)), CASE.replace(model={"num_heads": 4}))
    assert told.startswith("in lockstep the case shows paged_logits/")


def test_what_is_clean_there_is_told_with_versions():
    told = tell_of_lockstep(ELSEWHERE, CASE)
    assert told == f"the same case is clean in lockstep, so it may be a compiler's ({describe_toolchain()})"


@pytest.mark.parametrize("device", ["lockstep", "lockstep:sm90"])
def test_lockstep_is_not_asked_about_itself(device):
    assert tell_of_lockstep(Setup(device=device), CASE) == ""


def test_what_cannot_be_opened_says_nothing():
    assert tell_of_lockstep(Setup("no_such_module:kernels", device="cuda"), CASE) == ""


def test_the_driver_is_named_where_there_is_one(monkeypatch, tmp_path):
    file = tmp_path / "version"
    monkeypatch.setattr(toolchain, "DRIVER", file)
    assert "driver" not in describe_toolchain()
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue\nGCC version:  12.3.0\n")
    assert describe_toolchain().endswith(", driver 580.159.04")
