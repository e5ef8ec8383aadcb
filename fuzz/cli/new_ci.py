"""The command `new-ci`: workflows for GitHub that fuzz the kernels of a repository."""

import os
import re
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from indexfuzz.cli.common import InputError, console
from indexfuzz.core.origin import NAME, requirement
from indexfuzz.core.project import Project
from indexfuzz.corpus.store import write_text

EACH_COMMIT, NIGHTLY, GPU = "indexfuzz.yml", "indexfuzz-nightly.yml", "indexfuzz-gpu.yml"
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
INSTALL = f"python -m pip install {NAME} pytest"
SHARDS = 4
MOST_SHARDS = 256
"""GitHub starts so many jobs of a matrix."""


def new_ci(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", show_default="the current one", help="The folder of the repository.")
    ] = Path(),
    *,
    impl: Annotated[
        str,
        typer.Option(
            "--impl", metavar="NAME[:PATH]", show_default="what the project's settings say", help="What to test."
        ),
    ] = "",
    install: Annotated[
        str,
        typer.Option(
            metavar="COMMAND",
            show_default="pip installs IndexFuzz from where this one came, and pytest",
            help="Installs IndexFuzz, pytest and what your kernels import.",
        ),
    ] = "",
    shards: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST_SHARDS, help="On how many machines it runs at night.")
    ] = SHARDS,
    gpu: Annotated[
        str,
        typer.Option(metavar="LABEL", show_default="no such workflow", help="Also run on the runner of this label."),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write workflows for GitHub: each commit is fuzzed for two minutes, each night for longer on several machines.

    The nightly runs are merged into one report, for code scanning too, and file an issue for each new signature. With
    --gpu there is a workflow for a runner that has an NVIDIA GPU. What the project's settings say holds in all of them.
    docs/ci.md says more.

    Example: `indexfuzz new-ci`, then
    `indexfuzz new-ci --impl module:my_kernels --install "python -m pip install -e . indexfuzz pytest" --force`
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    for option, text in (("--impl", impl), ("--install", install)):
        if "\n" in text or "${{" in text or not text.isprintable():
            raise InputError(f"{option}: must be one line, without expressions of GitHub")
    if install and not install.strip():
        raise InputError("--install: must be a command")
    needed = requirement()
    chosen = install or INSTALL.replace(NAME, shlex.quote(needed or NAME))
    if gpu and not LABEL.fullmatch(gpu):
        raise InputError(f"--gpu: {gpu!r} is no label of a runner")
    target = folder / ".github" / "workflows"
    written = write_workflows(folder, impl, chosen, shards, gpu)
    there = [target / name for name in written if (target / name).exists()]
    if there and not force:
        raise InputError(f"{', '.join(map(str, there))}: there already; --force overwrites")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, text in written.items():
            write_text(text, target / name)
            console().print(f"wrote {target / name}")
    except OSError as error:
        raise InputError(f"cannot write to {target}: {error.strerror}") from None
    if not install and needed is None:
        console().print(
            f"  they run `{chosen}`, but this IndexFuzz was installed from a folder or file of this machine: "
            "--install says what fetches it elsewhere",
            style="yellow",
        )
    console().print("  next: commit them; docs/ci.md says what each does")


def write_workflows(
    folder: Path, impl: str = "", install: str = INSTALL, shards: int = SHARDS, gpu: str = ""
) -> dict[str, str]:
    """The text of each workflow by its name, for the repository of a folder.

    Raises SetupError where its settings cannot be read.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    place = files("indexfuzz.cli") / "workflows"
    environment = Environment(  # noqa: S701 - not HTML; words are quoted for the shell
        loader=FunctionLoader(lambda name: (place / name).read_text("utf-8")),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    root = folder.resolve()
    project = Project(root)
    quoted = shlex.quote(impl)
    words = {
        "install": install,
        "corpus": shlex.quote(os.path.relpath(project.root / project.table.corpus, root)),
        "impl": f" --impl {quoted}" if impl else "",
        "report_impl": f" --impl {shlex.quote(impl or project.table.impl)}",
        "fuzz_impl": f" --fuzz-impl {quoted}" if impl else "",
        "shards": shards,
        "gpu": gpu,
    }
    return {
        name: environment.get_template(name).render(words) for name in (EACH_COMMIT, NIGHTLY, *([GPU] if gpu else []))
    }
