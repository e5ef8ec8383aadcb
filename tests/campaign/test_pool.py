"""Several processes do what one does: the same cases, the same findings, also where some of them die."""

import os
import select
import signal
import subprocess
import sys
import time
from functools import cache
from itertools import tee
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest

from indexfuzz.campaign.chunk import CHUNK, Chunk
from indexfuzz.campaign.events import CaseRun, Died
from indexfuzz.campaign.jobs import Slice, Tried
from indexfuzz.campaign.loop import Campaign
from indexfuzz.campaign.member import Done, Drew, Hire, Member
from indexfuzz.campaign.pool import MOST_DEATHS, ORPHANED, Pool, PoolError
from indexfuzz.campaign.server import ServerError, fork_from_server, has_ended, start_server
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.steered import Drawn
from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.core.interrupts import Interrupted
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.setup import Setup
from indexfuzz.subjects.under_test import put_under_test

SETUP = Setup("module:toy_gather", isolate=False)
CASES = 96


@pytest.fixture(autouse=True, scope="module")
def _server():
    start_server()


@pytest.fixture(autouse=True)
def _toy(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    monkeypatch.setenv("TOY", "right")


def settings(**more):
    return Settings(put_under_test(SETUP).subject, seed=3, **({"cases": CASES, "minimise_seconds": 0.0} | more))


def pool(size, setup=SETUP, **drawing):
    return Pool(Hire(setup, journal=False, drawing={"seed": 3} | drawing), size)


def run(size, listen=lambda _event: None, **more):
    """-> the ids of the cases in the order in which they were told, and the summary."""
    ids = []

    def hear(event):
        ids.extend([event.outcome.case.id] if isinstance(event, CaseRun) else [])
        listen(event)

    wanted = settings(**more)
    return ids, Campaign(wanted, hear, pool(size, steered=wanted.steered) if size else None).run()


@cache
def ids_alone():
    """What one process tells of kernels that are right."""
    assert os.environ["TOY"] == "right"
    return run(0)[0]


def pids(crew):
    return [member.pid for member in crew._members]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_some_cases_are_steered_by_what_others_have_shown():
    ids = ids_alone()
    fresh, _ = run(0, steered=False)
    assert len(fresh) == len(ids)
    assert fresh[:CHUNK] == ids[:CHUNK]
    assert CASES // 8 < len(set(fresh) & set(ids)) < CASES - CASES // 8


def test_cases_and_findings_do_not_depend_on_the_number_of_processes(monkeypatch):
    monkeypatch.setenv("TOY", "wrong")
    ids, alone = run(0)
    assert len(set(ids)) == CASES
    assert [str(found.finding.signature) for found in alone.findings] == ["gather/code-mismatch/k_scale"]
    for size in (1, 3):
        others, summary = run(size)
        assert others == ids
        assert (summary.cases, summary.stages, summary.known) == (alone.cases, alone.stages, alone.known)
        assert [found.finding.signature for found in summary.findings] == [f.finding.signature for f in alone.findings]


class Hearing:
    """A foreman that notes what it hears and learns from; nothing is to be drawn or made smaller."""

    cases_left, is_long_over = 100, False

    def __init__(self, *, beside=False):
        self.heard, self.learned, self.counted, self.ended, self._beside = [], [], [], 0, beside

    def chunk(self, _number):
        return None

    def chunk_beside(self, number):
        return Chunk(-number) if self._beside else None

    def next_shrink(self):
        return None

    def hear(self, report):
        self.heard.append(report if isinstance(report, Died) else report.case)

    def learn(self, tried):
        self.learned.append(tried.case)

    def count(self, tried):
        self.counted.append(tried.case)

    def end_chunk(self):
        self.ended += 1


class Telling:
    """A process that says what it is given to say, and dies then."""

    pid, is_orphaned, server, is_alive = 0, False, 0, True

    def __init__(self, job, messages=(), *, is_ready=True):
        self.job, self.told, self.is_ready, self._messages = job, 0, is_ready, iter(messages)

    def next(self):
        return next(self._messages, None)

    @property
    def connection(self):
        return self

    def poll(self):
        self._messages, rest = tee(self._messages)
        return next(rest, None) is not None

    def give(self, job):
        self.job, self.told = job, 0

    def end(self):
        self.is_alive = False

    def bury(self):
        return -signal.SIGSEGV


def shapes(*names):
    return tuple((Drawn(name),) for name in names)


def cases(chunk, place, *names):
    return Slice(chunk, place, tuple(Drawn(name) for name in names))


def tried(*names):
    return [*(Tried(name, None) for name in names), Done(0)]


def test_a_case_is_heard_of_at_once_and_learned_from_when_it_is_its_turn():
    crew, foreman = pool(2), Hearing()
    slow = Telling(Chunk(0), [Drew(0, shapes("first", "second")), Done(0), *tried("first", "second")])
    fast = Telling(Chunk(1), [Drew(1, shapes("third", "fourth")), Done(0), *tried("third", "fourth")])
    crew._members = [slow, fast]
    for member in (fast, fast, slow, slow):
        crew._hear(member, foreman)
    slow.give(crew._turns.take(2))
    fast.give(crew._turns.take(2))
    for member in (fast, fast, slow):
        crew._hear(member, foreman)
    assert (foreman.heard, foreman.learned) == (["third", "fourth", "first"], ["first"])
    for member in (fast, slow, slow):
        crew._hear(member, foreman)
    assert foreman.heard == ["third", "fourth", "first", "second"]
    assert foreman.learned == ["first", "second", "third", "fourth"]
    assert foreman.ended == 2


def test_what_waits_for_its_turn_at_the_end_is_learned_from_too():
    crew, foreman = pool(1), Hearing()
    ahead = Telling(cases(4, 0, "later"), tried("later"))
    crew._hear(ahead, foreman)
    assert foreman.learned == []
    crew._drop_chunks(foreman)
    assert foreman.learned == foreman.heard == ["later"]


def test_time_passes_while_nothing_is_heard(monkeypatch):
    monkeypatch.setattr("indexfuzz.campaign.pool.TICK", 0.0)
    crew, foreman, ticks = pool(1), Hearing(), []
    ours, theirs = Pipe()
    silent = SimpleNamespace(job=cases(0, 0, "endless"), connection=ours, end=theirs.close, pid=0)
    crew._members = [silent]

    def tick():
        ticks.append(1)
        foreman.is_long_over = len(ticks) == 3

    crew.tick = tick
    crew.work(foreman)
    assert len(ticks) == 3
    assert foreman.heard == []


def test_those_who_are_free_share_what_is_drawn():
    """Each takes as much as comes to one; what is left is for who has done first."""
    crew = pool(3)
    crew._members = [Telling(None) for _ in range(3)]
    crew._turns.add(0, shapes(*"abcdefg"))
    crew._hand_out(Hearing())
    assert [member.job for member in crew._members] == [
        cases(0, 0, *"abc"),
        cases(0, 3, *"de"),
        cases(0, 5, "f"),
    ]
    crew._members[1].job = None
    crew._hand_out(Hearing())
    assert crew._members[1].job == cases(0, 6, "g")


def test_who_would_wait_runs_a_few_cases_beside_the_stream():
    crew, foreman = pool(2), Hearing(beside=True)
    slow = Telling(cases(0, 0, "slow"))
    idle = Telling(None, [Drew(-1, shapes("x", "y")), Done(0), *tried("x"), *tried("a")])
    crew._members = [slow, idle]
    crew._hand_out(foreman)
    assert idle.job == Chunk(-1)
    crew._hear(idle, foreman)
    crew._hear(idle, foreman)
    crew._hand_out(foreman)
    assert idle.job == cases(-1, 0, "x")
    crew._turns.add(1, shapes("a"))
    for _ in range(2):
        crew._hear(idle, foreman)
    crew._hand_out(foreman)
    assert idle.job == cases(1, 0, "a")
    for _ in range(2):
        crew._hear(idle, foreman)
    crew._hand_out(foreman)
    assert idle.job == cases(-1, 1, "y")
    assert (foreman.heard, foreman.counted, foreman.learned) == (["x", "a"], ["x"], [])


def test_a_death_beside_the_stream_leaves_no_gap_in_it():
    crew, foreman = pool(2), Hearing(beside=True)
    crew._turns.add(-1, [(Drawn("x"), Drawn("y"))])
    for _ in range(2):
        crew._members = [Telling(crew._turns.take_beside())]
        crew._hear(crew._members[0], foreman)
    assert [death.again for death in foreman.heard] == [False, True]
    assert crew._turns.take_beside() == cases(-1, 1, "y")
    crew._members = [Telling(Chunk(-2))]
    crew._hear(crew._members[0], foreman)
    assert not crew._again


@pytest.mark.parametrize("wanted", [{"cases": 8}, {"cases": None, "seconds": 60.0}])
def test_nothing_runs_beside_the_stream_of_so_many_cases(wanted):
    campaign = Campaign(settings(**wanted), lambda _: None, pool(2))
    assert (campaign.chunk_beside(3) is None) == (wanted["cases"] is not None)
    assert campaign.chunk_beside(3) in (None, Chunk(-3))


class RunsOneBeside(Pool):
    """A crew that runs a single case, beside the stream, and keeps what the campaign would steer to then."""

    def work(self, foreman):
        foreman.hear(outcome_of(Case(), 3))
        foreman.count(outcome_of(Case(), 3))
        foreman.end_chunk()
        self.steered_to = foreman.chunk(3).goals


def test_a_case_beside_the_stream_is_judged_and_counted_and_steers_nothing():
    told, crew = [], RunsOneBeside(Hire(SETUP, journal=False), 2)
    summary = Campaign(settings(cases=None, seconds=60.0), told.append, crew).run()
    assert [event.outcome.case for event in told] == [Case()]
    assert crew.steered_to == ()
    (place,) = summary.goals.unturned()
    assert place.line == 3


def test_what_a_dead_process_had_still_to_run_is_what_is_next():
    crew, foreman = pool(2), Hearing()
    crew._turns.add(0, shapes(*"abcd"))
    dying = Telling(crew._turns.take(3), [Tried("a", None)])
    crew._members = [dying]
    crew._hear(dying, foreman)
    crew._hear(dying, foreman)
    assert crew._turns.take(9) == cases(0, 1, *"bcd")
    assert [str(death.again) for death in foreman.heard[1:]] == ["False"]


def test_a_case_that_kills_twice_is_left_out_and_those_behind_it_are_not():
    crew, foreman = pool(2), Hearing()
    crew._turns.add(0, shapes(*"abcd"))
    for _ in range(2):
        dying = Telling(crew._turns.take(4))
        crew._members = [dying]
        crew._hear(dying, foreman)
    assert [death.again for death in foreman.heard] == [False, True]
    last = Telling(crew._turns.take(4), tried(*"bcd"))
    assert last.job == cases(0, 1, *"bcd")
    for _ in range(4):
        crew._hear(last, foreman)
    assert (foreman.learned, foreman.ended) == ([*"bcd"], 1)


def test_a_death_behind_the_last_case_says_nothing_of_the_next_one():
    crew, foreman = pool(2), Hearing()
    crew._turns.add(0, shapes(*"ab"))
    first = Telling(crew._turns.take(1), [Tried("a", None)])
    crew._members = [first]
    for _ in range(2):
        crew._hear(first, foreman)
    crew._fatal.add((0, 1))
    last = Telling(cases(0, 0, "a"), [Tried("a", None)])
    crew._members = [last]
    for _ in range(2):
        crew._hear(last, foreman)
    assert [death.again for death in foreman.heard if isinstance(death, Died)] == [False, False]
    assert crew._turns.take(1) == cases(0, 1, "b")
    assert foreman.learned == ["a"]


def test_a_process_that_dies_while_it_loads_says_nothing_of_the_case_that_it_was_given():
    crew, foreman = pool(2), Hearing()
    crew._turns.add(0, shapes(*"ab"))
    for _ in range(MOST_DEATHS):
        crew._members = [Telling(crew._turns.take(1), is_ready=False)]
        crew._hear(crew._members[0], foreman)
    assert not crew._fatal
    assert crew._turns.take(2) == cases(0, 0, *"ab")


def test_an_idle_process_that_has_died_is_given_nothing():
    crew, foreman = pool(1), Hearing()
    crew._turns.add(0, shapes("a"))
    dead, alive = Telling(None), Telling(None)
    dead.is_alive = False
    crew._members = [dead, alive]
    crew._hand_out(foreman)
    assert [death.again for death in foreman.heard] == [False]
    assert crew._members == [alive]
    assert alive.job == cases(0, 0, "a")


def test_what_was_drawn_by_a_process_that_died_then_is_not_drawn_again():
    crew, foreman = pool(1), Hearing()
    drawing = Telling(Chunk(0), [Drew(0, shapes("a"))])
    crew._members = [drawing]
    for _ in range(2):
        crew._hear(drawing, foreman)
    assert [*crew._next_cases(foreman).cases] == [Drawn("a")]
    assert crew._next_cases(foreman) is None


def test_what_was_run_in_time_is_heard_of_before_its_process_is_let_go():
    crew, foreman = pool(2), Hearing()
    busy = Telling(cases(0, 0, *"abc"), [Tried("a", None), Tried("b", None)])
    drawing = Telling(Chunk(1), [Drew(1, shapes("x"))])
    crew._members = [busy, drawing]
    foreman.cases_left = 0
    crew.work(foreman)
    assert foreman.heard == foreman.learned == ["a", "b"]
    assert not busy.is_alive
    assert not drawing.is_alive


def test_a_process_is_told_its_job_when_it_listens():
    member, (ours, theirs) = object.__new__(Member), Pipe()
    member.connection, member.is_ready = ours, False
    member.give(Chunk(3))
    assert (member.job, theirs.poll()) == (Chunk(3), False)
    member.begin()
    assert theirs.recv() == Chunk(3)
    member.give(Chunk(4))
    assert theirs.recv() == Chunk(4)


def test_processes_that_were_ready_may_die_all_at_once():
    crew, foreman = pool(9), Hearing()
    crew._turns.add(0, shapes(*"abcdefghi"))
    crew._members = [Telling(crew._turns.take(1)) for _ in range(9)]
    for member in list(crew._members):
        crew._hear(member, foreman)
    assert len(foreman.heard) == 9
    crew._members = [Telling(crew._turns.take(1), is_ready=False) for _ in range(MOST_DEATHS + 1)]
    *some, last = crew._members
    for member in some:
        crew._hear(member, foreman)
    with pytest.raises(PoolError, match="in a row have ended before they could run a case"):
        crew._hear(last, foreman)


def test_drawing_that_ends_each_process_ends_the_campaign():
    crew, foreman = pool(1), Hearing()
    for _ in range(MOST_DEATHS):
        crew._members = [Telling(Chunk(7))]
        crew._hear(crew._members[0], foreman)
        assert crew._next_cases(foreman) == Chunk(7)
    crew._members = [Telling(Chunk(7))]
    with pytest.raises(PoolError, match=r"4 processes have ended while they drew part 7: .*SIGSEGV"):
        crew._hear(crew._members[0], foreman)


def outcome_of(case, *lines):
    comparisons = tuple(Comparison("kernel.py", line, "n < 8", holds=True, left=3, right=8) for line in lines)
    return Tried(case, Outcome(case, comparisons=comparisons))


@pytest.mark.parametrize(("cases", "told"), [(None, ["heard", "heard"]), (8, ["learned", "learned"])])
def test_a_campaign_of_so_many_cases_judges_them_in_order_and_any_other_at_once(cases, told):
    seen, now = [], ""
    campaign = Campaign(settings(cases=cases), lambda _: seen.append(now), pool(2))
    first, second = Case(), Case().replace(values={"seed": 7})
    now = "heard"
    for case in (second, first, second):
        campaign.hear(outcome_of(case, 3))
    assert not campaign.summary.goals.unturned()
    now = "learned"
    for case in (first, second, first):
        campaign.learn(outcome_of(case, 3))
    assert seen == told
    assert campaign.summary.cases == 2
    (place,) = campaign.summary.goals.unturned()
    assert place.line == 3


def test_nothing_counts_behind_the_part_of_the_stream_that_has_nothing_new():
    """Who works alone stops there; others may have run what is behind it."""
    campaign = Campaign(settings(cases=8), lambda _: None, pool(2))
    campaign.learn(outcome_of(Case(), 3))
    campaign.end_chunk()
    campaign.end_chunk()
    assert campaign.cases_left == 0
    campaign.learn(outcome_of(Case().replace(values={"seed": 7}), 3))
    assert campaign.summary.cases == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_process_is_replaced_and_no_case_is_lost(number):
    ids, crew = ids_alone(), pool(2)
    told, struck = [], []

    def strike(event):
        told.append(event)
        busy = [member.pid for member in crew._members if member.job]
        if busy and len(told) >= 5 + 10 * len(struck) and len(struck) < 2:
            struck.append(busy[0])
            os.kill(busy[0], number)

    summary = Campaign(settings(), strike, crew).run()
    deaths = [event for event in told if isinstance(event, Died)]
    assert [event.outcome.case.id for event in told if isinstance(event, CaseRun)] == ids
    assert len(deaths) == 2
    assert all(signal.Signals(number).name in death.message for death in deaths)
    assert not summary.deaths


def server_of(crew):
    return next(member.server for member in crew._members if member.job)


def test_a_dead_server_is_started_again_and_no_case_is_lost():
    ids, crew, told = ids_alone(), pool(2), []

    def strike(event):
        told.append(event)
        if len(told) == 10:
            os.kill(server_of(crew), signal.SIGKILL)

    summary = Campaign(settings(), strike, crew).run()
    deaths = [event for event in told if isinstance(event, Died)]
    assert [event.outcome.case.id for event in told if isinstance(event, CaseRun)] == ids
    assert {death.message for death in deaths} == {ORPHANED}
    assert not summary.deaths


def test_a_server_that_dies_between_two_processes_is_started_again():
    crew = pool(2)
    with crew:
        first, server = fork_from_server(time.sleep, 60)
        os.kill(server, signal.SIGKILL)
        second, other = fork_from_server(int)
        second.join()
        assert (second.exitcode, has_ended(server, 0.0)) == (0, True)
        assert other != server
        first.join()


def test_a_server_that_cannot_live_ends_the_campaign(monkeypatch):
    def die(_self):
        raise EOFError

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", die)
    monkeypatch.setattr("indexfuzz.campaign.server.PAUSE", 0.0)
    with pytest.raises(ServerError, match="died 5 times in a row: EOFError"):
        Campaign(settings(), lambda _event: None, pool(1)).run()


def test_members_know_what_each_would_take_a_second_to_find_out():
    text = (
        "import os; from indexfuzz.generation import levers, solving\n"
        "known = levers._movers, levers._movers_of_contents, solving._options_by_tensor\n"
        "os._exit(int(''.join(str(one.cache_info().currsize) for one in known)))"
    )
    process, _ = fork_from_server(exec, text)
    process.join()
    assert process.exitcode == 111


def test_a_process_that_ends_as_if_nobody_had_heard_of_it_is_no_death_of_the_server():
    process, server = fork_from_server(os._exit, 255)
    process.join()
    assert process.exitcode == 255
    assert not has_ended(server, 0.1)


def test_a_case_that_kills_two_processes_is_left_out_and_told(monkeypatch):
    """Nothing is searched for: each process that takes the place of a dead one would do so anew."""
    ids, _ = run(0, cases=60, steered=False)
    monkeypatch.setenv("TOY", "die")
    others, summary = run(2, cases=60, steered=False)
    assert summary.deaths
    assert all("SIGKILL" in death.message for death in summary.deaths)
    assert len(others) >= 50
    assert set(ids) - set(others)


def test_an_interrupt_leaves_no_process():
    crew, seen = pool(3), []

    def interrupt(event):
        seen.extend(pids(crew))
        raise Interrupted(signal.SIGTERM)

    summary = Campaign(settings(), interrupt, crew).run()
    assert summary.interrupted == signal.SIGTERM
    assert seen
    assert not any(map(is_alive, seen))


def test_a_process_that_holds_too_much_is_replaced(monkeypatch):
    ids = ids_alone()
    monkeypatch.setattr("indexfuzz.campaign.pool.MOST_MEMORY", 0)
    crew, seen, others = pool(1), set(), []

    def look(event):
        seen.update(pids(crew))
        others.append(event.outcome.case.id)

    Campaign(settings(), look, crew).run()
    assert len(seen) > 1
    assert others == ids


def test_what_fails_in_a_process_is_raised_here_with_its_traceback():
    crew = pool(2, Setup("module:no_such_module", isolate=False))
    with pytest.raises(PoolError, match="no_such_module cannot be imported") as caught:
        Campaign(settings(), lambda _event: None, crew).run()
    assert "Traceback" in caught.value.__notes__[0]


def test_processes_that_die_before_they_are_ready_end_the_campaign(monkeypatch):
    wanted = settings(cases=3)
    monkeypatch.setenv("TOY", "unloadable")
    with pytest.raises(PoolError, match="in a row have ended before they could run a case"):
        Campaign(wanted, lambda _event: None, pool(1)).run()


def test_ctrl_c_never_reaches_the_server_not_even_while_it_starts():
    """A terminal sends it to all processes. Ours hears it still: it has to end the campaign."""
    text = (
        "import os, signal; from indexfuzz.campaign import server\n"
        "server.start_server()\n"
        "bits = open(f'/proc/{server._server_id()}/status').read().partition('SigBlk:')[2].split()[0]\n"
        "ours = signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        "print(int(bits, 16) >> (signal.SIGINT - 1) & 1, signal.SIGINT in ours)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "1 False\n"


def test_the_server_ends_with_the_campaign_whatever_it_is_doing(tmp_path):
    """A module that never finishes its import stands for those that take seconds."""
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(3600)\n")
    script = (
        "import sys\n"
        "from multiprocessing.forkserver import _forkserver\n"
        "from indexfuzz.campaign import server\n"
        "server.WITH = ('endless',)\n"
        "server.start_server()\n"
        "print(_forkserver._forkserver_pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    command, environment = [sys.executable, "-c", script], os.environ | {"PYTHONPATH": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as campaign:
        server = os.pidfd_open(int(campaign.stdout.readline()))
        campaign.kill()
    ended, _, _ = select.select([server], [], [], 60)
    os.close(server)
    assert ended


def test_members_have_the_environment_of_their_campaign_and_nothing_of_the_server(monkeypatch):
    """The server may be older than what has been set, and taken away, since."""
    process, server = fork_from_server(int)
    process.join()
    os.kill(server, signal.SIGKILL)
    assert has_ended(server, 10.0)
    start_server()
    monkeypatch.delenv("TOY")
    _, summary = run(1, cases=20, first_only=True)
    assert [str(found.finding.signature) for found in summary.findings] == ["gather/code-mismatch/k_scale"]
