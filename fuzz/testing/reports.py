"""What the reports of fuzz targets become, where they come together: a test for each finding, a line for each target.

With pytest-xdist that is the controlling process; reports of its workers arrive there.
"""

from collections.abc import Generator
from types import SimpleNamespace
from typing import Any, Literal

import pytest

CASES = "cases"
SIGNATURE = "signature"


class ToldFinding:
    """The lines of a finding, whole where pytest shows what failed.

    Where pytest wants one line (the summary at the end, which a CI prints unabridged, and JUnit's message) there is
    the signature.
    """

    def __init__(self, signature: str, lines: str) -> None:
        self._lines = lines
        self.reprcrash = SimpleNamespace(message=signature)

    def __str__(self) -> str:
        return self._lines

    def toterminal(self, terminal: pytest.TerminalReporter) -> None:
        """Write the lines: what pytest asks of everything that it shows."""
        for line in self._lines.splitlines():
            terminal.line(line)


class Reporter:
    """A plugin of one pytest session."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._session: pytest.Session | None = None
        self._lines: list[str] = []

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Remember the session, which counts tests."""
        self._session = session

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, None, None]:
        """Take note of how much a target ran, and let each further finding of it be a failed test."""
        signature = next((str(text) for name, text in report.user_properties if name == SIGNATURE), None)
        if signature and isinstance(report.longrepr, str):
            told: Any = ToldFinding(signature, report.longrepr)
            report.longrepr = told
        yield
        if report.when != "call":
            return
        self._lines += [f"{report.nodeid}: {text}" for name, text in report.user_properties if name == CASES]
        for signature, lines in report.__dict__.get("indexfuzz_more", ()):
            self._log_finding(report, signature, lines)

    def _log_finding(self, report: pytest.TestReport, signature: str, lines: str) -> None:
        """Log a test that failed, and its end, at which JUnit takes note of its properties."""
        file, line, name = report.location
        if self._session:
            self._session.testscollected += 1
        phases: tuple[tuple[Literal["call", "teardown"], Literal["failed", "passed"]], ...]
        phases = (("call", "failed"), ("teardown", "passed"))
        for when, outcome in phases:
            finding = pytest.TestReport(
                nodeid=f"{report.nodeid}[{signature}]",
                location=(file, line, f"{name}[{signature}]"),
                keywords=dict(report.keywords),
                outcome=outcome,
                longrepr=lines if when == "call" else None,
                when=when,
                user_properties=[(SIGNATURE, signature)],
            )
            self._config.hook.pytest_runtest_logreport(report=finding)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how many cases ran: a target that passes has tested that much."""
        if self._lines:
            terminalreporter.section("IndexFuzz")
            for line in self._lines:
                terminalreporter.line(line)
