import os
import textwrap
import zipfile
from pathlib import Path

import pytest


class Tree:
    """A small stand-in for a third-party project, as a folder or as a wheel."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = self.root / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return self.root / "tree"

    def wheel(self, package: str, version: str, files: dict[str, str]) -> Path:
        path = self.root / f"{package}-{version}-py3-none-any.whl"
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n\n"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(name, textwrap.dedent(text))
            archive.writestr(f"{package}-{version}.dist-info/METADATA", metadata)
        return path


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture
def third_party(request):
    """The path in an environment variable, named by indirect parametrisation; skipped where it is not set."""
    path = os.environ.get(request.param)
    if not path:
        pytest.skip(f"{request.param} does not name a wheel, unpacked wheel or checkout")
    return path
