"""Start the child: under which interpreter, in which environment, and what it has to have."""

import json
import os
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import IO

from packaging.requirements import Requirement
from packaging.version import Version

from indexfuzz import __file__ as package_file
from indexfuzz.core import threads
from indexfuzz.core.setup import SetupError
from indexfuzz.subjects.isolation import bootstrap

NEEDED = ("numpy", "pydantic", "torch", "triton")


def folders() -> list[str]:
    """Where the modules of `indexfuzz` are: its folder, and that of kernels/ and reference/ where it is another."""
    package = Path(package_file).resolve().parent
    return [str(package)] if (package / "kernels").is_dir() else [str(package), str(package.parent)]


def needs() -> dict[str, str]:
    """The packages that the child must have, and the oldest version of each that will do."""
    oldest = dict.fromkeys(NEEDED, "0")
    try:
        stated = requires("indexfuzz") or []
    except PackageNotFoundError:
        stated = []
    for requirement in map(Requirement, stated):
        if requirement.name in oldest:
            oldest[requirement.name] = max((bound.version for bound in requirement.specifier), key=Version, default="0")
    return oldest


def launch(python: str, device: str, control: socket.socket, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start the child in a session of its own; what it prints goes to `log`.

    Raises SetupError where `python` cannot be started.
    """
    environment = dict(os.environ)
    environment.pop("PYTHONHOME", None)
    threads.take_one(environment)  # they do not survive a fork
    environment.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # a pool of processes would have to be found and ended
    if device == "interpreter":
        environment["TRITON_INTERPRET"] = "1"
    given = json.dumps({"folders": folders(), "needs": needs()})
    command = [python, str(Path(bootstrap.__file__).resolve()), str(control.fileno()), str(os.getpid()), given]
    try:
        return subprocess.Popen(  # noqa: S603 - what the user names
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[control.fileno()],
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise SetupError(f"--python {python}: {error.strerror}") from None


def search_path(python: str) -> list[str]:
    """Where the child looks for modules: as this process does, if it is the same interpreter; else as it sees fit."""
    return sys.path if python == sys.executable else []
