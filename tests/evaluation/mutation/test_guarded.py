"""Guarded mutants: the same for a seed, shown by their witness, as rare as they say, and hunted as campaigns hunt."""

import json
import random
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest

from indexfuzz.cli import mutate
from indexfuzz.cli.common import InputError
from indexfuzz.devices import open_device
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.evaluation.mutation import guarded, hunt, hunts
from indexfuzz.evaluation.mutation.examine import Suspect
from indexfuzz.evaluation.mutation.guarded import Maker, Recipe, build, look_at, pool_of
from indexfuzz.evaluation.mutation.guards import Guard, draw_guard, wilson
from indexfuzz.evaluation.mutation.hunt import CAMPAIGN, DRAWINGS, Budget, Hunt, Hunter, HuntReport, Prey, Unread
from indexfuzz.evaluation.mutation.witnesses import witnesses
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults.planting import import_source
from indexfuzz.oracles.differential import run
from indexfuzz.subjects.in_process import InProcess

DEVICE = open_device("lockstep")
RECIPE = Recipe(seed=7, words=("gather",), pool=60)


@pytest.fixture(scope="module")
def made():
    maker = Maker(RECIPE)
    return [maker.examine(number) for number in range(4)]


def test_witnesses_are_determined_by_their_seed_and_differ():
    first, again, other = (list(islice(witnesses(seed, DEVICE.formats), 20)) for seed in (1, 1, 2))
    assert first == again
    assert len({case.id for case in first + other}) == 40


def test_right_kernels_pass_witnesses():
    for case in islice(witnesses(3, DEVICE.formats), 12):
        assert run(case, builtin(), DEVICE).findings == []


def test_a_seed_makes_the_same_mutants_again(made):
    assert Maker(replace(RECIPE, seconds=1.0)).examine(1) == made[1]
    assert [found.wanted for found in made] == [10, 100, 1_000, 10_000]


def test_a_mutant_shows_in_its_witness_and_where_the_guard_does_not_hold_the_kernels_are_right(made):
    for found in made:
        only = frozenset({found.stage})
        (finding,) = [Suspect(build(found), only, composed=False).first_finding(found.witness, DEVICE)]
        assert finding.stage == found.stage
        closed = build(replace(found, number=found.number + 1000, guard=Guard("False", 1)))
        assert Suspect(closed, only, composed=False).first_finding(found.witness, DEVICE) is None


LOOP = """
import triton
import triton.language as tl
from indexfuzz.kernels.gather import gather as right

@triton.jit
def _loops(n):
    for _ in range(n):
        pass

def gather(k_fp8, **options):
    right(k_fp8=k_fp8, **options)
    _loops[(1,)]({rounds})
    k_fp8.fill_(1)
"""


@pytest.mark.parametrize(("rounds", "is_ended"), [(9, False), (250, False), (1 << 23, True)])
def test_a_mutant_whose_loops_run_far_too_often_is_ended_by_their_count(rounds, is_ended):
    looping = import_source(f"indexfuzz_kernels_that_loop_{rounds}", LOOP.format(rounds=rounds), f"loops/{rounds}.py")
    wrong = replace(builtin(), stages={"gather": looping.gather})
    suspects = [Suspect(each, frozenset({"gather"}), composed=False) for each in (wrong, builtin())]
    case = next(case for case in witnesses(3, DEVICE.formats) if suspects[0].is_reached_by(case) and case.batch.keys)
    with pytest.raises(UnsupportedKernelError, match="rounds") if is_ended else nullcontext():
        assert Maker(RECIPE).shows_in_time(*suspects, case, "gather")


def test_a_mutant_may_run_more_rounds_where_the_kernels_proper_do(monkeypatch):
    monkeypatch.setattr(guarded, "FREE_ROUNDS", 0)
    looping = import_source("indexfuzz_kernels_that_loop_little", LOOP.format(rounds=20), "loops/little.py")
    usual = import_source("indexfuzz_kernels_that_loop", LOOP.format(rounds=4), "loops/usual.py")
    wrong, right = (replace(builtin(), stages={"gather": each.gather}) for each in (looping, usual))
    suspects = [Suspect(each, frozenset({"gather"}), composed=False) for each in (wrong, right, builtin())]
    case = next(case for case in witnesses(3, DEVICE.formats) if suspects[0].is_reached_by(case) and case.batch.keys)
    assert Maker(RECIPE).shows_in_time(*suspects[:2], case, "gather")
    with pytest.raises(UnsupportedKernelError, match="rounds"):
        Maker(RECIPE).shows_in_time(suspects[0], suspects[2], case, "gather")


