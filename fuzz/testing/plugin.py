"""The pytest plugin: options of the fuzz targets, corpus files as tests, targets shared by workers, short failures.

pytest imports it in every project of an environment, so it imports nothing heavy and changes nothing for others.
"""

import zlib
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from indexfuzz.core.project import Project
from indexfuzz.core.setup import SetupError
from indexfuzz.testing.corpus_files import CorpusCase, CorpusFile
from indexfuzz.testing.options import Options, check_seconds, parse_shard, setup_of
from indexfuzz.testing.reports import SIGNATURE, Reporter
from indexfuzz.testing.session import EnoughError, FuzzSession, activate, deactivate
from indexfuzz.testing.told import NothingTestedError, TargetFailedError, describe_found, is_told, told_findings

OPTIONS: dict[str, dict[str, Any]] = {
    "--fuzz-impl": {"metavar": "NAME[:PATH]", "help": "what to test; see `indexfuzz impls`"},
    "--fuzz-device": {"metavar": "NAME", "help": "where kernels run; see `indexfuzz run --help`"},
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
    "--fuzz-python": {"metavar": "PATH", "help": "run it under this interpreter, isolated"},
    "--fuzz-timeout": {"type": float, "metavar": "S", "help": "how long an isolated case may take; 120 seconds"},
    "--fuzz-corpus": {"metavar": "DIR", "help": "where findings are known and kept; that of the project, else corpus/"},
    "--fuzz-shard": {"default": "1/1", "metavar": "I/N", "help": "run part I of N of the corpus and of the search"},
    "--fuzz-seconds": {
        "type": float,
        "metavar": "S",
        "help": "search this long with each target, shrinking included; every worker does",
    },
}

LOCKSTEP: dict[str, dict[str, Any]] = {
    "--lockstep": {
        "action": "store_true",
        "default": False,
        "help": "run every Triton kernel that a test launches in lockstep, on the CPU, each access checked",
    },
    "--lockstep-device": {
        "default": "cpu",
        "metavar": "NAME",
        "help": "cuda: what a test puts on a CUDA device is on the CPU, and torch.cuda speaks of one GPU",
    },
    "--lockstep-dot": {"default": "ieee", "metavar": "UNIT", "help": "arithmetic of tl.dot: ieee, sm90 or cdna3"},
    "--lockstep-configs": {
        "default": "first",
        "metavar": "WHICH",
        "help": "configurations of autotuned kernels that run: first or all",
    },
    "--lockstep-checkers": {"default": "", "metavar": "NAMES", "help": "checkers that are on, with commas, or all"},
    "--lockstep-report": {"metavar": "FILE", "help": "write every launch and the mask coverage here; *.json as JSON"},
}

TAKES_LAUNCHES = "indexfuzz-lockstep"

