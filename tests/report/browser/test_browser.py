"""The report in a real browser: `make browser` installs what that takes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from indexfuzz import __main__ as cli
from indexfuzz.core.finding import Finding
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.corpus.store import Corpus
from tests.report.test_evidence import CASE, FINDING
from tests.report.test_story import CASE as RAN
from tests.report.test_story import END, FOUND, START, written

HERE = Path(__file__).parent
INSTALLED = HERE.parents[2] / "build/browser"
ON = ("--fault", "rope-result-discarded", "--corpus", "corpus")

BROKEN = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>broken</title>
<style>body { background: #fff; color: #ccc; width: 600px; } summary { outline: none; }
@media (prefers-color-scheme: dark) { body { background: #000; color: #333; } }</style>
</head>
<body>
<main>
<h1>broken</h1>
<img src="data:image/png;base64,AAAA" alt="a broken picture">
<svg role="img" aria-label="an empty picture" width="0" height="0"></svg>
<a href="#x" tabindex="-1">out of reach</a>
<details><summary onkeydown="event.preventDefault()">a stuck summary</summary><pre>hidden on paper</pre></details>
<pre style="overflow-x: auto; width: 100px">a line that is too long for its place</pre>
<script>console.error("a complaint");</script>
<img src="https://example.invalid/x.png" alt="from the network">
</main>
</body>
</html>
"""

COMPLAINTS = (
    "console: a complaint",
    "network: asks for https://example.invalid/x.png",
    "picture: a broken picture",
    "picture: an empty picture",
    "keyboard: Enter does not open a stuck summary",
    "keyboard: nothing shows that it is at <summary",
    'keyboard: Tab does not reach <a href="#x"',
    "axe, light: color-contrast",
    "axe, dark: color-contrast",
    "phone: 6",
    "print: closed, and missing on paper: a stuck summary",
    "print: cut off: a line that is too long",
    "print: on a ground of rgb(0, 0, 0)",
)


@pytest.fixture
def look(monkeypatch, tmp_path):
    """Open pages, and give what is wrong with each; screenshots stay in build/browser/shots."""
    if shutil.which("node") is None:
        pytest.skip("needs Node.js, and npm for `make browser`")
    if not (INSTALLED / ".ready").is_file():
        pytest.skip("needs the packages that `make browser` installs")
    assert (INSTALLED / "package-lock.json").read_bytes() == (HERE / "package-lock.json").read_bytes(), "make browser"
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, INSTALLED)
    shots, unpacked = INSTALLED / "shots", INSTALLED / "unpacked"
    for folder in (shots, unpacked):
        folder.mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(*pages):
        words = ["node", INSTALLED / "check.mjs", shots, *map(Path.absolute, pages)]
        environment = os.environ | {"TMPDIR": str(unpacked)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return [*json.loads(done.stdout).values()]

    return run


def report(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["indexfuzz", "report", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    return Path(words[-1])


def keep_findings():
    """A small corpus, and the log of a run that found one case of it."""
    wrong = Record.of(Finding("gather", "layout-mismatch", "k_fp8", "was read as the SHUFFLE layout"))
    located = FINDING.model_copy(update={"location": "kernels/rope.py:2"})
    one_page = CASE.replace(
        model={"head_dim": 32}, batch={"prefill": ({"length": 1, "new": 0},), "pad_tokens": 0}, values={"k": "normal"}
    )
    link, kept = "https://example.org/issues/7", Corpus(Path("corpus"))
    kept.save(Entry(case=CASE, finding=located, note="Long words: " + 9 * "rope_result_discarded_", link=link))
    kept.save(Entry(case=one_page, finding=wrong))
    Path("kernels").mkdir()
    Path("kernels/rope.py").write_text("# " + 30 * "a long line " + "\nx = 1\n")
    found = FOUND | {"case": CASE.id, "signature": str(FINDING.signature)}
    known = FOUND | {"event": "known", "signature": "gather/race/k_out"}
    died = {"event": "died", "message": "killed by SIGSEGV", "file": "x.json"}
    written(
        Path("run.jsonl"),
        START,
        *[RAN] * 9,
        found | {"event": "seen"},
        *[RAN] * 9,
        known,
        died,
        found,
        RAN,
        END | {"t": 40.0},
    )


def test_reports_hold_in_a_browser_and_every_check_can_fail(look, monkeypatch):
    keep_findings()
    run = report(monkeypatch, "run.jsonl", *ON, "--out", "run.html")
    kept = report(monkeypatch, "--out", "kept.html")
    for words in ("A script that shows it", "STILL FAILS", "gather/race/k_out", "<svg"):
        assert words in run.read_text()
    assert all(words in kept.read_text() for words in ("The line, as it is now", "https://example.org/issues/7"))
    broken = Path("broken.html")
    broken.write_text(BROKEN)
    of_run, of_kept, of_broken = look(run, kept, broken)
    assert (of_run, of_kept) == ([], [])
    unheard = [start for start in COMPLAINTS if not any(line.startswith(start) for line in of_broken)]
    assert unheard == []


def test_the_lock_names_no_host():
    assert '"resolved"' not in (HERE / "package-lock.json").read_text()
