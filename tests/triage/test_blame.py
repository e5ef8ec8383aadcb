"""The line that a finding comes from, looked for in a copy of this process."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup
from indexfuzz.core.signature import Signature
from indexfuzz.triage import blame
from indexfuzz.triage.blame import find_blamed, tell_blamed

CASE = Case().replace(
    model={"head_dim": 32, "rope_dim": 16, "quant_group": 32},
    rope={"mode": "functional"},
    batch={"prefill": ({"length": 3, "new": 3},)},
)
UNTURNED = Signature.parse("rope/bound-exceeded/q")
PLANTED = Setup(faults=("rope-result-discarded",))


def test_the_line_that_returns_what_was_not_rotated_is_blamed():
    assert "rope returns it here." in tell_blamed(CASE, UNTURNED, PLANTED)
    file, _, number = find_blamed(CASE, UNTURNED, PLANTED).rpartition(":")
    right = Path(__file__).parents[2] / "kernels" / "rope.py"
    assert file.endswith("rope.py")
    assert right.read_text().splitlines()[int(number) - 1].strip() == "return new_q, new_k.squeeze(1)"


@pytest.mark.parametrize(
    "setup", [Setup(), replace(PLANTED, device="cuda"), replace(PLANTED, python="python"), Setup("module:no_such")]
)
def test_nobody_is_blamed_where_all_is_right_or_nobody_can_look(setup: Setup):
    assert not find_blamed(CASE, UNTURNED, setup)
    assert not tell_blamed(CASE, UNTURNED, setup)


def test_what_dies_or_prints_harms_nobody(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def die(*_: object) -> None:
        os.write(1, b"last words")
        os._exit(3)

    monkeypatch.setattr(blame, "look_at", die)
    assert not find_blamed(CASE, UNTURNED, PLANTED)
    assert "last words" not in capfd.readouterr().out
