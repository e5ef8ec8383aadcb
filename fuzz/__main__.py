"""`indexfuzz` and `python -m indexfuzz`: hear signals from the first moment on, then load the command line."""

import os
import sys

from indexfuzz.core import interrupts, threads


def start() -> None:
    """Run the command line as a program of its own.

    It leaves nothing of Hypothesis in the current folder, and has one thread, as all processes that it starts.
    """
    threads.take_one(os.environ)
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.path.expanduser(f"{caches}/indexfuzz/hypothesis")  # noqa: PTH111 - Path raises where nobody has a home
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", folder)
    main(is_program=True)


def main(*, is_program: bool = False) -> None:
    """Run the command line and exit with its code; a program hears no signal once that is known."""
    try:
        with interrupts.listening(deaf_afterwards=is_program):
            from indexfuzz.cli import run_command

            code = run_command()
    except interrupts.Interrupted as interrupted:
        if sys.stderr:
            sys.stderr.write(f"interrupted by {interrupted}\n")
        code = interrupted.exit_code
    sys.exit(code)


if __name__ == "__main__":
    start()
