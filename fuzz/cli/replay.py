"""The command `replay`: run kept cases again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indexfuzz.cli.common import (
    FINDINGS,
    INTERNAL_ERROR,
    USAGE_ERROR,
    InputError,
    console,
    default_corpus,
    find,
    under_test,
)
from indexfuzz.cli.options import AsJson, CorpusFolder, SetupOptions, expand_options
from indexfuzz.core.finding import summary_line
from indexfuzz.corpus.entry import CorpusError
from indexfuzz.corpus.store import Corpus, load
from indexfuzz.triage.replay import FAILING, Replay
from indexfuzz.triage.replay import replay as replay_entry

if TYPE_CHECKING:
    from indexfuzz.subjects.subject import Subject

STYLES = {
    "FIXED": "green",
    "PASSES": "green",
    "STILL FAILS": "red",
    "CHANGED": "yellow",
    "NOT SHOWN": "yellow",
    "ERROR": "magenta",
}


@expand_options
def replay(
    cases: Annotated[
        list[str],
        typer.Argument(
            metavar="[FILE|ID|DIR]...",
            default_factory=list,
            show_default="the whole corpus",
            help="Corpus files, ids of cases in the corpus, or folders of them.",
        ),
    ],
    *,
    options: SetupOptions,
    corpus: CorpusFolder = None,
    as_json: AsJson = False,
) -> None:
    """Run cases of the corpus again and say what became of each, a line each.

    FIXED: the finding is gone. STILL FAILS: it is still there. CHANGED: the case fails in another way. PASSES: a case
    that is not expected to fail does not. NOT SHOWN: a finding that was never confirmed does not show itself this time
    either. ERROR: it could not be run.

    The exit code is 1 when anything fails, else 2 or 3 when there was an error or no case.

    Example: `indexfuzz replay corpus/gather --impl vllm:vllm-0.22.0.whl`
    """
    paths = [path for name in cases for path in find(name, corpus)] or Corpus(corpus or default_corpus()).files()
    if not paths:
        raise InputError(f"no cases in {corpus or default_corpus()}: there is nothing to run again")
    target = under_test(options.setup())
    out, rows, codes = console(), [], {0}
    for path in paths:
        result, link, code = _replay_file(path, target.subject)
        codes.add(code)
        rows.append(_row(path, result, link))
        if not as_json:
            out.print(f"{result.status:<11}", style=STYLES[result.status], end=" ")
            out.print("  ".join(filter(None, (str(path), _explanation(result), link))))
    if as_json:
        where = {"implementation": target.subject.facts.name, "device": options.device}
        typer.echo(json.dumps(where | {"cases": rows}, indent=1))
    raise typer.Exit(FINDINGS if FINDINGS in codes else max(codes))


def _replay_file(path: Path, subject: "Subject") -> tuple[Replay, str, int]:
    """Replay one file, with the link of its entry and an exit code; what goes wrong concerns this file alone."""
    try:
        entry = load(path)
        result = replay_entry(entry, subject)
    except CorpusError as error:
        return Replay("ERROR", message=str(error).removeprefix(f"{path}: ")), "", USAGE_ERROR
    except Exception as error:  # noqa: BLE001 - the other cases still count
        return Replay("ERROR", message=f"internal error: {type(error).__name__}: {error}"), "", INTERNAL_ERROR
    if result.status == "ERROR":
        return result, entry.link, USAGE_ERROR
    return result, entry.link, FINDINGS if result.status in FAILING else 0


def _explanation(result: Replay) -> str:
    return "; ".join(filter(None, (*map(summary_line, result.findings[:1]), result.message)))


def _row(path: Path, result: Replay, link: str) -> dict[str, Any]:
    findings = [finding.as_json() for finding in result.findings]
    row = {"file": str(path), "status": result.status, "message": result.message, "findings": findings}
    return row | ({"link": link} if link else {})
