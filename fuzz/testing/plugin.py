"""The pytest plugin: options of the fuzz targets, corpus files as tests, and failures in a few lines.

pytest imports it in every project of an environment, so it imports nothing heavy and changes nothing for others.
"""

from argparse import BooleanOptionalAction
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from indexfuzz.core.finding import FindingError
from indexfuzz.testing.options import Options, choose, parse_shard

OPTIONS: dict[str, dict[str, Any]] = {
    "--fuzz-impl": {"default": "builtin", "metavar": "NAME[:PATH]", "help": "what to test; see `indexfuzz impls`"},
    "--fuzz-device": {"default": "lockstep", "help": "where kernels run; see `indexfuzz run --help`"},
    "--fuzz-fault": {
        "action": "append",
        "default": [],
        "metavar": "ID",
        "help": "plant this bug in the built-in kernels; may be repeated; see `indexfuzz faults`",
    },
    "--fuzz-beyond-contract": {
        "action": "store_true",
        "default": False,
        "help": "run what the implementation does not promise to handle, too",
    },
    "--fuzz-isolate": {
        "action": BooleanOptionalAction,
        "default": None,
        "help": "run it in a process of its own; the default for code that is not ours",
    },
    "--fuzz-shard": {"default": "1/1", "metavar": "I/N", "help": "run part I of N of the corpus and of the search"},
    "--fuzz-seconds": {"type": float, "default": None, "metavar": "S", "help": "search this long with each target"},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the --fuzz options."""
    group = parser.getgroup("indexfuzz", "IndexFuzz")
    for name, settings in OPTIONS.items():
        group.addoption(name, **settings)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Make the options known to the targets before any is imported."""
    try:
        shard = parse_shard(config.getoption("--fuzz-shard"))
    except ValueError as error:
        raise pytest.UsageError(f"--fuzz-shard: {error}") from None
    choose(
        Options(
            implementation=config.getoption("--fuzz-impl"),
            device=config.getoption("--fuzz-device"),
            faults=tuple(config.getoption("--fuzz-fault")),
            beyond_contract=config.getoption("--fuzz-beyond-contract"),
            isolate=config.getoption("--fuzz-isolate"),
            shard=shard,
            seconds=config.getoption("--fuzz-seconds"),
            corpus=config.rootpath / "corpus",
            findings=config.rootpath / "findings",
        )
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect corpus/<stage>/<id>.json; other JSON files are none of ours."""
    if file_path.suffix != ".json" or "corpus" not in file_path.parts:
        return None
    from indexfuzz.corpus.store import is_entry
    from indexfuzz.testing.options import present

    index, of = present().shard
    if not is_entry(file_path) or int(file_path.stem, 16) % of != index - 1:
        return None
    collected: pytest.Collector = CorpusFile.from_parent(parent, path=file_path)
    return collected


class CorpusFile(pytest.File):
    """One file of a corpus, with one test."""

    def collect(self) -> Iterator[pytest.Item]:
        """The test that runs the file's case."""
        yield CorpusCase.from_parent(self, name=self.path.stem)


class CorpusCase(pytest.Item):
    """The case of a corpus file, run on what is under test.

    It passes when nothing is wrong. Failing is expected (xfail) where the corpus knows all that the case shows: open
    findings of this implementation, of this entry or others. An open finding that is gone where it was seen is a
    failure, the entry is out of date; so is one that is back where it was mended.
    """

    def runtest(self) -> None:
        """Run the case.

        Raises CorpusError for a file that cannot be read, CorpusFailureError for an outcome that the file does not say.
        """
        from indexfuzz.core.finding import summary_line
        from indexfuzz.corpus.store import load
        from indexfuzz.testing.target import known, under_test
        from indexfuzz.triage.replay import FAILING, replay

        entry, target = load(self.path), under_test()
        name = target.subject.facts.name
        result = replay(entry, target.subject)
        here = entry.signatures(name)
        expected = here if entry.status == "open" else frozenset()
        command = f"again: {target.command('replay', self.path)}"
        if result.status in FAILING:
            found = {finding.signature for finding in result.findings}
            came_back = found & here - expected
            if found <= expected | known() and not came_back:
                pytest.xfail(f"open: {', '.join(map(str, sorted(found)))}")
            lines = [summary_line(finding) for finding in result.findings]
            raise CorpusFailureError("\n  ".join([f"{result.status} on {name}", *lines, command]))
        if result.status == "ERROR":
            pytest.skip(result.message)
        if expected:
            raise CorpusFailureError(
                f"FIXED on {name}: it no longer shows {', '.join(map(str, sorted(expected)))}; "
                f'change its status from "open" to "fixed" or "guard"\n  {command}'
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A few lines for what is wrong with the case or its file; a traceback only for errors of other kinds."""
        from indexfuzz.core.setup import SetupError
        from indexfuzz.corpus.entry import CorpusError

        if isinstance(excinfo.value, CorpusFailureError | CorpusError | SetupError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The file, no line, the name."""
        return self.path, None, f"{self.path.parent.name}/{self.name}"


class CorpusFailureError(AssertionError):
    """A case did not do what its file says. The message is all that is printed."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001 - pluggy passes by name
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the findings of a fuzz target in place of Hypothesis's traceback, and keep their cases."""
    report = yield
    if call.excinfo is not None and (errors := _findings(call.excinfo.value)):
        report.longrepr = "\n".join(_described(error) for error in errors)
    return report


def _findings(error: BaseException) -> list[FindingError]:
    """The findings that an exception is or is a group of; none when anything else is among them."""
    if isinstance(error, FindingError):
        return [error]
    if isinstance(error, BaseExceptionGroup):
        inner = [_findings(e) for e in error.exceptions]
        return [e for errors in inner for e in errors] if all(inner) else []
    return []


def _described(error: FindingError) -> str:
    """Signature, detail, and how to see it again; its case is saved for that."""
    from indexfuzz.corpus.store import save
    from indexfuzz.testing.options import present
    from indexfuzz.testing.target import failing, under_test

    case, target = failing.get(error.finding.signature), under_test()
    lines = [str(error.finding.signature), error.finding.detail, error.finding.promise]
    if case is not None:
        path = save(target.entry(case, error.finding), present().findings)
        lines += [f"again: {target.command('replay', path)}", f"smaller: {target.command('minimize', path)}"]
    return "\n  ".join(lines)
