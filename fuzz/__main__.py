"""`indexfuzz` and `python -m indexfuzz`: hear signals from the first moment on, then load the command line."""

import sys

from indexfuzz.core import interrupts


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        with interrupts.listening():
            from indexfuzz.cli import run_command

            code = run_command()
    except interrupts.Interrupted as interrupted:
        if sys.stderr:
            sys.stderr.write(f"interrupted by {interrupted}\n")
        code = interrupted.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
