"""pytest --lockstep: every Triton launch of a project's tests runs in lockstep, and a violation fails its test."""

from argparse import Namespace
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from indexfuzz.core.setup import SetupError
from indexfuzz.lockstep import KernelError, LockstepError, UnsupportedFeature
from indexfuzz.lockstep.programs.report import describe_launches, summarise, write_report
from indexfuzz.lockstep.programs.session import Settings, take_launches

_DATA = "indexfuzz_lockstep"

_NO_GPU: Final = ("Torch not compiled with CUDA enabled", "Found no NVIDIA driver")
"""What PyTorch says where a program asks for a GPU and there is none."""


class LockstepTests:
    """A plugin of one pytest session, or of one worker of it.

    Raises SetupError for options that do not fit.
    """

    def __init__(self, config: pytest.Config, options: Namespace) -> None:
        self._config = config
        self._settings = read_settings(options)
        self._stack = ExitStack()
        self._told = 0
        self._wants_gpu = False
        try:
            self._machine = self._stack.enter_context(take_launches(self._settings))
        except ValueError as error:
            raise SetupError(f"--lockstep: {error}") from None
        config.add_cleanup(self._stack.close)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Note which test launches."""
        self._machine.test = item.nodeid
        try:
            return (yield)
        finally:
            self._machine.test = ""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Fail a test whose launches did something wrong; skip one that needs what lockstep has not."""
        report = yield
        launches = self._machine.record.launches[self._told :]
        self._told += len(launches)
        error = call.excinfo.value if call.excinfo else None
        self._wants_gpu |= report.failed and any(words in str(error) for words in _NO_GPU)
        if report.failed and isinstance(error, KernelError | LockstepError):
            report.longrepr = str(error)
        if report.failed and (missing := _missing(error)):
            file, line, _ = item.location
            report.outcome, report.longrepr = "skipped", (file, (line or 0) + 1, f"Skipped: lockstep: {missing}")
        if found := describe_launches(launches):
            self._fail(report, found)
        return report

    def _fail(self, report: pytest.TestReport, found: str) -> None:
        if report.failed:
            report.sections.append(("lockstep", found))
        elif not hasattr(report, "wasxfail"):
            report.outcome, report.longrepr = "failed", found

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Send a worker's record on; where all is known, end a session that checked nothing as pytest does."""
        record = self._machine.record
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[_DATA] = record.as_data()
        elif session.exitstatus == pytest.ExitCode.OK and not record.launches and session.testscollected:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the record of a worker."""
        if data := getattr(node, "workeroutput", {}).get(_DATA):
            self._machine.record.add_data(data)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what ran, and write the report."""
        record, terminal = self._machine.record, terminalreporter
        terminal.section("lockstep")
        for line in summarise(record):
            terminal.line(line)
        if self._settings.device == "cpu" and (not record.launches or self._wants_gpu):
            terminal.line("with --lockstep-device cuda, tensors that tests want on the GPU are put on the CPU")
        if record.launches:
            terminal.line(record.coverage.report().splitlines()[0])
        if self._settings.report is not None:
            write_report(record, self._settings.report)
            terminal.line(f"every launch: {self._settings.report}")


def read_settings(options: Namespace) -> Settings:
    """The --lockstep options, as they stand on the command line and in the project's settings for pytest."""
    report = options.lockstep_report
    return Settings(
        options.lockstep_device,
        options.lockstep_dot,
        options.lockstep_configs,
        options.lockstep_checkers,
        Path(report) if report else None,
    )


def _missing(error: BaseException | None) -> str:
    """What a test failed for the lack of; empty where it failed for another reason."""
    while error is not None:
        if isinstance(error, UnsupportedFeature):
            return str(error)
        error = error.__cause__ or error.__context__
    return ""
