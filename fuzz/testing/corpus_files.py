"""Files of a corpus as tests: each runs its case on what is under test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from indexfuzz.testing.told import is_told


class CorpusFile(pytest.File):
    """One file of a corpus, with one test."""

    def collect(self) -> Iterator[pytest.Item]:
        """The test that runs the file's case."""
        yield CorpusCase.from_parent(self, name=self.path.stem)


class CorpusCase(pytest.Item):
    """The case of a corpus file, run on what is under test.

    It passes when nothing is wrong. Failing is expected (xfail) where the corpus knows all that the case shows: open
    findings of this implementation, of this entry or others. An open finding that is gone where it was seen is a
    failure, the entry is out of date; so is one that is back where it was mended. What was put down to another finding
    is expected as long as that one is not mended; if it fails then, it is a bug of its own.
    """

    def runtest(self) -> None:
        """Run the case.

        Raises CorpusError for a file that cannot be read, CorpusFailureError for an outcome that the file does not say.
        """
        from indexfuzz.core.finding import summary_line
        from indexfuzz.corpus.store import load
        from indexfuzz.testing.session import current_session
        from indexfuzz.triage.replay import FAILING, replay

        session = current_session()
        entry, target = load(self.path), session.under_test
        name = target.subject.facts.name
        result = replay(entry, target.subject)
        here = entry.signatures(name)
        expected = here if entry.status in ("open", "unconfirmed") else frozenset()
        if entry.cause and not here <= session.known_in(self.path.parent.parent):
            expected = frozenset()
        command = f"again: {target.command('replay', self.path)}"
        link = f" ({entry.link})" if entry.link else ""
        if result.status in FAILING:
            found = {finding.signature for finding in result.findings}
            came_back = found & here - expected
            if found <= expected | session.known and not came_back:
                pytest.xfail(f"open: {', '.join(map(str, sorted(found)))}{link}")
            lines = [summary_line(finding) for finding in result.findings]
            lines += [result.message] if result.message else []
            raise CorpusFailureError("\n  ".join([f"{result.status} on {name}{link}", *lines, command]))
        if result.status == "ERROR":
            pytest.skip(result.message)
        if result.status == "NOT SHOWN":
            pytest.skip(f"unconfirmed, and not shown this time: {', '.join(map(str, sorted(expected)))}{link}")
        if expected:
            raise CorpusFailureError(
                f"FIXED on {name}{link}: it no longer shows {', '.join(map(str, sorted(expected)))}; "
                f'change its status from "open" to "fixed" or "guard"\n  {command}'
            )

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """A few lines for what is wrong with the case or its file; a traceback only for errors of other kinds."""
        if isinstance(excinfo.value, CorpusFailureError) or is_told(excinfo.value):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The file, no line, the name."""
        return self.path, None, f"{self.path.parent.name}/{self.name}"


class CorpusFailureError(AssertionError):
    """A case did not do what its file says. The message is all that is printed."""
