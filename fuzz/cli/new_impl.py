"""The command `new-impl`: a module to begin with."""

import ast
import importlib.util
import keyword
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from indexfuzz.cli.common import InputError, console, each_known
from indexfuzz.core.stage_names import GATHER, K_QUANT_CACHE, OPERATION_NAMES, PAGED_LOGITS

_PLACEHOLDER = "my_kernels"
_CONTRACT = 'CONTRACT = Clauses((*as_callers_do("my_project/ops.py"),))'
_PAGED = (K_QUANT_CACHE, GATHER, PAGED_LOGITS)

LAYOUTS = {
    "auto": ('case.cache.layout == "auto"', "pages of one token are NORMAL, all others SHUFFLE"),
    "normal": ('case.cache.page_layout == "normal"', "pages are NORMAL: keys in token order"),
    "shuffle": ('case.cache.page_layout == "shuffle"', "pages are SHUFFLE: keys in tiles"),
}
"""How pages of the cache are laid out -> the predicate and the sentence of the clause that says so."""


def new_impl(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the module.")],
    *,
    stages: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            default_factory=list,
            show_default="all seven",
            help="Write only this stage; repeat for several, or separate them by commas.",
        ),
    ],
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(LAYOUTS),
            show_default="nothing is promised",
            help="How your kernels expect the pages of the cache; the contract then says so.",
        ),
    ] = None,
) -> None:
    """Write NAME.py, a module that puts your own kernels under test; at first it runs the reference.

    It promises only what every engine's callers keep to, and --layout. An existing file stays as it is.
    docs/your-kernels.md is a complete example.

    Example: `indexfuzz new-impl my_kernels --stages gather --layout normal`, then
    `indexfuzz run --impl module:my_kernels`
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(f"{name!r} is no name of a Python module; use letters, digits and underscores")
    path = Path(f"{name}.py")
    if not path.exists() and (name in sys.modules or importlib.util.find_spec(name) is not None):
        raise InputError(f"{name} is the name of a module that is installed, which {path} would hide; choose another")
    text = template()
    in_template = _functions(text)
    wanted = each_known("--stages", stages, (*in_template, *OPERATION_NAMES))
    for operation in wanted:
        if operation not in in_template:
            raise InputError(
                f"--stages: the template has no {operation}; write it by hand: ARCHITECTURE.md has its signature"
            )
    if layout is not None:
        each_known("--layout", [layout], LAYOUTS)
    try:
        _write_new(path, write_module(name, wanted, layout))
    except FileExistsError:
        raise InputError(f"{path} exists already; choose another name, or remove it") from None
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from error
    console().print(f"wrote {path}\n  next: indexfuzz run --impl module:{name}")


def template() -> str:
    """The text of a module with every stage that a project usually has; it runs at once."""
    return (Path(__file__).parents[1] / "implementations" / "template.py").read_text("utf-8")


def write_module(name: str, stages: Collection[str], layout: str | None) -> str:
    """The template as a module of that name, with these stages (none means all), and a clause about the layout."""
    text = template().replace(_PLACEHOLDER, name)
    written = _functions(text)
    for stage in written.keys() - set(stages or written):
        text = _without(text, stage)
    about = [stage for stage in _PAGED if stage in _functions(text)]
    if layout is None or not about:
        return text
    predicate, sentence = LAYOUTS[layout]
    clause = f"""CONTRACT = Clauses(
    (
        Clause(
            {tuple(about)!r},
            lambda case: {predicate},
            "{sentence}",
            "my_project/ops.py",
        ),
        *as_callers_do("my_project/ops.py"),
    )
)""".replace("'", '"')
    return text.replace(_CONTRACT, clause).replace(
        "from indexfuzz import Clauses", "from indexfuzz import Clause, Clauses"
    )


def _functions(text: str) -> dict[str, ast.FunctionDef]:
    """The stages of a module by name."""
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def _without(text: str, stage: str) -> str:
    """A module without a stage: its function, its row, the import that it alone uses."""
    lines = text.splitlines()
    function = _functions(text)[stage]
    body = lines[function.lineno - 1 : function.end_lineno]
    del lines[function.lineno - 1 : (function.end_lineno or 0) + 2]
    lines.remove(f'        "{stage}": {stage},')
    rest = "\n".join(lines)
    for line in lines:
        alias = line.rpartition(" as ")[2]
        if (
            line.startswith("from indexfuzz.reference import")
            and f"{alias}." in "\n".join(body)
            and f"{alias}." not in rest
        ):
            lines.remove(line)
            break
    return "\n".join(lines) + "\n"


def _write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet: all of it appears at once.

    Raises FileExistsError when there is one, OSError when it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