SESSION = pytest.StashKey[FuzzSession]()
SHARD = pytest.StashKey[tuple[int, int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the --fuzz and --lockstep options."""
    group = parser.getgroup("indexfuzz", "IndexFuzz")
    for name, settings in (OPTIONS | LOCKSTEP).items():
        group.addoption(name, **settings)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Take every launch before a conftest.py is imported, which may ask for a GPU."""
    _take_launches(early_config, early_config.known_args_namespace)


def _take_launches(config: pytest.Config, options: Namespace) -> None:
    """Begin --lockstep where it is asked for, once."""
    if not options.lockstep:
        asked = [word for word in config.invocation_params.args if str(word).startswith("--lockstep-")]
        if asked and not _is_worker(config):
            raise pytest.UsageError(f"{asked[0]} does nothing without --lockstep")
        return
    if config.pluginmanager.has_plugin(TAKES_LAUNCHES):
        return
    from indexfuzz.testing.lockstep import LockstepTests

    try:
        config.pluginmanager.register(LockstepTests(config, options), TAKES_LAUNCHES)
    except SetupError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Begin a session before any target is imported; what was named is opened, so that a wrong name ends it here."""
    try:
        session = FuzzSession(_read_options(config))
        if _names_what_to_test(config) and not _is_worker(config):
            _ = session.under_test
    except SetupError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[SESSION] = session
    token = activate(session)
    config.add_cleanup(lambda: deactivate(token))
    if not _is_worker(config):
        config.pluginmanager.register(Reporter(config), "indexfuzz-reports")
    _take_launches(config, config.option)  # where a conftest.py loads this plugin, it is too late for the hook above


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _names_what_to_test(config: pytest.Config) -> bool:
    return any(config.getoption(f"--fuzz-{name}") for name in ("impl", "device", "fault", "python"))


def _read_options(config: pytest.Config) -> Options:
    """The options given, and the project's settings for the others.

    Raises SetupError.
    """
    project = Project.here()
    faults = tuple(config.getoption("--fuzz-fault"))
    setup = setup_of(
        project,
        spec=config.getoption("--fuzz-impl"),
        device=config.getoption("--fuzz-device"),
        faults=faults,
        beyond_contract=config.getoption("--fuzz-beyond-contract"),
        isolate=config.getoption("--fuzz-isolate"),
        python=config.getoption("--fuzz-python"),
        timeout=config.getoption("--fuzz-timeout"),
    )
    seconds, corpus = config.getoption("--fuzz-seconds"), config.getoption("--fuzz-corpus")
    check_seconds("--fuzz-seconds", seconds)
    check_seconds("--fuzz-timeout", setup.timeout)
    try:
        shard = parse_shard(config.getoption("--fuzz-shard"))
    except ValueError as error:
        raise SetupError(f"--fuzz-shard: {error}") from None
    return Options(
        setup,
        Path(corpus) if corpus else project.corpus_for(faults),
        shard,
        getattr(config, "workerinput", {}).get("workercount", 1),
        seconds,
        config.getoption("--hypothesis-seed", None) or "",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect corpus/<stage>/<id>.json; other JSON files are none of ours."""
    if file_path.suffix != ".json":
        return None
    from indexfuzz.corpus.store import is_entry

    options = parent.config.stash[SESSION].options
    index, of = options.shard
    corpora = {"corpus", options.corpus.name}
    if not (corpora & set(file_path.parts) and is_entry(file_path)) or int(file_path.stem, 16) % of != index - 1:
        return None
    collected: pytest.Collector = CorpusFile.from_parent(parent, path=file_path)
    return collected


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, obj: object) -> Generator[None, Any, Any]:
    """Give a target a test for each shard and worker, so that all of them search."""
    made = yield
    if not (made and _is_target(obj)):
        return made
    options = collector.config.stash[SESSION].options
    (index, of), workers = options.shard, options.workers
    if workers == 1 or isinstance(collector, pytest.Class) or hasattr(made[0], "callspec"):
        for item in made:
            item.stash[SHARD] = options.shard
        return made
    (whole,) = made
    parts = []
    for worker in range(1, workers + 1):
        name = f"{whole.name}[{worker}of{workers}]"
        part = pytest.Function.from_parent(collector, name=name, callobj=obj)
        part.stash[SHARD] = ((index - 1) * workers + worker, of * workers)
        parts.append(part)
    return parts


def _is_target(obj: object) -> bool:
    from indexfuzz.testing.target import MARK

    return getattr(obj, MARK, False) is True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Open what the project's settings name as soon as a test needs it, so that a wrong name ends the session here."""
    needed = any(SHARD in item.stash or isinstance(item, CorpusCase) for item in items)
    if needed and not _is_worker(config) and not config.getoption("collectonly"):
        try:
            _ = config.stash[SESSION].under_test
        except SetupError as error:
            raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Run a test that may run cases: count them, end it when its time is over, make small and keep what it found.

    Raises TargetFailedError with everything that was found, NothingTestedError where a target ran nothing.
    """
    session = pyfuncitem.config.stash[SESSION]
    shard = pyfuncitem.stash.get(SHARD, None)
    if shard and shard[1] > 1:
        _seed(pyfuncitem, shard, session.options.seed)
    run = session.begin()
    result: Any = True
    with suppress(EnoughError):
        result = yield
    if run.cases:
        stages = ", ".join(f"{stage} {count}" for stage, count in run.stages.items()) or "no stage"
        pyfuncitem.user_properties.append(("cases", f"{run.cases} cases in {run.seconds:.1f} s: {stages}"))
    if run.has_failed:
        found = run.conclude()
        raise TargetFailedError([(str(f.finding.signature), describe_found(f, session)) for f in found])
    if shard and not run.stages:
        name = session.under_test.subject.facts.name
        reasons = "; ".join(run.unsupported) or "give it more cases, or look at its contract: `indexfuzz impls`"
        raise NothingTestedError(f"no case of this target reached a stage of {name}: {reasons}")
    return result


def _seed(item: pytest.Function, shard: tuple[int, int], seed_given: str) -> None:
    """Give a target the cases of its shard."""
    from hypothesis import seed

    seed(zlib.crc32(f"{seed_given} {item.obj.__name__} {shard[0]}/{shard[1]}".encode()))(item.obj)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show findings in place of a traceback; all but the first become reports of their own, see Reporter."""
    report = yield
    if item.user_properties and call.when == "call":
        report.sections += [("IndexFuzz", str(text)) for name, text in item.user_properties if name == "cases"]
    if call.excinfo is None:
        return report
    if findings := told_findings(call.excinfo.value):
        report.longrepr = findings[0][1]
        signed = (SIGNATURE, findings[0][0])
        item.user_properties.append(signed)  # what JUnit reads, when the item is torn down
        report.user_properties.append(signed)  # what Reporter reads
        report.__dict__["indexfuzz_more"] = [list(finding) for finding in findings[1:]]
    elif is_told(call.excinfo.value):
        report.longrepr = str(call.excinfo.value)
    return report
