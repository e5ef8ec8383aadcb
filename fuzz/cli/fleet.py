"""The command `fleet`: a campaign on many machines."""

import datetime as dt
import json
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from indexfuzz import __version__
from indexfuzz.cli.common import FINDINGS, NOTHING_NEW, USAGE_ERROR, InputError, console
from indexfuzz.cli.fleet_options import SLICES_A_PLACE, FleetOptions
from indexfuzz.cli.options import expand_options
from indexfuzz.cli.printing import WrappingConsole
from indexfuzz.core import interrupts
from indexfuzz.core.words import printable

if TYPE_CHECKING:
    from indexfuzz.corpus.entry import Entry
    from indexfuzz.fleet.cluster import RayMachines
    from indexfuzz.fleet.collecting import Collected
    from indexfuzz.fleet.dispatch import Tally
    from indexfuzz.fleet.shared import Shared
    from indexfuzz.fleet.slices import Lost, Order, Result

LINE_SECONDS = 10.0
"""How often a line is printed while nothing ends."""


@expand_options
def fleet(options: FleetOptions) -> None:
    """Run a campaign on many machines with Ray, in slices; keep what all of them find in one shared folder.

    Each slice is a shard, run by a process of its own on one core: what --slice-seconds says, with cases of its own. Of
    the time, most goes to kinds of values with which slices still find new things. A slice whose process or machine
    dies is run again. The exit code is 0 when nothing new was found, 1 when something was or a slice died each time, 2
    when no slice could run, and 130 or 143 after Ctrl-C or SIGTERM when nothing was found; what was found is kept.

    It needs Ray: `pip install 'indexfuzz[fleet]'`, on all machines.

    Example: `indexfuzz fleet --shared nightly --slices 16` uses the cores of this machine,
    `indexfuzz fleet --address auto --shared s3://bucket/nightly --slice-seconds 600` those of a cluster
    """
    options.check()
    try:
        from indexfuzz.fleet.cluster import ClusterError, RayMachines
        from indexfuzz.fleet.shared import Shared, SharedError
    except ImportError as error:
        raise InputError(f"fleet needs Ray ({error}): pip install 'indexfuzz[fleet]'") from None
    from indexfuzz.fleet.collecting import collect, read_corpus
    from indexfuzz.fleet.dispatch import SliceError

    try:
        shared = Shared(options.shared)
        shared.probe()
        known, complaints = read_corpus(shared)
        for complaint in complaints:
            typer.echo(f"left out of the corpus: {complaint}", err=True)
        with _ray_out_of(options), RayMachines(options.address, options.needs) as machines:
            order, ahead = _order(options, shared, machines)
            progress = _Progress(console(err=options.as_json), order)
            try:
                tally = _dispatch(options, order, ahead, known, machines, progress)
            finally:
                collected = collect(shared, order.name)
    except (SharedError, ClusterError, SliceError) as error:
        raise InputError(str(error)) from None
    _report(tally, collected, order, shared, options)
    raise typer.Exit(_exit_code(tally, collected))


def _ray_out_of(options: FleetOptions) -> AbstractContextManager[object]:
    """Let what Ray prints not come between the lines of JSON."""
    return redirect_stdout(sys.stderr) if options.as_json else nullcontext()


def _order(options: FleetOptions, shared: "Shared", machines: "RayMachines") -> "tuple[Order, int]":
    """What the fleet shall do, and how many slices may run without knowing of each other."""
    from indexfuzz.fleet.slices import Order

    room = options.parallel or machines.room
    if not room:
        needs = f"a core and {options.needs.gpus:g} GPUs" if options.needs.gpus else "a core"
        of_type = f" of type {options.accelerator}" if options.accelerator else ""
        raise InputError(
            f"no machine of the cluster has {needs}{of_type}, as a slice needs; where it grows, say with --parallel to "
            "how many slices at once"
        )
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%S")
    order = Order(
        setup=options.setup(),
        url=shared.url,
        name=f"{now}-{secrets.token_hex(4)}",
        version=__version__,
        seed=secrets.randbelow(1 << 32) if options.seed is None else options.seed,
        slices=options.slices or SLICES_A_PLACE * room,
        only=frozenset(options.stages),
        preset=options.preset,
        seconds=options.seconds_each,
        cases=options.slice_cases,
    )
    return order, 2 * room


