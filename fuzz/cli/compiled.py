"""The command `compile`: what kernels become on GPUs that need not be there."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from indexfuzz.cli.common import FINDINGS, NOTHING_NEW, InputError, console, each_known, in_this_process
from indexfuzz.cli.options import AsJson, Faults, Impl
from indexfuzz.core.presets import PRESETS
from indexfuzz.core.setup import DEFAULT_IMPLEMENTATION, Setup

if TYPE_CHECKING:  # imports torch
    from indexfuzz.compiling.examination import Examined, Wanted
    from indexfuzz.compiling.targets import Target
    from indexfuzz.implementations.base import Implementation

LINE_SECONDS = 10.0
"""How often progress is told."""


def compile(  # noqa: A001 - the name of the command
    *,
    impl: Impl = DEFAULT_IMPLEMENTATION,
    faults: Faults,
    target: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            default_factory=list,
            show_default="sm_80, sm_90, sm_100, gfx942, gfx950",
            help="Compile for this GPU; repeat for several.",
        ),
    ],
    preset: Annotated[
        list[str],
        typer.Option(
            metavar="MODEL",
            default_factory=list,
            show_default="all that `indexfuzz presets` lists",
            help="Only the shapes of this published model; repeat for several.",
        ),
    ],
    cases: Annotated[
        int, typer.Option(min=0, metavar="N", help="Also the shapes of so many cases as a campaign draws them.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Compile every kernel for GPUs that need not be there, and say what it became.

    Kernels are compiled with the types, constants and alignments that launchers give them in the shapes of published
    models, a process for each GPU; none runs. For each are told: the matrix instruction of tl.dot, how FP8 is
    converted, registers and bytes spilled by a thread, and shared memory.

    The exit code is 1 where a kernel does not compile, needs more shared memory than there is, or multiplies FP8 in a
    wider format although its project does not say so. What is in a format that a GPU does not have is left out.

    Example: `indexfuzz compile --target sm_90 --impl vllm:vllm-0.33.0.whl`
    """
    from indexfuzz.compiling.survey import survey
    from indexfuzz.compiling.targets import TARGETS

    targets = [TARGETS[name] for name in dict.fromkeys(each_known("--target", target, TARGETS))] or [*TARGETS.values()]
    models = [PRESETS[name] for name in each_known("--preset", preset, PRESETS)] or [*PRESETS.values()]
    implementation = in_this_process(Setup(impl, faults=tuple(faults))).subject.implementation
    wanted = _wanted(implementation, targets, models, cases)
    if not any(wanted.values()):
        raise InputError(f"{implementation.name} launches no Triton kernel in these shapes")
    progress, examined = _Progress({t.name: len(each) for t, each in wanted.items()}), list["Examined"]()
    for one in survey(wanted):
        examined.append(one)
        progress(one)
    if as_json:
        typer.echo(
            json.dumps({"implementation": implementation.name, "kernels": [asdict(e) for e in examined]}, indent=1)
        )
    else:
        _print(implementation, targets, examined)
    raise typer.Exit(FINDINGS if any(e.verdict == "wrong" for e in examined) else NOTHING_NEW)


def _wanted(
    implementation: "Implementation", targets: list["Target"], models: list[Any], drawn: int
) -> dict["Target", list["Wanted"]]:
    from indexfuzz.compiling.cases import cases_for
    from indexfuzz.compiling.launches import launches
    from indexfuzz.compiling.survey import specialisations

    console(err=True).print("looking for what is launched")
    made = {
        fp8: list(launches(cases_for(implementation, fp8, models, drawn), implementation))
        for fp8 in {target.fp8: None for target in targets}
    }
    return {target: specialisations(made[target.fp8], implementation, target) for target in targets}


class _Progress:
    """Tells now and then how far each target is."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts, self._done, self._findings = counts, dict.fromkeys(counts, 0), 0
        self._next_line = time.monotonic()

    def __call__(self, examined: "Examined") -> None:
        self._done[examined.target] += 1
        self._findings += examined.verdict == "wrong"
        if time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_SECONDS
            done = ", ".join(f"{name} {count} of {self._counts[name]}" for name, count in self._done.items())
            console(err=True).print(f"compiled for {done}; {self._findings} findings")


def _print(implementation: "Implementation", targets: list["Target"], examined: list["Examined"]) -> None:
    out = console()
    for target in targets:
        every = [e for e in examined if e.target == target.name]
        out.print(Text(f"{target.name}: {implementation.name}, {len(every)} specialisations", "bold"))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in ("stage", "kernel", "n", "tl.dot", "FP8 conversion", "registers", "spilled", "shared"):
            table.add_column(heading, overflow="fold")
        for group in _grouped(every, "stage", "kernel"):
            table.add_row(*_row(group))
        out.print(table)
        for group in _grouped((e for e in every if e.verdict == "unsupported"), "sentence"):
            kernels = ", ".join(dict.fromkeys(e.kernel for e in group))
            out.print(f"  left out, {len(group)} of {kernels}: {group[0].sentence}")
    for group in _grouped((e for e in examined if e.verdict == "wrong"), "target", "kernel", "sentence"):
        first, others = group[0], f", and {len(group) - 1} more" if len(group) > 1 else ""
        constants = ", ".join(f"{name}={value}" for name, value in first.constants.items())
        out.print(f"\n{first.target}: {first.stage}, {first.kernel} ({first.place})", style="red")
        out.print(f"  {first.sentence}")
        out.print(f"  with {constants}{others}")


def _grouped(examined: Iterable["Examined"], *names: str) -> Iterator[list["Examined"]]:
    """Those that are equal in some fields, in the order in which the first of each came."""
    groups = defaultdict[Any, list["Examined"]](list)
    for one in examined:
        groups[tuple(getattr(one, name) for name in names)].append(one)
    yield from groups.values()


def _row(group: list["Examined"]) -> tuple[str, ...]:
    """One kernel of one target: instructions of any specialisation, and the most that one takes."""
    codes = [e.code for e in group if e.code]
    first = group[0]
    return (
        first.stage,
        first.kernel,
        str(len(group)),
        " ".join(dict.fromkeys(opcode for code in codes for opcode in code.matrices)) or "-",
        " ".join(dict.fromkeys(opcode for code in codes for opcode in code.conversions)) or "-",
        *(_most([getattr(code, field) for code in codes]) for field in ("registers", "spilled", "shared")),
    )


def _most(numbers: list[int | None]) -> str:
    known = [number for number in numbers if number is not None]
    return str(max(known)) if known else "-"
