"""Whatever signal comes, wherever it falls: nothing is lost that was announced, no file is broken, the code is right.

Each command line runs in a fork of the test, which strikes itself at the chosen point.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

from indexfuzz import __main__ as cli
from indexfuzz.campaign import jobs
from indexfuzz.campaign.events import Seen, Smaller
from indexfuzz.campaign.keeping import Keeper
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry, Record, Sighting
from indexfuzz.corpus.store import Corpus

TOY = ("--impl", "module:toy_gather", "--no-isolate")
RUN = ("run", *TOY, "--cases", "40", "--seed", "1", "--workers", "1", "--corpus", "kept")
SIGNATURE = "gather/code-mismatch/k_scale"
ANNOUNCED = Path("announced")
"""A line for each signature that the process has told of, written behind what tells it."""

Hook = Callable[[Callable[[], None]], None]
"""Makes the process call a function at some point."""


def _after_seen(strike: Callable[[], None]) -> None:
    _around(Keeper, "hear", lambda event: isinstance(event, Seen) and strike())


def _at_smaller(count: int) -> Hook:
    def hook(strike: Callable[[], None]) -> None:
        heard: list[object] = []

        def look(event: object) -> None:
            heard.extend([event] if isinstance(event, Smaller) else [])
            if len(heard) == count:
                strike()

        _around(Keeper, "hear", look)

    return hook


def _inside_the_save(strike: Callable[[], None]) -> None:
    fsync = os.fsync

    def struck(fd: int) -> None:
        strike()
        fsync(fd)

    store.os.fsync = struck


def _before_the_rename(strike: Callable[[], None]) -> None:
    replace = Path.replace

    def struck(self: Path, target: Path) -> Path:
        if target.suffix == ".json" and "in-flight" not in target.parts:
            strike()
        return replace(self, target)

    Path.replace = struck


def _while_shrinking(strike: Callable[[], None]) -> None:
    minimise = jobs.minimise

    def struck(*arguments: object, **more: object) -> object:
        strike()
        return minimise(*arguments, **more)

    jobs.minimise = struck


def _in_a_serializer_of_the_shrink(strike: Callable[[], None]) -> None:
    class Dumped(BaseModel):
        @model_serializer(mode="wrap")
        def _struck(self, dump: SerializerFunctionWrapHandler) -> object:
            strike()
            return dump(self)

    _while_shrinking(lambda: Dumped().model_dump_json())


def _around(owner: type, name: str, after: Callable[[object], object]) -> None:
    method = getattr(owner, name)

    def wrapped(self: object, event: object) -> None:
        method(self, event)
        after(event)

    setattr(owner, name, wrapped)


POINTS: dict[str, Hook] = {
    "after the finding was seen": _after_seen,
    "inside the save": _inside_the_save,
    "before the file gets its name": _before_the_rename,
    "in a serializer of the shrink": _in_a_serializer_of_the_shrink,
    "at the start of the shrink": _while_shrinking,
    "at the second smaller case": _at_smaller(2),
}


def run_struck(words: tuple[str, ...], point: str, number: signal.Signals) -> int:
    """Run a command line in a fork of this process, struck once; its exit code, minus a signal that has ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            _run(words, POINTS[point], number)
        except BaseException:  # noqa: BLE001 - the test sees the code
            Path("trace").write_text(traceback.format_exc())
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _run(words: tuple[str, ...], hook: Hook, number: signal.Signals) -> None:
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", closefd=False)
    struck: list[int] = []

    def strike() -> None:
        if not struck:
            struck.append(number)
            os.kill(os.getpid(), number)

    def announce(event: object) -> None:
        if isinstance(event, Seen):
            with ANNOUNCED.open("a") as file:
                file.write(f"{event.finding.signature}\n")

    _around(Keeper, "hear", announce)
    hook(strike)
    sys.argv = ["indexfuzz", *words]
    try:
        cli.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))


def announced() -> set[str]:
    """What the process told of before it ended."""
    return set(ANNOUNCED.read_text().split("\n")[:-1]) if ANNOUNCED.exists() else set()


def kept(folder: Path) -> set[str]:
    """The signatures of the files in a corpus; every one of them can be read."""
    found = [entry for _, entry in Corpus(folder).entries()]
    assert all(isinstance(entry, Entry) for entry in found), found
    return {str(entry.finding.signature) for entry in found if isinstance(entry, Entry) and entry.finding}


@pytest.fixture(autouse=True)
def _in_a_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_run_that_is_struck(number, point):
    code = run_struck(RUN, point, number)
    assert announced() <= kept(Path("kept"))
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 1, Path("output").read_text()
        assert kept(Path("kept")) == {SIGNATURE}
        assert f"interrupted by {number.name}" in Path("output").read_text()
        assert not Path(".indexfuzz").exists()
        assert not list(Path("kept").rglob("*.tmp"))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("point", ["inside the save", "before the file gets its name"])
def test_a_minimize_that_is_struck(number, point):
    case = Case().replace(model={"num_heads": 8}, batch={"prefill": ({"length": 30, "new": 3},) * 2})
    seen = Sighting(implementation="toy 1.0", device="lockstep", triton="3.6.0", torch="2.13.0", date="2026-01-31")
    record = Record.of(Finding("gather", "code-mismatch", "k_scale", "token 1 is 2, must be 1"))
    path = Corpus(Path("kept")).save(Entry(case=case, finding=record, seen=(seen,)))
    code = run_struck(("minimize", str(path), *TOY, "--seconds", "1"), point, number)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert path.exists()
    assert kept(Path("kept")) == {SIGNATURE}