def _dispatch(
    options: FleetOptions,
    order: "Order",
    ahead: int,
    known: "list[Entry]",
    machines: "RayMachines",
    progress: "_Progress",
) -> "Tally":
    from indexfuzz.corpus.store import open_signatures
    from indexfuzz.fleet.budget import Budget
    from indexfuzz.fleet.dispatch import dispatch

    names = sorted({sighting.implementation for entry in known for sighting in entry.seen})
    pairs = ((name, str(signature)) for name in names for signature in open_signatures(known, name))
    budget = Budget(options.regimes, ahead, frozenset(pairs))
    progress.start(ahead // 2)
    return dispatch(order, budget, machines, progress.hear, progress.tick)


@dataclass
class _Progress:
    """Prints a line for each slice that has ended, and one now and then while none does."""

    console: WrappingConsole
    order: "Order"
    clock: Callable[[], float] = time.monotonic
    _started: float = 0.0
    _spoken: float = 0.0
    _ended: int = 0
    _cases: int = 0
    _shown: set[str] = field(default_factory=set)

    def start(self, room: int) -> None:
        """Say what begins."""
        order = self.order
        each = f"{order.seconds:g} s" if order.seconds is not None else f"{order.cases} cases"
        self.console.print(
            f"fuzzing {order.setup.spec} on {order.setup.device}, seed {order.seed}: {order.slices} slices of {each}, "
            f"up to {room} at once; shared folder {order.url}"
        )
        self._started = self._spoken = self.clock()

    def hear(self, ended: "Result | Lost") -> None:
        """Tell of a slice that has ended."""
        from indexfuzz.fleet.slices import Lost

        self._ended += 1
        self._spoken = self.clock()
        if isinstance(ended, Lost):
            self.console.print(f"slice {ended.number} was lost: {printable(ended.why)}", style="magenta")
            return
        self._cases += ended.cases
        for signature in ended.signatures:
            if signature not in self._shown:
                self._shown.add(signature)
                self.console.print(f"found {printable(signature)} in slice {ended.number}", style="yellow")
        for note in ended.notes:
            self.console.print(f"slice {ended.number}: {printable(note)}", style="magenta")
        self.console.print(
            f"slice {ended.number} on {printable(ended.node)}: {ended.cases} cases in {ended.seconds:.0f} s, "
            f"{len(ended.reached)} things reached that were not known; {self._standing}"
        )

    def tick(self) -> None:
        """Say that it goes on."""
        if self.clock() - self._spoken >= LINE_SECONDS:
            self._spoken = self.clock()
            self.console.print(self._standing)

    @property
    def _standing(self) -> str:
        seconds = self.clock() - self._started
        found = f"{len(self._shown)} signatures" if len(self._shown) != 1 else "1 signature"
        return f"{seconds:.0f} s, {self._ended} of {self.order.slices} slices, {self._cases} cases, {found}"


def _report(tally: "Tally", collected: "Collected", order: "Order", shared: "Shared", options: FleetOptions) -> None:
    """Print what was found and where it lies, as text or JSON."""
    from indexfuzz.fleet.collecting import CORPUS, findings_of

    errors = console(err=True)
    for complaint in collected.complaints:
        errors.print(f"left out: {printable(complaint)}")
    if options.as_json:
        typer.echo(json.dumps(_as_data(tally, collected, order, shared), indent=1))
        return
    out = console()
    how = f"interrupted by {interrupts.Interrupted(tally.interrupted)}" if tally.interrupted else "done"
    out.print(f"{how}: {len(tally.results)} of {order.slices} slices, {tally.cases} cases")
    for lost in tally.lost:
        out.print(f"  slice {lost.number} died each time: {printable(lost.why)}")
        out.print(f"  again: {order.command(lost.part)}")
    if not tally.stages and not tally.interrupted:
        out.print("no stage was tried: nothing can be said of these kernels")
    for signature, name in findings_of(collected.merged):
        out.print(f"new: {signature}  {name}", style="bold red")
    out.print(f"{len(collected.merged.entries)} kept cases in {shared.url}/{CORPUS}")
    if collected.log:
        out.print(f"log of all slices: {shared.url}/{collected.log}")


def _as_data(tally: "Tally", collected: "Collected", order: "Order", shared: "Shared") -> dict[str, Any]:
    """The same as plain JSON data."""
    from indexfuzz.fleet.collecting import findings_of

    return {
        "seed": order.seed,
        "shared": shared.url,
        "slices": [
            {
                "number": result.number,
                "node": result.node,
                "cases": result.cases,
                "seconds": result.seconds,
                "signatures": list(result.signatures),
                "reached": len(result.reached),
            }
            for result in sorted(tally.results, key=lambda result: result.number)
        ],
        "lost": [{"number": lost.number, "why": lost.why, "again": order.command(lost.part)} for lost in tally.lost],
        "cases": tally.cases,
        "new": [{"signature": signature, "file": name} for signature, name in findings_of(collected.merged)],
        "kept": len(collected.merged.entries),
        "log": collected.log or None,
        "left_out": collected.complaints,
        "interrupted": tally.interrupted,
    }


def _exit_code(tally: "Tally", collected: "Collected") -> int:
    """Green means that something was tried and nothing was found."""
    if tally.lost or any(True for _ in collected.merged.new_findings()):
        return FINDINGS
    if tally.interrupted:
        return interrupts.Interrupted(tally.interrupted).exit_code
    return NOTHING_NEW if tally.stages else USAGE_ERROR
