"""Options that several commands share, and groups of them that a command takes as one parameter."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from indexfuzz.core.setup import DEFAULT_DEVICE, DEFAULT_IMPLEMENTATION, Setup


def _is_of_project(context: typer.Context, name: str) -> bool:
    """Whether a parameter has its value from the project's settings, not from the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


def _impl(context: typer.Context, value: str) -> str:
    """Faults are planted in the built-in kernels, whatever the project tests otherwise."""
    return DEFAULT_IMPLEMENTATION if _is_of_project(context, "impl") and context.params.get("faults") else value


def _timeout(context: typer.Context, value: float | None) -> float | None:
    """A project's timeout is for isolated cases; it does not ask for isolation. Declared after what decides that."""
    if not _is_of_project(context, "timeout"):
        return value
    chosen = context.params
    setup = Setup(chosen["impl"], isolate=chosen["isolate"], python=chosen["python"])
    return value if setup.isolated else None


Impl = Annotated[
    str,
    typer.Option(
        "--impl",
        rich_help_panel="What to test",
        metavar="NAME[:PATH]",
        callback=_impl,
        help="What to test; `indexfuzz impls` lists what there is.",
    ),
]
DeviceName = Annotated[
    str,
    typer.Option(
        "--device",
        rich_help_panel="What to test",
        metavar="lockstep[:sm90|:cdna3|:order]|interpreter|cuda",
        help="Where kernels run: lockstep, a checking executor on the CPU, whose tl.dot may have the bits of a matrix "
        "unit, or which looks at the order of a program's lanes, too; cuda, a GPU; or Triton's own interpreter.",
    ),
]
Faults = Annotated[
    list[str],
    typer.Option(
        "--fault",
        rich_help_panel="What to test",
        metavar="ID",
        default_factory=list,
        show_default=False,
        help="Plant this bug in the built-in kernels; repeat for several. `indexfuzz faults` lists them.",
    ),
]
BeyondContract = Annotated[
    bool,
    typer.Option(
        "--beyond-contract",
        rich_help_panel="What to test",
        help="Also run what the implementation's project does not promise to handle: "
        "refusing it is fine, anything else is a finding. `indexfuzz impls` with "
        "its NAME:PATH prints what is promised.",
    ),
]
CorpusFolder = Annotated[
    Path | None,
    typer.Option(
        "--corpus",
        rich_help_panel="Where findings are",
        metavar="DIR",
        show_default="that of the project, else corpus/ of this folder",
        help="Where known findings are.",
    ),
]
Isolate = Annotated[
    bool | None,
    typer.Option(
        "--isolate/--no-isolate",
        rich_help_panel="In which process",
        show_default="on for code that is not ours",
        help="Run the implementation in a process of its own: what kills that or never ends is a finding.",
    ),
]
Python = Annotated[
    str | None,
    typer.Option(
        "--python",
        rich_help_panel="In which process",
        metavar="PATH",
        show_default="this one",
        help="Run the implementation under this interpreter, with its own torch and triton, isolated.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        rich_help_panel="In which process",
        min=0.1,
        metavar="S",
        callback=_timeout,
        show_default="120",
        help="How long loading the implementation may take, and an isolated case before that is a hang.",
    ),
]
Sanitize = Annotated[
    str | None,
    typer.Option(
        "--sanitize",
        rich_help_panel="What to test",
        metavar="memcheck|racecheck|initcheck",
        show_default=False,
        help="With --device cuda: run all of it under this tool of NVIDIA's compute-sanitizer, in one process; what it "
        "reports of a launch are findings.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text.")]
CaseFile = Annotated[str, typer.Argument(metavar="FILE", help="A corpus file, or the id of a case in the corpus.")]


@dataclass(frozen=True, kw_only=True)
class KernelOptions:
    """What is under test and where it runs, for commands that look into it."""

    faults: Faults
    impl: Impl = DEFAULT_IMPLEMENTATION
    device: DeviceName = DEFAULT_DEVICE

    def setup(self) -> Setup:
        """The same, in the words that the rest of IndexFuzz knows."""
        return Setup(self.impl, self.device, tuple(self.faults))


@dataclass(frozen=True, kw_only=True)
class SetupOptions(KernelOptions):
    """What is under test, where it runs and in which process."""

    beyond_contract: BeyondContract = False
    isolate: Isolate = None
    python: Python = None
    timeout: Timeout = None
    sanitize: Sanitize = None

    def setup(self) -> Setup:
        """The same, in the words that the rest of IndexFuzz knows."""
        where = (self.beyond_contract, self.isolate, self.python, self.timeout, self.sanitize)
        return Setup(self.impl, self.device, tuple(self.faults), *where)


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer, which sees every field of a parameter that is a dataclass as an option of its own."""
    parameters = inspect.signature(command).parameters.values()
    groups: dict[str, Any] = {p.name: p.annotation for p in parameters if is_dataclass(p.annotation)}

    @wraps(command)
    def expanded(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    seen = []
    for parameter in parameters:
        if parameter.name in groups:
            seen += _parameters(groups[parameter.name])
        else:
            seen.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    expanded.__signature__ = inspect.Signature(seen)  # type: ignore[attr-defined]
    return expanded


def _parameters(group: Any) -> list[inspect.Parameter]:
    """A parameter for each field of a dataclass."""
    hints = get_type_hints(group, include_extras=True)
    empty = inspect.Parameter.empty
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