def test_a_guard_holds_for_the_witness_and_is_as_rare_as_wanted():
    pool = [found["gather"] for found in pool_of(replace(RECIPE, pool=300)) if "gather" in found]
    case = next(case for case in witnesses(11, DEVICE.formats) if "gather" in look_at(case))
    witness = look_at(case)["gather"]
    for seed in range(10):
        guard = draw_guard(random.Random(seed), witness, pool, 10)
        assert guard is not None
        assert _holds(guard, witness)
        share = sum(_holds(guard, other) for other in pool) / len(pool)
        assert 1 / 16 <= share <= 1 / 6.25
        assert guard.rarity == pytest.approx(1 / share)


def _holds(guard, values):
    """Whether a guard holds, by the values of what it looks at."""
    source = guard.source
    names = {}
    for number, name in enumerate(sorted(values, key=len, reverse=True)):
        source = source.replace(name, f"value{number}_")
        names[f"value{number}_"] = values[name]
    return bool(eval(source, {}, names))


def test_an_open_guard_is_found_and_a_closed_one_is_not(made):
    hunter = Hunter(Budget(seconds=1e6))
    found = hunter.examine(Prey(replace(made[0], number=2000, guard=Guard("True", 1)), CAMPAIGN))
    assert found.found
    assert found.cases >= 1
    assert found.signature.startswith("gather/")
    closed = replace(made[0], number=2001, guard=Guard("False", 1))
    for drawing in DRAWINGS:
        assert not Hunter(Budget(seconds=0.0)).examine(Prey(closed, drawing)).found


def test_a_campaign_reads_the_numbers_of_a_guard_unless_it_is_told_not_to(made):
    found = build(replace(made[0], number=2002, guard=Guard("k_fp8.shape[0] >= 3217", 1)))
    assert 3217 in InProcess(found, DEVICE).facts.constants
    assert Unread(found, DEVICE).facts == replace(InProcess(found, DEVICE).facts, constants=())


def test_intervals_of_wilson():
    assert wilson(0, 0) == (0, 1)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_a_report_counts_by_rarity_and_names_what_was_missed(made):
    hunts = [Hunt(Prey(made[0], "campaign"), found=True, cases=3), Hunt(Prey(made[1], "campaign"), found=False)]
    report = HuntReport([hunt.as_data() for hunt in hunts], 9.0, 7)
    text = report.as_text()
    assert "guarded mutants of seed 7, 9 s of CPU time each" in text
    assert "1 of 1 (21% to 100%)" in text
    assert "0 of 1 (0% to 79%)" in text
    assert f"not found: 1  {made[1].mutant.id}" in text
    assert json.loads(json.dumps(report.as_data()))["hunts"][0]["found"]


def test_parts_are_disjoint_and_together_all(made):
    parts = [mutate._numbers(f"{part}/3", 20) for part in (1, 2, 3)]
    assert [number for part in parts for number in part] == list(range(20))
    assert [len(part) for part in parts] == [8, 8, 4]
    for wrong in ("0/3", "4/3", "3", "a/b"):
        with pytest.raises(InputError, match="--part"):
            mutate._numbers(wrong, 20)


def test_mutants_of_one_rarity_are_those_that_are_made_among_all(made):
    every = [number for number in mutate._numbers("1/1", 20) if number % 4 == 2]
    assert [*mutate._numbers("1/1", 5, 1000)] == every
    assert {found.wanted for found in made if found.number in every} == {1000}
    parts = [mutate._numbers(f"{part}/3", 5, 1000) for part in (1, 2, 3)]
    assert [[*part] for part in parts] == [[2, 6], [10, 14], [18]]
    with pytest.raises(InputError, match="--one-in: 500 is none; choose of 10, 100, 1000, 10000"):
        mutate._numbers("1/1", 5, 500)


