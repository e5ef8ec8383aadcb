"""Strike real command lines with signals at random moments: `python tests/campaign/strike_at_random.py 200 [SEED]`.

Slow, so it is no test of the suite. Each run works on its own folder: a campaign of one or two processes, a minimise, a
merge of shards, a prune, or a fuzz target under pytest. Prints a line for what went wrong and a table at the end; the
exit code is 1 where anything did: a finding that was there or was announced and is not on disk, a file that cannot be
read, a process that is left, another exit code than the one that is due.

Many may run side by side, each with a seed of its own: a run knows its processes by a mark, and whatever must come to
an end has `PATIENCE`, so that neither a neighbour nor a busy machine decides what is wrong.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from indexfuzz.core.case import Case
from indexfuzz.corpus.entry import Entry, Record, Sighting
from indexfuzz.corpus.store import Corpus

TESTS = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
LONGEST = {"merge": 3.0, "prune": 8.0}
"""Seconds until the latest strike, for commands that end sooner than others."""

SHARDS, FINDINGS, GUARDS = 6, 60, 60
"""How much there is to merge, and to prune."""

HELD = "held"
"""A file with the signatures that a corpus had before, which it must keep."""

PATHS = {"PYTHONPATH": os.pathsep.join((str(TESTS), *filter(None, (os.environ.get("PYTHONPATH"),))))}
"""Where the implementation is that runs, and whatever the environment names beside it."""

PATIENCE = 600.0
"""Seconds in which a process must end that was struck, or that lost its parent: much, since others use the machine."""

MARK = "INDEXFUZZ_STRUCK"
"""An environment variable that tells which processes belong to a run."""


TARGET = """
from hypothesis import given
from indexfuzz import cases, check, target

@target
@given(case=cases())
def test_gather(case):
    check(case, only=frozenset({"gather"}))
