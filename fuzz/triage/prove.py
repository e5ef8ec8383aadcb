"""Run a repro script before it is handed over: one that does not show its finding convinces nobody."""

import subprocess
import sys
from dataclasses import dataclass

SECONDS = 120.0

NOT_RUN = ("ModuleNotFoundError:", "SyntaxError:")
"""How the output of a script ends of which nothing has run: that it fails says nothing of a kernel."""


@dataclass(frozen=True)
class Proof:
    """How a script ended: `shows` the bug, and its last line of output."""

    shows: bool
    last_line: str


def run_script(text: str, seconds: float = SECONDS) -> Proof:
    """Run a script under this interpreter; it shows a bug by an exit code that is not 0, once it runs at all."""
    try:
        done = subprocess.run(
            [sys.executable, "-"], input=text, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return Proof(shows=True, last_line=f"did not end within {seconds:g} s")
    last_line = ((done.stdout + done.stderr).strip().splitlines() or [""])[-1]
    return Proof(done.returncode != 0 and not last_line.startswith(NOT_RUN), last_line)