def test_parts_are_joined(made, tmp_path, capsys):
    files = []
    for i, found in enumerate((True, False)):
        hunts = [Hunt(Prey(made[i], CAMPAIGN), found=found).as_data()]
        files.append(tmp_path / f"{i}.json")
        files[i].write_text(json.dumps(HuntReport(hunts, 9.0, 7).as_data()))
    mutate._join(files, as_json=False)
    out = capsys.readouterr().out
    assert "1 of 1 (21% to 100%)" in out
    assert f"not found: 1  {made[1].mutant.id}" in out
    with pytest.raises(InputError, match="a hunt is in two of the files"):
        mutate._join([files[0], files[0]], as_json=False)
    files[1].write_text(files[1].read_text().replace('"seed": 7', '"seed": 8'))
    with pytest.raises(InputError, match="not of one seed"):
        mutate._join(files, as_json=False)
    files[1].write_text('{"hunts": [1]}')
    with pytest.raises(InputError, match="was not written by"):
        mutate._join(files, as_json=False)
    with pytest.raises(InputError, match="cannot read"):
        mutate._join([tmp_path / "none"], as_json=False)


class _Crew:
    """Hands out what was made before, and calls a hunt found, or only one with the cases of a campaign, `only`."""

    def __init__(self, made, hunted, only):
        self.made, self.hunted, self.only = made, hunted, only
        self.asked = set()

    def __call__(self, make, _give_up, budget, workers):
        self.asked.add((make, budget, workers))
        examine = self.made.__getitem__ if make is Maker else self._hunt
        return nullcontext(SimpleNamespace(examine=examine))

    def _hunt(self, prey):
        self.hunted.append((prey.guarded.number, prey.drawing))
        return Hunt(prey, found=self.only in (None, prey.drawing))


def test_the_command(made, monkeypatch, indexfuzz):
    crew = _Crew(made, [], CAMPAIGN)
    monkeypatch.setattr(hunts, "Crew", crew)
    code, out, err = indexfuzz("mutate", "gather", "--guarded", "4", "--seed", "5", "--seconds", "3", "--workers", "2")
    assert code == 0
    assert crew.asked == {(Maker, Recipe(5, ("gather",)), 2), (Hunter, Budget(3.0, 5), 2)}
    assert len(err.splitlines()) == 12
    assert out.count("1 of 1 (21% to 100%)") == 4
    assert out.count("0 of 1 (0% to 79%)") == 8


def test_the_command_hunts_those_of_one_rarity_alone(made, monkeypatch, indexfuzz):
    hunted = []
    monkeypatch.setattr(hunts, "Crew", _Crew(made, hunted, None))
    code, _, _ = indexfuzz("mutate", "--guarded", "1", "--one-in", "1000", "--drawing", "campaign")
    assert (code, hunted) == (0, [(2, CAMPAIGN)])


def test_hunts_that_are_kept_are_not_repeated(indexfuzz, monkeypatch, tmp_path, made):
    """Those of one drawing now, then the others; with another budget all again."""
    hunted = []
    monkeypatch.setattr(hunts, "Crew", _Crew(made, hunted, None))

    def run(*more):
        code, out, _ = indexfuzz("mutate", "--guarded", "4", "--keep", tmp_path / "kept", *more)
        assert (code, len(out.splitlines())) == (0, 6)
        return out

    assert run("--drawing", "campaign").count("1 of 1 (21% to 100%)") == 4
    assert sorted(hunted) == [(number, CAMPAIGN) for number in range(4)]
    hunted.clear()
    assert run().count("1 of 1 (21% to 100%)") == 12
    assert set(hunted) == {(number, each) for number in range(4) for each in hunt.DRAWINGS if each != CAMPAIGN}
    assert len(hunted) == 8
    hunted.clear()
    assert run() == run()
    assert hunted == []
    run("--seconds", "5", "--drawing", "campaign")
    assert sorted(hunted) == [(number, CAMPAIGN) for number in range(4)]


def test_an_unknown_way_of_drawing_is_named(indexfuzz):
    code, _, err = indexfuzz("mutate", "--guarded", "4", "--drawing", "blind")
    assert code == 2
    assert "--drawing: 'blind' is none; choose of campaign, unguided, uniform" in err


def test_what_hangs_is_found_when_it_is_hunted_and_not_made():
    assert guarded.give_up(1, 1.0, "no answer in time") is None
    assert hunt.give_up("prey", 2.0, "the process died") == Hunt(
        "prey", found=True, seconds=2.0, signature="the process died"
    )
