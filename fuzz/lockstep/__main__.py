"""`python -m indexfuzz.lockstep script.py args`: run a script with every launch of a Triton kernel in lockstep.

Exit codes: 0 no violation, 1 violations or a kernel that fails, 2 wrong usage, a missing feature or nothing launched,
3 a defect of lockstep. A script that ends by itself with another code keeps it where its kernels did nothing wrong.
"""

import argparse
import runpy
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from indexfuzz.lockstep.programs.report import describe_launches, summarise, write_report
from indexfuzz.lockstep.programs.session import DEVICES, Settings, take_launches
from indexfuzz.lockstep.tracking.violations import KernelError, LockstepError, UnsupportedFeature

CLEAN, FOUND, UNUSABLE, DEFECT = 0, 1, 2, 3

_ENDS: Final = {KernelError: FOUND, UnsupportedFeature: UNUSABLE, LockstepError: DEFECT}
"""What a launch may end the script with, and the exit code for it."""


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m indexfuzz.lockstep",
        description="Run a script with every Triton kernel in lockstep, on the CPU, each access checked.",
        epilog="Exit codes: 0 no violation, 1 violations, 2 wrong usage, a missing feature or nothing launched, "
        "3 a defect of lockstep.",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default=DEVICES[0], help="cuda: what the script wants on the GPU is put on the CPU"
    )
    parser.add_argument("--dot", default="ieee", metavar="UNIT", help="arithmetic of tl.dot: ieee, sm90 or cdna3")
    parser.add_argument("--configs", default="first", metavar="WHICH", help="configurations of tuners: first or all")
    parser.add_argument("--checkers", default="", metavar="NAMES", help="checkers that are on, with commas, or all")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write every launch here; as JSON where so named")
    parser.add_argument("script", type=Path, help="the script to run")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="its arguments")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run a script; the exit code."""
    options = _parse(words)
    if not options.script.is_file():
        return _say(f"error: {options.script} is no file", UNUSABLE)
    settings = Settings(options.device, options.dot, options.configs, options.checkers, options.report)
    with ExitStack() as stack:
        try:
            machine = stack.enter_context(take_launches(settings))
        except ValueError as error:
            return _say(f"error: {error}", UNUSABLE)
        code = _run(options.script, options.args)
    record = machine.record
    if found := describe_launches(record.launches):
        _say(found, FOUND)
    lines = summarise(record)
    if settings.device == "cpu" and not record.launches:
        lines.append("with --device cuda, tensors that the script wants on the GPU are put on the CPU")
    _say("lockstep: " + "\n  ".join(lines), code)
    if settings.report is not None:
        try:
            write_report(record, settings.report)
        except OSError as error:
            return _say(f"error: the report cannot be written: {error}", UNUSABLE)
    if record.violations:
        return FOUND
    return code if record.launches or code else UNUSABLE


def _run(script: Path, args: list[str]) -> int:
    """Run the script as Python would; its exit code, or what its launch ended with."""
    sys.argv = [str(script), *args]
    sys.path[0] = str(script.parent)
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or CLEAN
        return _say(str(end.code), FOUND)
    except (KernelError, UnsupportedFeature, LockstepError) as error:
        code = next(code for kind, code in _ENDS.items() if isinstance(error, kind))
        return _say(f"error: {error}", code)
    except Exception:  # noqa: BLE001 - the script's own, told as Python tells it
        return _say(traceback.format_exc().rstrip(), FOUND)
    return CLEAN


def _say(text: str, code: int) -> int:
    sys.stderr.write(f"{text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
