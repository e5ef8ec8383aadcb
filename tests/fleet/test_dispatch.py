"""Slices are handed out, heard of and ended, whoever runs them."""

import os
import signal

import pytest

from indexfuzz.core import interrupts
from indexfuzz.core.setup import Setup
from indexfuzz.fleet.budget import Budget
from indexfuzz.fleet.dispatch import SliceError, dispatch
from indexfuzz.fleet.slices import Lost, Order, Result


class Machines:
    """Slices end one at a time, the last one first."""

    def __init__(self, end=lambda part: Result(part.number, "node", cases=2, stages=5)):
        self.end = end
        self.running = []
        self.order = []
        self.is_stopped = False

    @property
    def is_busy(self):
        return bool(self.running)

    def submit(self, order, part):
        self.running.append(part)
        self.order.append(part.number)

    def wait(self, seconds):
        return [self.end(self.running.pop())]

    def stop(self):
        self.is_stopped = True


def run(machines, slices=12, tell=lambda ended: None, ahead=4):
    order = Order(Setup(), "memory://x", "now", "0", 1, slices, cases=1)
    with interrupts.listening():
        return dispatch(order, Budget((), ahead), machines, tell)


def test_each_slice_is_run_once():
    machines, told = Machines(), []
    tally = run(machines, tell=told.append)
    assert machines.order == list(range(1, 13))
    assert sorted(result.number for result in tally.results) == machines.order
    assert (told, tally.cases, tally.stages, tally.lost) == (tally.results, 24, 60, [])


def test_no_more_are_under_way_than_need_not_be_heard_of():
    machines = Machines()
    most = []
    machines.end = lambda part: (most.append(len(machines.running) + 1), Result(part.number, "node"))[1]
    run(machines)
    assert max(most) == 5


def test_a_lost_slice_is_told_and_the_others_go_on():
    tally = run(Machines(lambda part: Lost(part, "it died") if part.number == 3 else Result(part.number, "node")))
    assert [lost.number for lost in tally.lost] == [3]
    assert len(tally.results) == 11


def test_a_slice_that_nobody_can_run_ends_it():
    machines = Machines(lambda part: Result(part.number, "node-1", error="no such device"))
    with pytest.raises(SliceError, match="slice 5 on node-1: no such device"):
        run(machines)
    assert machines.is_stopped
    assert not machines.running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_what_runs_is_heard_of(number):
    machines = Machines()

    def strike(ended):
        if ended.number == 4:
            os.kill(os.getpid(), number)

    tally = run(machines, tell=strike)
    assert (tally.interrupted, machines.is_stopped, machines.running) == (number, True, [])
    assert len(tally.results) == len(machines.order) < 12


def test_a_signal_that_the_cluster_makes_an_error_of_ends_it_as_well():
    machines = Machines()

    def masking(seconds):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except interrupts.Interrupted:
            machines.wait = lambda seconds: [Result(machines.running.pop().number, "node")]
            raise SystemError("returned a result with an exception set") from None

    machines.wait = masking
    tally = run(machines)
    assert (tally.interrupted, machines.is_stopped, len(tally.results)) == (signal.SIGINT, True, 5)


def test_who_does_not_end_is_not_waited_for(monkeypatch):
    machines = Machines()
    machines.wait = lambda seconds: os.kill(os.getpid(), signal.SIGTERM) or []
    assert run(machines).interrupted == signal.SIGTERM
    assert len(machines.running) == 5
