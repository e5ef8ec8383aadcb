"""Loading torch and Triton takes a second or more; who waits at a terminal is told what for."""

import sys
from contextlib import nullcontext
from importlib import import_module

from indexfuzz.core import interrupts

LIBRARIES = ("torch", "triton")


def load_libraries() -> None:
    """Import them, unless that has been done.

    A signal is raised between two: code in C++ that is importing may end the process where Python raises something.
    """
    if all(name in sys.modules for name in LIBRARIES):
        return
    from rich.console import Console

    telling = Console(stderr=True).status("loading torch and triton") if sys.stderr.isatty() else nullcontext()
    with telling:
        for name in LIBRARIES:
            with interrupts.shielded():
                import_module(name)
