"""Strike real command lines with signals at random moments: `python tests/campaign/strike_at_random.py 200 [SEED]`.

Slow, so it is no test of the suite. Each run works on its own folder, with one or two processes. Prints a line for what
went wrong and a table at the end; the exit code is 1 where anything did: a finding that was announced and is not on
disk, a file that cannot be read, a process that is left, another exit code than the one that is due.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from indexfuzz.corpus.entry import Entry
from indexfuzz.corpus.store import Corpus

TESTS = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
LONGEST = 12.0
"""Seconds until the latest strike."""

SOON = 5.0
"""Seconds in which processes that lost their parent must end."""

MARK = "INDEXFUZZ_STRUCK"
"""An environment variable that tells which processes belong to a run."""


def strike(folder: Path, generator: random.Random) -> tuple[str, list[str]]:
    """Run a command line and strike it; what was done, and what went wrong."""
    number, workers = generator.choice(SIGNALS), generator.choice((1, 2))
    minimise = generator.random() < 0.25
    words = ["run", "--cases", "400", "--workers", str(workers), "--corpus", "kept"]
    if minimise:
        subject = next(iter(sorted((TESTS.parent / "corpus" / "gather").glob("*.json"))))
        target = folder / "kept" / "gather" / subject.name
        target.parent.mkdir(parents=True)
        shutil.copy(subject, target)
        words = ["minimize", str(target), "--seconds", "20"]
    words += ["--impl", "module:toy_gather", "--no-isolate"]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "PYTHONUNBUFFERED": "1", MARK: folder.name}
    command = [sys.executable, "-m", "indexfuzz", *words]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        try:
            process.wait(generator.uniform(0.0, LONGEST))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        code = process.wait(120)
    what = f"{words[0]} with {workers}, {number.name}" if not minimise else f"minimize, {number.name}"
    return what, list(complaints(folder, number, code))


def complaints(folder: Path, number: signal.Signals, code: int) -> list[str]:
    """What is wrong after a strike."""
    output = (folder / "output").read_text()
    wrong = []
    entries = [entry for _, entry in Corpus(folder / "kept").entries()]
    wrong += [f"broken: {entry}" for entry in entries if not isinstance(entry, Entry)]
    kept = {str(entry.finding.signature) for entry in entries if isinstance(entry, Entry) and entry.finding}
    announced = {line.split()[1].rstrip(";") for line in output.splitlines() if line.startswith("found ")}
    if lost := announced - kept:
        wrong.append(f"lost: {lost}")
    due = {-number} if number == signal.SIGKILL else {1} if announced else {128 + number, -number}
    if code not in due and code not in (0, 1):  # it may have ended before it was struck
        wrong.append(f"exit code {code}, due {due}: {output[-500:]}")
    if "Traceback" in output or "internal error" in output:
        wrong.append(f"noise: {output[-500:]}")
    ends = time.monotonic() + SOON
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


def main(count: int, seed: int) -> int:
    """Strike so often; 1 where anything went wrong."""
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
    for what, times in sorted(done.items()):
        sys.stdout.write(f"{times:4} {what}\n")
    sys.stdout.write(f"{failed} of {count} went wrong, seed {seed}\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
