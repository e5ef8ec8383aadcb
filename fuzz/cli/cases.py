"""Commands about one case: minimize, repro and show."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexfuzz.cli.common import (
    NOTHING_NEW,
    InputError,
    console,
    find_one,
    in_this_process,
    under_test,
    with_finding,
)
from indexfuzz.cli.options import (
    AsJson,
    CaseFile,
    CorpusFolder,
    DeviceName,
    Faults,
    KernelOptions,
    SetupOptions,
    expand_options,
)
from indexfuzz.core import interrupts
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import DEFAULT_DEVICE, DEFAULT_IMPLEMENTATION, Setup
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.corpus.store import Corpus, merge, write, write_bytes

if TYPE_CHECKING:  # these import torch
    from indexfuzz.report.pictures.grid import Picture

EXPLAIN_SECONDS = 10.0
"""How long the neighbours of a case are tried to see which change of it makes it pass."""


@expand_options
def minimize(
    file: CaseFile,
    *,
    options: SetupOptions,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default="beside FILE, by its new id", help="Where to write it.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.0, metavar="S", help="Stop trying after this time.")] = 60.0,
    corpus: CorpusFolder = None,
) -> None:
    """Make a failing case as small as its bug allows, and write the result to a file of its own.

    After Ctrl-C or SIGTERM it writes what it has got to; the exit code is 130 or 143 then.

    Example: `indexfuzz minimize corpus/gather/0123456789abcdef.json --out small.json`
    """
    path, entry = find_one(file, corpus)
    signature = with_finding(path, entry)
    target = under_test(options.setup())
    from indexfuzz.triage.explain import explain
    from indexfuzz.triage.minimize import NotFailingError, minimise

    started = time.monotonic()
    reached: list[tuple[Case, Finding]] = []
    explained: list[str] = []
    code = NOTHING_NEW
    try:
        case, finding = minimise(
            entry.case,
            target.subject,
            signature,
            seconds=seconds,
            on_progress=lambda case, finding: reached.append((case, finding)),
        )
    except NotFailingError as error:
        raise InputError(f"{error}{seen_elsewhere(entry, target.subject.facts.name)}") from error
    except interrupts.Interrupted as interrupted:
        if not reached:
            raise
        interrupts.end()
        (case, finding), code = reached[-1], interrupted.exit_code
    record, seen = Record.of(finding), (target.sighting(),)
    small = Entry(
        case=case, finding=record, status=entry.status, note=entry.note, link=entry.link, seen=seen, cause=entry.cause
    )
    if case == entry.case:
        small = merge(entry, small)
    try:
        with interrupts.shielded():
            if out is None and path.parent.name == small.stage:
                out = Corpus(path.parent.parent).save(small)
            else:
                out = out or path.with_name(f"{case.id}.json")
                write(small, out)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename or out}: {error.strerror}") from error
    left = seconds - (time.monotonic() - started)
    if not code and left > 0:
        try:
            explained = [*explain(case, signature, target.subject, seconds=min(EXPLAIN_SECONDS, left)).lines()]
        except interrupts.Interrupted as interrupted:
            interrupts.end()
            code = interrupted.exit_code
    ended = "" if code or left <= 0 else "; it was minimal already" if case == entry.case else ""
    more = (f"it may get smaller yet: {target.command('minimize', out)}",) if code or left <= 0 else ()
    told = (*explained, finding.detail, finding.promise)
    lines = (str(signature), *told, f"saved as {out}{ended}", *more, f"again: {target.command('replay', out)}")
    console().print("\n  ".join(lines))
    raise typer.Exit(code)


@expand_options
def repro(
    file: CaseFile,
    *,
    kernels: KernelOptions,
    corpus: CorpusFolder = None,
) -> None:
    """Print a script that shows the bug with torch, triton and the kernel alone, to hand to whoever mends it.

    The script has been run before it is printed, and has failed: its exit code is 0 once the kernel is right.

    Example: `indexfuzz repro corpus/gather/0123456789abcdef.json > bug.py && python bug.py`
    """
    path, entry = find_one(file, corpus)
    signature = with_finding(path, entry)
    target = in_this_process(kernels.setup())
    from indexfuzz.implementations.base import ImplementationError
    from indexfuzz.triage.launches import ReproError
    from indexfuzz.triage.prove import run_script
    from indexfuzz.triage.repro import script

    try:
        text = script(entry, target)
    except (ReproError, ImplementationError) as error:
        raise InputError(f"{path}: {error}") from error
    proof, name = run_script(text), target.subject.facts.name
    elsewhere = seen_elsewhere(entry, name)
    shows = proof.shows and not elsewhere
    if not shows and all(
        finding.signature != signature for finding in target.subject.ask(entry.case, signature).findings
    ):
        why = elsewhere or " now; there is nothing to reproduce"
        raise InputError(f"{path}: {name} does not show {signature}{why}")
    if not proof.shows:
        raise UnprovenError(f"the script for {path} does not show {signature}, which {name} shows: {proof.last_line}")
    typer.echo(text, nl=False)


def seen_elsewhere(entry: Entry, name: str) -> str:
    """The end of a sentence about a case that may be asked of the wrong kernels: where else it has been seen."""
    names = entry.seen_elsewhere(name)
    return f"; it was seen on {' and '.join(names)}, which --impl or --fault names" if names else ""


class UnprovenError(Exception):
    """A repro script that does not show its finding: our mistake."""


def show(
    file: CaseFile,
    *,
    faults: Faults,
    impl: Annotated[
        str | None,
        typer.Option(
            "--impl",
            rich_help_panel="What to test",
            metavar="NAME[:PATH]",
            show_default="none: only what is kept",
            help="Also run the case on this, and tell what happens now.",
        ),
    ] = None,
    device: DeviceName = DEFAULT_DEVICE,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.svg|.png",
            show_default="none",
            help="With --impl: also write the picture to this file. PNG needs `pip install 'indexfuzz[png]'`.",
        ),
    ] = None,
    corpus: CorpusFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show a case and its first wrong element: what is special about it, what came out, what should have.

    Example: `indexfuzz show 0123456789abcdef`, then
    `indexfuzz show 0123456789abcdef --impl module:my_kernels` to see what happens now
    """
    path, entry = find_one(file, corpus)
    render = _renderer(picture) if picture else None
    target = result = explanation = None
    told: list[str] = []
    pictures: tuple[Picture, ...] = ()
    absence = ""
    if impl or faults:
        from indexfuzz.report.pictures.draw import draw, explain_absence
        from indexfuzz.triage.explain import explain
        from indexfuzz.triage.looking import look_at
        from indexfuzz.triage.replay import FAILING, replay

        target = under_test(Setup(impl or DEFAULT_IMPLEMENTATION, device, tuple(faults)))
        result = replay(entry, target.subject)
        if result.status in FAILING:
            shown = result.findings[0].signature
            explanation = explain(entry.case, shown, target.subject, seconds=EXPLAIN_SECONDS)
            look = look_at(entry.case, shown, in_this_process(target.setup).subject)
            told, pictures = (look.sentences(), draw(look)) if look else ([], ())
            absence = "" if pictures else explain_absence(shown.kind, look)
    if picture and render:
        _write_first(pictures, absence, render, picture)
    if as_json:
        data = {"file": str(path), "id": entry.case.id, **entry.model_dump(mode="json")}
        if target and result:
            findings = [finding.as_json() for finding in result.findings]
            now = {"implementation": target.subject.facts.name, "status": result.status, "message": result.message}
            data["now"] = now | {"findings": findings, "explanation": [*explanation.lines()] if explanation else []}
            data["now"] |= {"line": told, "pictures": [asdict(each) for each in pictures]}
        typer.echo(json.dumps(data, indent=1))
        return
    from indexfuzz.cli.describe import print_entry, print_now

    print_entry(path, entry, console())
    if target and result:
        lines = [line for line in (absence, *told) if line]
        print_now(entry.finding, target.subject.facts, result, explanation, lines, pictures, console())


def _renderer(file: Path) -> "Callable[[Picture], bytes]":
    """What makes a picture into a file of that name.

    Raises InputError where nothing does; so it is asked before the case is run.
    """
    from indexfuzz.report.pictures.svg import render_svg

    if file.suffix == ".svg":
        return lambda picture: (render_svg(picture) + "\n").encode()
    if file.suffix != ".png":
        raise InputError(f"{file}: pictures are written as SVG or PNG; name a file that ends in .svg or .png")
    try:
        from indexfuzz.report.pictures.png import render_png
    except ImportError as error:
        raise InputError(f"{file}: PNG needs Pillow ({error}): pip install 'indexfuzz[png]', or name a .svg") from None
    return render_png


def _write_first(pictures: "Sequence[Picture]", absence: str, render: "Callable[[Picture], bytes]", file: Path) -> None:
    """Write the first picture, the one that says most.

    Raises InputError where there is none, for which `absence` may have the reason, or it cannot be written.
    """
    if not pictures:
        raise InputError(f"{file}: {absence or 'a picture needs a finding that --impl or --fault shows now'}")
    try:
        write_bytes(render(pictures[0]), file)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from None
