"""The command `report`: one page about a run, or about the kept cases of a folder, and the same for code scanning."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexfuzz.cli.common import InputError, console, default_corpus, in_this_process, make_folder_of
from indexfuzz.cli.options import CorpusFolder, DeviceName, Faults
from indexfuzz.core.setup import DEFAULT_DEVICE, DEFAULT_IMPLEMENTATION, Setup
from indexfuzz.core.words import path_from_here
from indexfuzz.corpus.entry import CorpusError, Entry
from indexfuzz.corpus.store import Corpus, write_text

if TYPE_CHECKING:
    from indexfuzz.report.story import Story


def report(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[LOG]", show_default="all kept cases", help="What `indexfuzz run --log` has written."),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the page.")] = Path("indexfuzz-report.html"),
    impl: Annotated[
        str,
        typer.Option(
            "--impl",
            metavar="NAME[:PATH]",
            show_default=False,
            help="Try each case on this again: adds what makes it pass, the line of the kernel, a script, its cost.",
        ),
    ] = "",
    device: DeviceName = DEFAULT_DEVICE,
    faults: Faults,
    sarif: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Also write SARIF 2.1.0 for code scanning, with what the run saw again of the known findings.",
        ),
    ] = None,
    corpus: CorpusFolder = None,
) -> None:
    """Write one HTML page about what a run has found, to read in a browser or hand to somebody.

    It holds everything: no network is needed to read it.

    Example: `indexfuzz run --log run.jsonl`, then `indexfuzz report run.jsonl --impl builtin`,
    `indexfuzz report run.jsonl --sarif indexfuzz.sarif`
    """
    from indexfuzz.campaign.log_reader import LogError
    from indexfuzz.report.evidence import kept_evidence
    from indexfuzz.report.page import render_page
    from indexfuzz.report.story import read_story

    try:
        story = read_story(run) if run else None
    except LogError as error:
        raise InputError(str(error)) from error
    folder = corpus or _kept_by(run, story) or default_corpus(faults)
    target = in_this_process(Setup(impl or DEFAULT_IMPLEMENTATION, device, tuple(faults))) if impl or faults else None
    told, out_console = [], console(err=True)
    for path, entry in _wanted(Corpus(folder).entries(), story, out_console.print):
        if target:
            out_console.print(f"trying {path_from_here(path)} again")
        told.append(kept_evidence(path_from_here(path), entry, target))
    missing = (set(story.found) if story else set()) - {each.signature for each in told}
    if missing:
        where = f"no case in {folder} shows {', '.join(sorted(missing))}"
        raise InputError(f"{where}; name the folder that the run wrote to with --corpus")
    name = story.start.implementation if story else str(path_from_here(folder))
    _write(render_page(f"IndexFuzz: {name}", told, story), out)
    if sarif:
        from indexfuzz.report.sarif import as_sarif

        known = _known(Corpus(folder).entries(), story) if story else ()
        again = [kept_evidence(path_from_here(path), entry) for path, entry in known]
        _write(json.dumps(as_sarif([*told, *again], story), indent=1) + "\n", sarif)
    console().print(f"{len(told)} finding{'' if len(told) == 1 else 's'} in {out}")


def _kept_by(run: Path | None, story: "Story | None") -> Path | None:
    """The folder that a log says its run kept cases in, if it is there."""
    if run is None or story is None or not story.start.corpus:
        return None
    folder = run.parent / story.start.corpus
    return folder if folder.is_dir() else None


def _write(text: str, file: Path) -> None:
    try:
        make_folder_of(file)
        write_text(text, file)
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from None


def _known(entries: Iterable[tuple[Path, Entry | CorpusError]], story: "Story") -> Iterator[tuple[Path, Entry]]:
    """The open cases of what was known before the run, and was seen again in it."""
    for path, entry in entries:
        if isinstance(entry, Entry) and entry.finding and entry.status == "open":
            is_of_this = str(entry.finding.signature) in story.known
            if is_of_this and entry.signatures(story.start.implementation):
                yield path, entry


def _wanted(
    entries: Iterable[tuple[Path, Entry | CorpusError]], story: "Story | None", notice: Callable[[str], None]
) -> Iterator[tuple[Path, Entry]]:
    """The kept cases of what a run found, or all that have a finding; a file that cannot be read is said so."""
    cases = {(line.case, line.signature) for line in story.found.values()} if story else None
    for path, entry in entries:
        if isinstance(entry, CorpusError):
            notice(f"left out: {entry}")
        elif entry.finding and (cases is None or (entry.case.id, str(entry.finding.signature)) in cases):
            yield path, entry
