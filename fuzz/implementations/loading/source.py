"""Where a third-party project's source lies: a wheel, an unpacked wheel or a git checkout.

Files are read in place. Nothing is installed, imported or extracted, so a hostile archive has nowhere to write to.
"""

import importlib.util
import re
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path, PurePosixPath
from typing import Protocol

from packaging.utils import canonicalize_name

from indexfuzz.implementations.base import ImplementationError
from indexfuzz.implementations.loading.git_version import git_version

_MAX_FILE_BYTES = 16 * 2**20
_VERSION_LINE = re.compile(r"""^__version__(?:\s*=\s*version)?\s*=\s*['"]([^'"]+)['"]""", re.MULTILINE)


class SourceError(ImplementationError):
    """A third-party project that cannot be read or executed, as one sentence for the user."""


class _Files(Protocol):
    """Files of one tree, addressed by POSIX paths relative to its top."""

    def read(self, file: str) -> bytes | None:
        """Return the file's bytes, or None where there is no such file."""

    def has_folder(self, folder: str) -> bool:
        """Tell whether any file lies below this folder."""

    def distributions(self) -> list[Distribution]:
        """Return the distributions whose metadata lie at the top of the tree."""


@dataclass(frozen=True)
class _Wheel:
    path: Path

    def read(self, file: str) -> bytes | None:
        with zipfile.ZipFile(self.path) as archive:
            try:
                entry = archive.getinfo(file)
            except KeyError:
                return None
            if entry.file_size > _MAX_FILE_BYTES:
                raise SourceError(f"{file} in {self.path} claims {entry.file_size} bytes; refusing to read it")
            return archive.read(entry)

    def has_folder(self, folder: str) -> bool:
        with zipfile.ZipFile(self.path) as archive:
            return any(name.startswith(f"{folder}/") for name in archive.namelist())

    def distributions(self) -> list[Distribution]:
        folders = [child for child in zipfile.Path(self.path).iterdir() if child.name.endswith(".dist-info")]
        return [PathDistribution(folder) for folder in folders if self.read(f"{folder.name}/METADATA") is not None]


@dataclass(frozen=True)
class _Folder:
    path: Path

    def read(self, file: str) -> bytes | None:
        found = (self.path / file).resolve()
        if not found.is_file():
            return None
        if not found.is_relative_to(self.path.resolve()):
            raise SourceError(f"{file} in {self.path} is a link that leads out of that folder; refusing to read it")
        if found.stat().st_size > _MAX_FILE_BYTES:
            raise SourceError(f"{file} in {self.path} has {found.stat().st_size} bytes; refusing to read it")
        return found.read_bytes()

    def has_folder(self, folder: str) -> bool:
        return (self.path / folder).is_dir()

    def distributions(self) -> list[Distribution]:
        folders = [*sorted(self.path.glob("*.dist-info")), self.path]
        names = ("METADATA", "PKG-INFO")
        return [
            PathDistribution(folder)
            for folder in folders
            if any(self.read(str((folder / name).relative_to(self.path))) is not None for name in names)
        ]


@dataclass(frozen=True)
class Project:
    """One third-party package at a path.

    `package` is its import name, `version` what its metadata or git files say ("unknown" where they say nothing),
    `path` the wheel or folder as the user named it, `known_versions` the releases an adapter was written against,
    `replaced` the names that its executed files import and that got something else than the real thing; `executed` the
    names that linecache knows those files by.
    """

    package: str
    version: str
    path: Path
    known_versions: str
    _files: _Files
    _root: str
    replaced: set[str] = field(default_factory=set, compare=False)
    executed: set[str] = field(default_factory=set, compare=False)

    @property
    def label(self) -> str:
        """Name and version, as findings cite them: "vllm 0.22.0"."""
        return f"{self.package} {self.version}"

    def has(self, file: str) -> bool:
        """Tell whether the package has this file (a path that starts with the package's own folder)."""
        return self._read(file) is not None

    def read(self, file: str) -> str:
        """Return the text of a Python file; SourceError where it is absent or not text."""
        data = self._read(file)
        if data is None:
            raise SourceError(
                f"{self.label} at {self.path} has no {file}: the file has moved or is not in this release yet; "
                f"versions {self.known_versions} are known to have it"
            )
        try:
            return importlib.util.decode_source(data)
        except (SyntaxError, UnicodeDecodeError) as error:
            raise SourceError(f"{file} of {self.label} at {self.path} is not Python text: {error}") from None

    def place(self, file: str, *texts: str) -> str:
        """Where a file says something: file:line of the last of some texts, each looked for behind the one before.

        The file alone where this release does not have all of them.
        """
        lines = self.read(file).splitlines() if self.has(file) else []
        line = 0
        for text in texts:
            line = next((number for number, found in enumerate(lines[line:], line + 1) if text in found), 0)
            if not line:
                return file
        return f"{file}:{line}"

    def _read(self, file: str) -> bytes | None:
        parts = PurePosixPath(file)
        if parts.is_absolute() or ".." in parts.parts:
            raise SourceError(f"{file!r} is not a path inside {self.package}")
        try:
            return self._files.read(f"{self._root}{file}")
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:  # RuntimeError: an encrypted entry
            raise SourceError(f"cannot read {file} in {self.path}: {error}") from None


def module_of(file: str) -> str:
    """The name by which a file of a project is imported, as "a.b" of "a/b.py"."""
    return file.removesuffix(".py").replace("/", ".")


def open_project(
    path: str | Path,
    package: str,
    *,
    known_versions: str,
    distributions: tuple[str, ...] = (),
    roots: tuple[str, ...] = ("",),
) -> Project:
    """Find a package in a wheel (.whl), an unpacked wheel or a checkout, or at the package's own folder.

    `distributions` are names under which the package is published besides its own; `roots` are the folders of a
    checkout that may hold the package, each "" or ending in "/". Raises SourceError.
    """
    top = Path(path).expanduser()
    if not top.exists():
        raise SourceError(f"{path} does not exist; give a wheel, an unpacked wheel or a checkout of {package}")
    files: _Files
    if top.is_dir():
        if top.name == package and not any((top / root / package).is_dir() for root in roots):
            top = top.parent
        files = _Folder(top)
    elif zipfile.is_zipfile(top):
        files = _Wheel(top)
    else:
        raise SourceError(f"{path} is neither a wheel nor a folder; give a .whl, an unpacked wheel or a checkout")
    for root in roots:
        if files.has_folder(f"{root}{package}"):
            version = _version(files, top, f"{root}{package}", {package, *distributions})
            return Project(package, version, top, known_versions, files, root)
    looked = " or ".join(f"{root}{package}/" for root in roots)
    raise SourceError(f"{path} is not a wheel or checkout of {package}: it has no folder {looked}")


def _version(files: _Files, top: Path, folder: str, names: set[str]) -> str:
    """Read the version without running anything; a checkout's git files go first, its built files may be stale."""
    if top.is_dir() and (found := git_version(top)) is not None:
        return found
    published = {canonicalize_name(name) for name in names}
    for distribution in files.distributions():
        with suppress(UnicodeDecodeError):
            metadata = distribution.metadata
            if {"Name", "Version"} <= set(metadata) and canonicalize_name(metadata["Name"]) in published:
                return metadata["Version"]
    for file in (f"{folder}/_version.py", f"{folder}/version.py"):
        if line := _VERSION_LINE.search((files.read(file) or b"").decode("utf-8", "replace")):
            return str(line[1])
    return "unknown"
