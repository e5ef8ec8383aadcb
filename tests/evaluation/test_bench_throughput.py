"""The benchmark of throughput in a small form: its sides, what it makes of their answers, and what it refuses."""

import json
import signal
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from indexfuzz.campaign.events import CaseRun, Known
from indexfuzz.campaign.loop import Campaign
from indexfuzz.campaign.summary import Summary
from indexfuzz.core.case import Case
from indexfuzz.core.interrupts import Interrupted
from indexfuzz.core.outcome import Outcome
from indexfuzz.evaluation.bench import scaling, throughput
from indexfuzz.evaluation.bench.throughput import compare
from indexfuzz.evaluation.bench.throughput_side import Answer, SideError, mount, start_side

HERE = Path(__file__).parents[2]


class Told:
    """A side that takes so many CPU seconds a case, and shows what it is told to."""

    def __init__(self, name: str, seconds: float, shown: dict[int, list[str] | None]) -> None:
        self.name, self.known, self.asked = name, frozenset(shown), list[list[int]]()
        self._seconds, self._shown = seconds, shown

    def run(self, numbers):
        self.asked.append(list(numbers))
        took = self._seconds * len(numbers)
        return Answer(took, 2 * took, {number: self._shown[number] for number in numbers})


def test_a_side_runs_cases_with_the_package_of_a_checkout():
    cases = [Case(), Case().replace(batch={"decode": (3,), "max_model_len": 4})]
    with start_side("there", "lockstep", cases, checkout=HERE) as side:
        assert side.known == {0, 1}
        answer = side.run([1, 0])
        assert answer.shown == {0: [], 1: []}
        assert answer.cpu > 0
        with pytest.raises(SideError, match="there ended with code 1"):
            side.run([2])


OLD = {
    "case": """
class Case:
    @staticmethod
    def model_validate_json(text):
        if "decode" in text:
            raise ValueError("a word of a later release")
        return "a case"
""",
    "under_test": """
from types import SimpleNamespace

class Setup:
    def __init__(self, device):
        self.device = device

def put_under_test(setup):
    def run(case):
        assert (case, setup.device) == ("a case", "lockstep")
        return SimpleNamespace(findings=[SimpleNamespace(signature="of the old release")])
    return SimpleNamespace(subject=SimpleNamespace(run=run))
""",
}


@pytest.fixture
def release(tmp_path):
    """Write the checkout of a release with so many of the old modules."""

    def make(*names):
        for folder in ("fuzz", "kernels", "reference"):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "__init__.py").write_text("")
        for name in names:
            (tmp_path / "fuzz" / f"{name}.py").write_text(OLD[name])
        return tmp_path

    return make


def test_a_release_without_our_folders_runs_what_it_has_words_for(release):
    cases = [Case(), Case().replace(batch={"decode": (3,), "max_model_len": 4})]
    with start_side("there", "lockstep", cases, checkout=release("case", "under_test")) as side:
        assert side.known == {0}
        assert side.run([0]).shown == {0: ["of the old release"]}


def test_what_a_release_lacks_is_not_taken_from_this_one(release, capfd):
    checkout = release("case")
    with (
        pytest.raises(SideError, match="there ended with code 1"),
        start_side("there", "lockstep", [], checkout=checkout),
    ):
        pass
    assert capfd.readouterr().err == "error: the release that is to be measured has no module indexfuzz.under_test\n"


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    (tmp_path / "package").mkdir()
    with pytest.raises(SideError, match=r"--against .*: no checkout of IndexFuzz, it has no folder .*fuzz"):
        mount(tmp_path / "package", tmp_path)


def test_cases_travel_without_loss(generated):
    for case in [Case(), *generated]:
        assert Case.model_validate_json(case.model_dump_json(exclude_defaults=True)) == case


@pytest.fixture
def generated():
    return throughput.draw_cases(20)


def test_sides_take_turns_on_what_both_can_run():
    ours = Told("ours", 1.0, {0: [], 1: [], 2: ["gather/values/k_fp8"], 3: []})
    theirs = Told("theirs", 3.0, {0: [], 1: None, 2: ["gather/values/k_fp8"], 3: []})
    found = compare(ours, theirs, [0, 1, 2])
    assert ours.asked == theirs.asked == [[0, 1, 2], [0, 2], [0, 2], [0, 2]]
    data = json.loads(json.dumps(found.as_data()))
    assert data["cases_per_second"] == {"this release": 1.0, "theirs": pytest.approx(1 / 3)}
    assert (data["median_ratio"], data["least_ratio"], data["greatest_ratio"]) == (3.0, 3.0, 3.0)
    assert (data["median_ratio_of_wall_time"], data["runs"], data["same_verdicts"]) == (3.0, 6, True)
    assert data["cases"] == 2


def test_other_verdicts_show():
    ours, theirs = Told("ours", 1.0, {0: []}), Told("theirs", 1.0, {0: ["topk/values/indices"]})
    assert not compare(ours, theirs, [0]).same_verdicts
    assert theirs.asked == [[0]] * 4


def test_a_case_that_ends_earlier_on_one_side_is_not_timed():
    ours = Told("ours", 1.0, {0: [], 1: []})
    theirs = Told("theirs", 1.0, {0: ["topk/values/indices"], 1: []})
    assert not compare(ours, theirs, [0, 1]).same_verdicts
    assert theirs.asked == [[0, 1], [1], [1], [1]]


