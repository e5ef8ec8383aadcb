"""Launches with other warps and other entries of a tuner, and launches beside each other: on the CPU, and on a card."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from indexfuzz.core.case import Case
from indexfuzz.core.kinds import check_kind
from indexfuzz.devices import open_device
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.devices.tuning import Choice, Otherwise, choosing
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles import schedule, streams, tuning
from tests import toy_launches
from tests.oracles.test_replay import STEPS, noting, session_of

STEP = Case().replace(
    cache={"block_size": 16},
    batch={"decode": (37, 5), "prefill": ({"length": 90, "new": 4}, {"length": 70, "new": 9}), "max_model_len": 100},
)


def step_where(is_so):
    """The step with the first seed whose choice is so."""
    cases = (STEP.replace(values={"seed": seed}) for seed in range(99))
    return next(case for case in cases if is_so(tuning.choice_of(case)))


def step_with(warps):
    return step_where(lambda choice: choice.num_warps == warps)


def step_of_second_entry():
    return step_where(lambda choice: choice.entry % 2)


class Launches:
    """Lockstep with what a card has beside it: launches made by a choice, and two streams that take turns."""

    def __init__(self, choice=None):
        self._device, self._choice = LockstepDevice(), choice or Choice()

    def __getattr__(self, name):
        return getattr(self._device, name)

    @contextmanager
    def session(self):
        with self._device.session() as session, choosing(self._choice):
            yield session

    def tuned(self, choice):
        return Launches(choice)

    def run_beside(self, runs):
        results, queues = [], []
        for run in runs:
            launched = []
            plain, JITFunction.run = JITFunction.run, lambda *args, _to=launched, **options: _to.append((args, options))
            try:
                results.append(run())
            finally:
                JITFunction.run = plain
            queues.append(launched)
        for launches in zip_longest(*queues):
            for args, options in filter(None, launches):
                JITFunction.run(*args, **options)
        return results


@pytest.fixture
def planted(monkeypatch):
    def plant(what):
        monkeypatch.setenv("PLANTED", what)
        monkeypatch.setattr(toy_launches, "KEPT", {})
        return toy_launches.implementation

    return plant


@triton.jit
def fill_kernel(out_ptr, VALUE: tl.constexpr):
    tl.store(out_ptr, VALUE)


@triton.jit
def own_warps_kernel(out_ptr, num_warps: tl.constexpr):
    tl.store(out_ptr, num_warps)


def keep_large(configs, _nargs, **_kwargs):
    return [config for config in configs if config.kwargs["VALUE"] > 1]


tuned_kernel = triton.autotune(
    configs=[triton.Config({"VALUE": value}, num_warps=value) for value in (1, 2, 4, 8)],
    key=[],
    prune_configs_by={"early_config_prune": keep_large},
)(fill_kernel)


def launch_by(choice, launch):
    """What a launch stores, and the options with which its kernel was launched."""
    out, noted = torch.zeros(1, dtype=torch.int32), []
    with LockstepDevice().session(), noting(noted), choosing(choice):
        launch(out)
    return out.item(), [options.get("num_warps") for _, _, options in noted]


def test_a_launch_has_the_warps_of_the_choice_where_its_launcher_has_others():
    for choice, own, options, changed in [
        (Choice(8), {}, [8], {"fill_kernel": Otherwise(8, 4)}),
        (Choice(4), {}, [None], {}),
        (Choice(1), {"num_warps": 2}, [1], {"fill_kernel": Otherwise(1, 2)}),
        (Choice(), {"num_warps": 2}, [2], {}),
    ]:
        assert launch_by(choice, lambda out, own=own: fill_kernel[(1,)](out, VALUE=7, **own)) == (7, options)
        assert choice.changed == changed


def test_a_kernel_that_reads_its_warps_keeps_them():
    choice = Choice(8)
    assert launch_by(choice, lambda out: own_warps_kernel[(1,)](out, num_warps=2)) == (2, [2])
    assert not choice.changed


def test_a_tuner_takes_the_entry_of_the_choice_of_those_that_its_pruning_keeps():
    for entry, value in [(0, 2), (1, 4), (2, 8), (3, 2)]:
        choice = Choice(8, entry)
        assert launch_by(choice, tuned_kernel[(1,)]) == (value, [value])
        assert [*choice.changed] == (["fill_kernel"] if value > 2 else [])
    assert "VALUE: 8" in launch_told(2)


def launch_told(entry):
    choice = Choice(0, entry)
    launch_by(choice, tuned_kernel[(1,)])
    return choice.changed["fill_kernel"].words


def test_what_does_not_compile_so_is_launched_as_its_launcher_says():
    asked = []

    class Kernel(JITFunction):
        def __init__(self):
            self.arg_names, self.__name__ = [], "kernel"

    def run(_self, **options):
        asked.append(options.get("num_warps"))
        if options.get("num_warps") == 8:
            raise RuntimeError("PassManager::run failed")
        if options.get("num_warps") == 1:
            raise RuntimeError("illegal memory access")
        return "launched"

    plain, JITFunction.run = JITFunction.run, run
    try:
        with choosing(choice := Choice(8)):
            assert JITFunction.run(Kernel()) == "launched"
        with choosing(Choice(1)), pytest.raises(RuntimeError, match="illegal"):
            JITFunction.run(Kernel())
    finally:
        JITFunction.run = plain
    assert (asked, choice.changed) == ([8, None, 1], {})


def test_afterwards_launches_are_as_before():
    before = JITFunction.run, Autotuner.run
    with choosing(Choice(8)):
        pass
    assert (JITFunction.run, Autotuner.run) == before


def test_the_choice_is_the_cases_own_and_that_of_all_values_of_its_shape():
    choices = [tuning.choice_of(STEP.replace(values={"seed": seed})) for seed in range(60)]
    assert {choice.num_warps for choice in choices} == {*tuning.WARPS}
    assert {choice.entry % 5 for choice in choices} == {0, 1, 2, 3, 4}
    alike = STEP.replace(values={"seed": 7 + schedule.ALIKE})
    assert tuning.choice_of(alike) == choices[7]
    assert tuning.ALIKE == schedule.ALIKE


def test_clean_kernels_are_the_same_by_any_choice_and_beside_each_other():
    device = Launches()
    for case in (step_with(8), step_with(1)):
        outcome = tuning.run(case, builtin(), device)
        assert not outcome.findings
        assert {"k_quant_cache", "gather", "paged_logits", "prefill_logits"} <= {*outcome.stages}
    only = frozenset({"k_quant_cache", "gather", "paged_logits", "prefill_logits"})  # launchers of kernels alone
    outcome = streams.run(STEP, builtin(), device, only)
    assert not outcome.findings
    assert only == {*outcome.stages}


@pytest.mark.parametrize("node", ["compress", "fused_pool"])
def test_so_are_sessions(node):
    case = session_of(node).replace(values={"seed": step_with(8).values.seed})
    assert not tuning.run(case, builtin(), Launches()).findings
    outcome = streams.run(case, builtin(), Launches())
    assert not outcome.findings
    assert outcome.stages == [node] * len(STEPS)


def test_a_wrong_entry_of_a_tuner_is_found_and_told(planted):
    mistaken = planted("entry")
    case = step_of_second_entry()
    assert not schedule.REFERENCE.run(case, mistaken, Launches(), frozenset()).findings
    (finding,) = tuning.run(case, mistaken, Launches()).findings
    assert str(finding.signature) == "gather/metamorphic/tuning/k_scale"
    assert finding.detail.startswith("launched otherwise (")
    assert "copy_kernel with its tuner's entry BLOCK: 32" in finding.detail
    check_kind(finding.kind)


def test_what_is_wrong_anyway_is_left_to_others(planted):
    gather = planted("entry").stages["gather"]

    def doubled(k_scale, **rest):
        gather(k_scale=k_scale, **rest)
        k_scale *= 2

    mistaken = replace(toy_launches.implementation, stages={"gather": doubled})
    assert schedule.REFERENCE.run(step_with(8), mistaken, Launches(), frozenset()).findings
    assert not tuning.run(step_with(8), mistaken, Launches()).findings


def test_memory_that_two_launches_share_is_found_where_they_run_beside_each_other(planted):
    mistaken = planted("stream")
    assert not schedule.REFERENCE.run(STEP, mistaken, Launches(), frozenset()).findings
    (finding,) = streams.run(STEP, mistaken, Launches()).findings
    assert (finding.stage, finding.kind) == ("gather", streams.KIND)
    assert "where another launch runs on a second stream, and" in finding.detail
    (again,) = schedule.ask(STEP, mistaken, Launches(), finding.signature).findings
    assert again == finding


def test_what_differs_alone_as_well_is_left_to_others(planted):
    gather, launches = planted("stream").stages["gather"], iter(range(99))

    def others_each_time(k_scale, **rest):
        gather(k_scale=k_scale, **rest)
        k_scale += next(launches)

    mistaken = replace(toy_launches.implementation, stages={"gather": others_each_time})
    assert not streams.run(STEP, mistaken, Launches()).findings


def test_who_has_neither_shows_nothing():
    for oracle in (tuning, streams):
        outcome = oracle.run(STEP, builtin(), LockstepDevice())
        assert (outcome.findings, outcome.stages) == ([], [])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
class TestGpu:
    @pytest.mark.parametrize("warps", tuning.WARPS)
    def test_clean_kernels_are_right_with_any_warps(self, warps):
        outcome = tuning.run(step_with(warps), builtin(), open_device("cuda"))
        assert not outcome.findings
        assert "paged_logits" in outcome.stages

    def test_clean_kernels_are_the_same_beside_each_other(self):
        outcome = streams.run(STEP, builtin(), open_device("cuda"))
        assert not outcome.findings
        assert "paged_logits" in outcome.stages

    @pytest.mark.parametrize(
        ("what", "oracle", "case"),
        [
            ("warps", tuning, step_with(8)),
            ("entry", tuning, step_of_second_entry()),
            ("stream", streams, STEP),
        ],
    )
    def test_only_a_planted_mistakes_own_dimension_shows_it(self, what, oracle, case, planted):
        mistaken, device = planted(what), open_device("cuda")
        for other in schedule.ORACLES:
            if other.applies(case) and other.name not in ("tuning", "streams"):
                assert not other.run(case, mistaken, device, frozenset()).findings, other.name
        found = oracle.run(case, mistaken, device).findings
        assert [finding.stage for finding in found] == ["gather"]
        assert found[0].kind == oracle.KIND