"""


SERVER = "run whose server dies"


def run_words(workers: int, cases: int = 400) -> list[str]:
    """The words of a campaign that finds something soon."""
    return ["indexfuzz", "run", "--cases", str(cases), "--workers", str(workers), "--corpus", "kept", *TOY]


TOY = ("--impl", "module:toy_gather", "--no-isolate")


def minimize_words(folder: Path) -> list[str]:
    """The words that make a case smaller, which they find in the folder."""
    requests = tuple({"length": 20 + number, "new": number} for number in range(9))
    case = Case().replace(batch={"prefill": requests, "decode": (7, 9, 300), "max_model_len": 300})
    finding = Record(signature="gather/code-mismatch/k_scale", detail="token 1 is doubled")
    file = Corpus(folder / "kept").save(Entry(case=case, finding=finding))
    return ["indexfuzz", "minimize", str(file), "--seconds", "20", *TOY]


PLACE = Sighting(implementation="toy 1.0", device="lockstep", triton="3.6.0", torch="2.13.0", date="2026-01-31")
START = {"event": "start", "indexfuzz": "0", "implementation": "toy 1.0", "device": "lockstep", "torch": "2"}
START |= {"triton": "3", "seed": 1, "shard": (1, 1), "workers": 1}
RAN = {"event": "case", "case": "0123456789abcdef", "stages": ["gather"]}
LOG = "".join(json.dumps({"t": float(second)} | line) + "\n" for second, line in enumerate((START, RAN)))


def found(number: int, heads: int, **more: object) -> Entry:
    """An entry of the finding of a number, with a case of so many heads."""
    case = Case().replace(model={"num_heads": heads}, values={"seed": number})
    record = Record(signature=f"gather/crash/Error{number}", detail="it crashed", location=f"a.py:{number}")
    return Entry(case=case, finding=record, seen=(PLACE,), **more)


def merge_words(folder: Path) -> list[str]:
    """The words that merge shards into a corpus that knows half of what they found, some of it with a smaller case."""
    kept = Corpus(folder / "kept")
    for number in range(0, FINDINGS, 2):
        kept.save(found(number, 8 + number % 3, **({"note": "by hand"} if number % 10 == 0 else {})))
    for shard in range(SHARDS):
        for number in range(FINDINGS):
            Corpus(folder / "shards" / str(shard) / "corpus").save(found(number, 1 + (number + shard) % 16))
        (folder / "shards" / str(shard) / "run.jsonl").write_text(LOG)
    hold(folder)
    return ["indexfuzz", "merge", "shards", "--into", "kept", "--log", "all.jsonl"]


def prune_words(folder: Path) -> list[str]:
    """The words that leave a few of many guards."""
    kept = Corpus(folder / "kept")
    for number in range(GUARDS):
        case = Case().replace(batch={"prefill": ({"length": 1 + number % 20, "new": 0},)}, values={"seed": number})
        kept.save(Entry(case=case, status="guard"))
    kept.save(found(1, 8, status="guard", note="by hand"))
    hold(folder)
    return ["indexfuzz", "prune", "kept", "--impl", "module:toy_gather"]


def hold(folder: Path) -> None:
    """Note which signatures a corpus has."""
    (folder / HELD).write_text("\n".join(signatures(folder)))


def signatures(folder: Path) -> set[str]:
    """The signatures of all entries that can be read."""
    entries = [entry for _, entry in Corpus(folder / "kept").entries()]
    return {str(entry.finding.signature) for entry in entries if isinstance(entry, Entry) and entry.finding}


def pytest_words(folder: Path) -> list[str]:
    """The words that run a fuzz target, which they write to the folder."""
    (folder / "test_toy.py").write_text(TARGET)
    (folder / "pyproject.toml").write_text('[tool.indexfuzz]\ncorpus = "kept"\n')
    options = ["-p", "no:cacheprovider", "--fuzz-impl", "module:toy_gather", "--no-fuzz-isolate", "--fuzz-seconds", "8"]
    return ["pytest", *options]


def strike(folder: Path, generator: random.Random) -> tuple[str, list[str]]:
    """Run a command line and strike it; what was done, and what went wrong."""
    number, share = generator.choice(SIGNALS), generator.random()
    if share < 0.15:
        what, words = "minimize", minimize_words(folder)
    elif share < 0.3:
        what, words = "pytest", pytest_words(folder)
    elif share < 0.5:
        what, words = "merge", merge_words(folder)
    elif share < 0.6:
        what, words = "prune", prune_words(folder)
    elif share < 0.7:
        what, words, number = SERVER, run_words(2, cases=150), signal.SIGKILL
    else:
        workers = generator.choice((1, 2))
        what, words = f"run with {workers}", run_words(workers)
    environment = os.environ | PATHS | {"PYTHONUNBUFFERED": "1", MARK: folder.name}
    command = [sys.executable, "-m", *words]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        delay = generator.uniform(0.0, LONGEST.get(what, 12.0))
        while what != "pytest" and process.poll() is None and not listens(process.pid):
            time.sleep(0.01)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            for pid in servers_of(process.pid) if what == SERVER else [process.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"{what}, {number.name}", [f"it did not end within {PATIENCE:.0f} s"]
    return f"{what}, {number.name}", complaints(folder, number, code, is_pytest=what == "pytest")


def listens(pid: int) -> bool:
    """Whether a process of ours has come as far as hearing signals; before that it is Python that they end."""
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def servers_of(campaign: int) -> list[int]:
    """The process from which those of a campaign are forked, where it runs."""
    found = []
    for pid in Path(f"/proc/{campaign}/task/{campaign}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found += [int(pid)] if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes() else []
    return found


def complaints(folder: Path, number: signal.Signals, code: int, *, is_pytest: bool) -> list[str]:
    """What is wrong after a strike."""
    output = (folder / "output").read_text()
    wrong = []
    entries = [entry for _, entry in Corpus(folder / "kept").entries()]
    wrong += [f"broken: {entry}" for entry in entries if not isinstance(entry, Entry)]
    kept = signatures(folder)
    held = set((folder / HELD).read_text().split()) if (folder / HELD).exists() else set()
    if gone := held - kept:
        wrong.append(f"was there before: {gone}")
    whole = output[: output.rfind("\n") + 1].splitlines()  # what was being written when it was killed may be cut
    announced = {line.split()[1].rstrip(";") for line in whole if line.startswith("found ")}
    if lost := announced - kept:
        wrong.append(f"lost: {lost}")
    named = re.findall(r"(?:saved as|new: \S+ ) (\S+\.json)", "\n".join(whole))
    log = folder / "all.jsonl"
    if log.exists() and not log.read_text().endswith("}\n"):
        wrong.append("the merged log is cut")
    wrong += [f"not there: {path}" for path in named if not (folder / path).exists()]
    due = {-number} if number == signal.SIGKILL else {1} if announced else {128 + number, -number}
    if is_pytest and number != signal.SIGKILL:  # it has a code of its own for Ctrl-C, and dies of all other signals
        due = {2, 130, -number}
    if code not in due and code not in (0, 1):  # it may have ended before it was struck
        wrong.append(f"exit code {code}, due {due}: {output[-500:]}")
    if ("Traceback" in output and not is_pytest) or "internal error" in output:
        wrong.append(f"noise: {output[-500:]}")
    ends = time.monotonic() + PATIENCE
    while (orphans := left(folder.name)) and time.monotonic() < ends:
        time.sleep(0.1)
    wrong += [f"left behind: process {pid}" for pid in orphans]
    return wrong


def left(mark: str) -> list[int]:
    """The processes of a run that are still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def start_each() -> None:
    """Start what is struck, once unstruck. Raises CalledProcessError where it cannot start: no strike would tell."""
    for words in (("indexfuzz", "run", "--help"), ("pytest", "--fuzz-impl", TOY[1], "--version")):
        subprocess.run([sys.executable, "-m", *words], env=os.environ | PATHS, check=True, stdout=subprocess.DEVNULL)


def main(count: int, seed: int) -> int:
    """Strike so often; 1 where anything went wrong."""
    start_each()
    generator, done, failed = random.Random(seed), Counter[str](), 0
    for _ in range(count):
        folder = Path(tempfile.mkdtemp(prefix="indexfuzz-struck-"))
        what, wrong = strike(folder, generator)
        done[what] += 1
        failed += bool(wrong)
        for complaint in wrong:
            sys.stdout.write(f"{what}: {complaint} ({folder})\n")
            sys.stdout.flush()
        if not wrong:
            shutil.rmtree(folder)
        if sum(done.values()) % 25 == 0:
            sys.stdout.write(f"{sum(done.values())} of {count}, {failed} went wrong\n")
            sys.stdout.flush()
    for what, times in sorted(done.items()):
        sys.stdout.write(f"{times:4} {what}\n")
    sys.stdout.write(f"{failed} of {count} went wrong, seed {seed}\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