def test_nothing_that_both_can_run_is_an_error():
    with pytest.raises(SideError, match="theirs cannot run any of the cases"):
        compare(Told("ours", 1.0, {0: []}), Told("theirs", 1.0, {0: None}), [0])


def test_it_prints_every_side(monkeypatch, capsys):
    @contextmanager
    def side(name, device, _cases, **options):
        assert (device == "interpreter") is (options.get("environment") == {"WHERE": "there"})
        yield Told(name, {"this release": 0.5, "the other release": 1.5}.get(name, 10.0), {0: [], 1: []})

    monkeypatch.setattr(throughput, "draw_cases", lambda _count: [Case(), Case()])
    monkeypatch.setattr(throughput, "start_side", side)
    monkeypatch.setattr(throughput, "interpreter", lambda: nullcontext(SimpleNamespace(environment={"WHERE": "there"})))
    monkeypatch.setattr(throughput, "measure_rate", lambda count, _seed: scaling.Rate(count, 4, 90 * count, 30.0))
    assert throughput.main(as_json=False, against="before", workers=[1, 2]) == 0
    before, plain, *scaled = capsys.readouterr().out.splitlines()
    assert [*before.split("; "), *plain.split("; ")] == [
        "the other release: 0.67 cases/s of one core, this release: 2.00",
        "3.00 times as fast in the median of 3 turns (3.00 to 3.00), 6 runs of 2 different cases, the same verdicts",
        "plain loop: 0.10 cases/s of one core, this release: 2.00",
        "20.00 times as fast in the median of 3 turns (20.00 to 20.00), 3 runs of 1 different cases, the same verdicts",
    ]
    assert scaled == [
        "1 workers: 3.0 cases/s in 30 s on 4 cores, 3.00 each",
        "2 workers: 6.0 cases/s in 30 s on 4 cores, 3.00 each",
    ]
    assert throughput.main(as_json=True, workers=[2]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [one["side"] for one in data["compared"]] == ["plain loop"]
    assert data["scaling"] == [{"workers": 2, "cores": 4, "cases": 180, "seconds": 30.0}]


def test_a_side_that_cannot_run_is_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(throughput, "draw_cases", lambda _count: [Case()])
    assert throughput.main(as_json=False, against=str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith(f"error: --against {tmp_path}: no checkout of IndexFuzz")


def test_only_cases_between_the_two_points_in_time_count():
    now = [0.0]
    counting = scaling.Counting(10, 20, lambda: now[0])
    for at, event in ((9, CaseRun), (10, CaseRun), (15, Known), (29, CaseRun), (30, CaseRun)):
        now[0] = at
        counting.hear(CaseRun(Outcome(Case())) if event is CaseRun else Known(None, Case(), None))
    assert counting.cases == 2


def test_a_campaign_is_counted():
    rate = scaling.measure_rate(1, seed=3, warm=0.0, counted=2.0)
    assert (rate.workers, rate.seconds) == (1, 2.0)
    assert rate.cases_per_second == rate.cases / 2


def test_only_the_time_between_the_first_case_and_the_last_counts():
    now = [0.0]
    stopwatch = scaling.Stopwatch(lambda: now[0])
    assert stopwatch.seconds == 0
    for at, event in ((9, CaseRun), (10, CaseRun), (15, CaseRun), (29, Known)):
        now[0] = at
        stopwatch.hear(CaseRun(Outcome(Case())) if event is CaseRun else Known(None, Case(), None))
    assert stopwatch.seconds == 6


def test_a_campaign_on_a_device_that_compiles_is_run_twice():
    found = scaling.measure_compiling(1, seed=3, device="lockstep", cases=4)
    assert (found.workers, found.cases, found.kernels) == (1, 4, 0)
    assert found.warm > 0
    assert found.cold > 0


def test_a_measurement_that_is_interrupted_gives_no_figures(monkeypatch):
    heard = Summary(interrupted=signal.SIGTERM)
    monkeypatch.setattr(Campaign, "run", lambda _: heard)
    with pytest.raises(Interrupted, match="SIGTERM"):
        scaling.measure_rate(1, seed=3)
    with pytest.raises(Interrupted, match="SIGTERM"):
        scaling.measure_compiling(1, seed=3, device="lockstep", cases=4)


def test_on_a_gpu_new_kernels_are_counted_apart(monkeypatch, capsys):
    monkeypatch.setattr(throughput, "open_device", lambda _name: None)
    monkeypatch.setattr(throughput, "measure", lambda *_: [])
    monkeypatch.setattr(throughput, "draw_cases", lambda _count: [])
    compiling = scaling.Compiling(16, 32, cases=1000, kernels=300, cold=10.0, warm=2.0)
    monkeypatch.setattr(throughput, "measure_compiling", lambda *_: compiling)
    assert throughput.main(as_json=False, workers=[16], device="cuda") == 0
    assert capsys.readouterr().out == (
        "16 workers on 32 cores, 1000 cases: 100.0 cases/s and 30.0 new kernels/s with an empty cache, "
        "500.0 cases/s with all 300 in it\n"
    )


def test_a_device_that_is_not_there_is_2(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert throughput.main(as_json=False, device="cuda") == 2
    assert capsys.readouterr().err == "error: device cuda: PyTorch sees no CUDA GPU here; use --device lockstep\n"
