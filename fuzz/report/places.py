"""Where a line of a kernel lies in the checkout: what a CI needs to show a finding beside the code."""

import os
import re
from collections.abc import Iterator
from pathlib import Path


def find_checkout() -> Path:
    """The repository that the current folder is in, or the current folder."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)


def find_source(location: str, checkout: Path) -> tuple[Path, int] | None:
    """File and line of a "file:line".

    A kept finding names the last folder and the file alone; the one file of the checkout that is called so is meant.
    So is that of a project that was read from a path, whose files are named by its version: vllm-0.33.0/vllm/ops.py.
    None where there is no such file, or more than one.
    """
    name, _, number = location.rpartition(":")
    if not name or not number.isdecimal():
        return None
    file = Path(name)
    if file.is_absolute():
        return (file, int(number)) if file.is_file() else None
    for called in (file, *_without_version(file)):
        found = [checkout / called] if (checkout / called).is_file() else list(_files_called(called, checkout))
        if found:
            return (found[0], int(number)) if len(found) == 1 else None
    return None


def _without_version(file: Path) -> Iterator[Path]:
    """A file of a project that was read from a path, as that path has it."""
    if len(file.parts) > 2 and file.parts[0].startswith(f"{file.parts[1]}-"):
        yield Path(*file.parts[1:-1], re.sub(r"~[0-9a-f]{8}$", "", file.name))


def _files_called(file: Path, checkout: Path) -> Iterator[Path]:
    """The files below a folder whose path ends so, without hidden folders and virtual environments."""
    if ".." in file.parts:
        return
    for folder, folders, names in os.walk(checkout):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        if "pyvenv.cfg" in names:
            folders.clear()
        elif file.name in names and (Path(folder) / file.name).parts[-len(file.parts) :] == file.parts:
            yield Path(folder) / file.name


def name_in_checkout(file: Path, checkout: Path) -> str:
    """A file as a CI names it, relative to the checkout and with slashes; empty for one outside."""
    absolute = Path(os.path.abspath(file))  # noqa: PTH100 - resolve() would follow links, out of the checkout
    return absolute.relative_to(checkout).as_posix() if absolute.is_relative_to(checkout) else ""


def place_in_checkout(location: str) -> tuple[str, int]:
    """Name and line of a "file:line" for a CI; ("", 0) where no file of the checkout is meant."""
    checkout = find_checkout()
    found = find_source(location, checkout)
    name = name_in_checkout(found[0], checkout) if found else ""
    return (name, found[1]) if found and name else ("", 0)
