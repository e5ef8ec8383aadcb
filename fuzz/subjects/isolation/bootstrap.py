"""The first file that a child runs, maybe under a Python that is too old or lacks packages: it says so, or goes on.

Plain enough that any Python 3 can run it. The package is imported from the very files of the parent: nothing has to be
installed beside the implementation, and no other version can be picked up. A checkout keeps the package in three
folders, so they are mounted by name; a folder with nothing but links to them would have to be removed in the end.
"""

import importlib
import json
import os
import struct
import sys
from typing import Any, Dict, List, NoReturn, Optional  # noqa: UP035

OLDEST = (3, 11)


def refuse(control: int, sentence: str) -> NoReturn:
    """Tell the parent why this interpreter cannot be used, and end."""
    body = json.dumps({"refused": sentence}).encode()
    os.write(control, struct.pack(">I", len(body)) + body)
    sys.exit(1)


def check(needs: Dict[str, str]) -> Optional[str]:  # noqa: UP006, UP045
    """What is wrong with this interpreter, in a sentence; None when it will do. `needs` maps packages to versions."""
    here = f"{sys.executable} (Python {'.'.join(map(str, sys.version_info[:3]))})"
    if sys.version_info < OLDEST:
        return f"{here} is too old; IndexFuzz needs Python {'.'.join(map(str, OLDEST))} or newer"
    metadata: Any = importlib.import_module("importlib.metadata")
    missing, old = [], []
    for package, oldest in sorted(needs.items()):
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:
            missing.append(package)
            continue
        if numbers(found) < numbers(oldest):
            old.append(f"{package} {found} (needs {oldest} or newer)")
    if missing:
        return f"{here} has no {' and no '.join(missing)}; install what is missing there"
    if old:
        return f"{here} has {' and '.join(old)}; install a newer one there"
    for package in sorted(needs):
        try:
            importlib.import_module(package)
        except Exception as error:  # noqa: BLE001 - whatever a broken package does
            return f"{here} cannot import {package}: {type(error).__name__}: {error}"
    return None


def numbers(version: str) -> List[int]:  # noqa: UP006
    """2.13.0+cpu -> [2, 13, 0]."""
    return [int(part) for part in version.partition("+")[0].split(".") if part.isdigit()]


def mount(folders: List[str]) -> None:  # noqa: UP006
    """Make `indexfuzz` importable from these folders: its own, and one that holds more of its packages."""
    util: Any = importlib.import_module("importlib.util")
    file = os.path.join(folders[0], "__init__.py")  # noqa: PTH118
    spec = util.spec_from_file_location("indexfuzz", file, submodule_search_locations=folders)
    module = util.module_from_spec(spec)
    sys.modules["indexfuzz"] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Become the process that workers are forked from."""
    control, parent, given = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    if sys.path and os.path.abspath(sys.path[0]) == os.path.dirname(os.path.abspath(__file__)):  # noqa: PTH100, PTH120
        del sys.path[0]
    if sys.version_info >= OLDEST:
        mount(given["folders"])
        importlib.import_module("indexfuzz.subjects.isolation.lifeline").die_with(parent)
    why = check(given["needs"])
    if why:
        refuse(control, why)
    importlib.import_module("indexfuzz.subjects.isolation.zygote").serve(control)


if __name__ == "__main__":
    main()
