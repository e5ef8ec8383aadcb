"""The command `new-impl`: a module to begin with."""

import keyword
import os
from pathlib import Path
from typing import Annotated

import typer

from indexfuzz.cli.common import InputError, console

_PLACEHOLDER = "my_kernels"


def new_impl(name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the module.")]) -> None:
    """Write NAME.py, a module that puts your own kernels under test; at first it runs the reference.

    An existing file stays as it is. docs/your-kernels.md is a complete example.

    Example: `indexfuzz new-impl my_kernels`, then `indexfuzz run --impl module:my_kernels`
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise InputError(f"{name!r} is no name of a Python module; use letters, digits and underscores")
    path = Path(f"{name}.py")
    try:
        _write_new(path, template().replace(_PLACEHOLDER, name))
    except FileExistsError:
        raise InputError(f"{path} exists already; choose another name, or remove it") from None
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}") from error
    console().print(f"wrote {path}\n  next: indexfuzz run --impl module:{name}")


def template() -> str:
    """The text of a module that runs at once."""
    return (Path(__file__).parents[1] / "implementations" / "template.py").read_text("utf-8")


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
