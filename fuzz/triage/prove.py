"""Run a repro script before it is handed over: one that does not show its finding convinces nobody."""

import subprocess
import sys
from dataclasses import dataclass

SECONDS = 120.0


@dataclass(frozen=True)
class Proof:
    """How a script ended: `shows` the bug, and its last line of output."""

    shows: bool
    last_line: str


def run_script(text: str, seconds: float = SECONDS) -> Proof:
    """Run a script under this interpreter; it shows a bug by an exit code that is not 0."""
    try:
        done = subprocess.run(
            [sys.executable, "-"], input=text, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Proof(shows=True, last_line=f"did not end within {seconds:g} s")
    lines = (done.stdout + done.stderr).strip().splitlines()
    return Proof(done.returncode != 0, lines[-1] if lines else "")
