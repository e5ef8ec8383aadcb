import zipfile
from pathlib import Path

import pytest

from indexfuzz.implementations.base import ImplementationError
from indexfuzz.implementations.loading.source import SourceError, open_project

OPS = "toy/ops.py"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def wheel(root: Path, files: dict[str, str]) -> Path:
    path = root / "toy-1.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def project(path: Path, **options: object):
    return open_project(path, "toy", known_versions="1.0 to 1.9", **options)


METADATA = {"toy-1.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.5\n\nA toy.\n"}


class TestPlaces:
    def test_wheel(self, tmp_path):
        found = project(wheel(tmp_path, {OPS: "x = 1\n", **METADATA}))
        assert (found.version, found.label, found.read(OPS)) == ("1.5", "toy 1.5", "x = 1\n")

    def test_unpacked_wheel(self, tmp_path):
        assert project(write(tmp_path, {OPS: "x = 1\n", **METADATA})).version == "1.5"

    def test_the_package_folder_itself(self, tmp_path):
        write(tmp_path, {OPS: "x = 1\n", **METADATA})
        assert project(tmp_path / "toy").read(OPS) == "x = 1\n"

    def test_a_checkout_that_is_named_like_its_package(self, tmp_path):
        write(tmp_path / "toy", {OPS: "x = 1\n"})
        assert project(tmp_path / "toy").read(OPS) == "x = 1\n"

    def test_package_below_a_root_folder_of_the_checkout(self, tmp_path):
        write(tmp_path, {"python/toy/ops.py": "x = 1\n"})
        assert project(tmp_path, roots=("", "python/")).read(OPS) == "x = 1\n"

    def test_windows_line_ends_and_coding_cookie(self, tmp_path):
        (tmp_path / "toy").mkdir()
        (tmp_path / OPS).write_bytes(b"# -*- coding: latin-1 -*-\r\nx = '\xe9'\r\n")
        assert project(tmp_path).read(OPS) == "# -*- coding: latin-1 -*-\nx = 'é'\n"


class TestLines:
    def test_texts_are_looked_for_one_behind_the_other(self, tmp_path):
        text = "def f():\n    return 1\n\ndef g():\n    return 1\n"
        found = project(write(tmp_path, {OPS: text}))
        assert found.place(OPS, "return") == f"{OPS}:2"
        assert found.place(OPS, "def g(", "return") == f"{OPS}:5"

    def test_the_file_alone_where_a_release_has_not_all_of_them(self, tmp_path):
        found = project(write(tmp_path, {OPS: "def g():\n    return 1\n"}))
        assert found.place(OPS, "return", "def g(") == OPS
        assert found.place("toy/other.py", "x") == "toy/other.py"


class TestVersion:
    def test_version_file(self, tmp_path):
        write(tmp_path, {"toy/_version.py": "version: str\n__version__ = version = '2.0.1'\n"})
        assert project(tmp_path).version == "2.0.1"

    def test_published_under_another_name(self, tmp_path):
        write(tmp_path, {OPS: "", "amd_toy-3.dist-info/METADATA": "Name: amd_toy\nVersion: 3\n\n"})
        assert project(tmp_path, distributions=("amd-toy",)).version == "3"

    def test_metadata_of_another_package_is_ignored(self, tmp_path):
        write(tmp_path, {OPS: "", "other-3.dist-info/METADATA": "Name: other\nVersion: 3\n\n"})
        assert project(tmp_path).version == "unknown"

    def test_git_goes_before_a_stale_version_file(self, tmp_path):
        write(tmp_path, {"toy/_version.py": "__version__ = '0.1'\n", ".git/HEAD": "a" * 40})
        assert project(tmp_path).version == "git-aaaaaaaaaaaa"


class TestErrors:
    def test_is_an_implementation_error(self):
        assert issubclass(SourceError, ImplementationError)

    def test_absent_path(self, tmp_path):
        with pytest.raises(SourceError, match="nowhere does not exist; give a wheel"):
            project(tmp_path / "nowhere")

    def test_neither_wheel_nor_folder(self, tmp_path):
        (tmp_path / "notes.txt").write_text("not a wheel")
        with pytest.raises(SourceError, match=r"notes\.txt is neither a wheel nor a folder"):
            project(tmp_path / "notes.txt")

    def test_truncated_wheel(self, tmp_path):
        path = wheel(tmp_path, {OPS: "x = 1\n"})
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(SourceError, match="neither a wheel nor a folder"):
            project(path)

    def test_corrupt_member(self, tmp_path):
        path = wheel(tmp_path, {OPS: "x = 1\n"})
        path.write_bytes(path.read_bytes().replace(b"x = 1", b"x = 2"))
        with pytest.raises(SourceError, match=r"cannot read toy/ops\.py in .*CRC"):
            project(path).read(OPS)

    def test_another_project(self, tmp_path):
        with pytest.raises(
            SourceError, match=r"is not a wheel or checkout of toy: it has no folder toy/ or python/toy/"
        ):
            project(write(tmp_path, {"other/ops.py": ""}), roots=("", "python/"))

    def test_file_that_moved(self, tmp_path):
        found = project(write(tmp_path, {"toy/new_place.py": "", **METADATA}))
        with pytest.raises(SourceError, match=r"toy 1\.5 at .* has no toy/ops\.py: .* versions 1\.0 to 1\.9 are known"):
            found.read(OPS)

    def test_binary_file(self, tmp_path):
        (tmp_path / "toy").mkdir()
        (tmp_path / OPS).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SourceError, match="is not Python text"):
            project(tmp_path).read(OPS)

    def test_huge_member(self, tmp_path):
        path = tmp_path / "toy.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(OPS, b"#" * (17 * 2**20))
        with pytest.raises(SourceError, match="refusing to read it"):
            project(path).read(OPS)


class TestHostileTrees:
    @pytest.mark.parametrize("file", ["/etc/passwd", "toy/../../secret.py", ".."])
    def test_paths_that_leave_the_package(self, tmp_path, file):
        with pytest.raises(SourceError, match="is not a path inside toy"):
            project(write(tmp_path, {OPS: ""})).read(file)

    def test_link_out_of_the_folder(self, tmp_path):
        (tmp_path / "secret.py").write_text("key = 1")
        tree = write(tmp_path / "tree", {"toy/__init__.py": ""})
        (tree / OPS).symlink_to(tmp_path / "secret.py")
        with pytest.raises(SourceError, match="a link that leads out of that folder"):
            project(tree).read(OPS)

    def test_traversing_members_of_a_wheel_write_nothing(self, tmp_path):
        inner = tmp_path / "inner"
        inner.mkdir()
        path = wheel(inner, {"../escaped.py": "x = 1", "/tmp/escaped.py": "x = 1", OPS: "x = 1\n", **METADATA})
        before = sorted(tmp_path.rglob("*"))
        assert project(path).read(OPS) == "x = 1\n"
        assert sorted(tmp_path.rglob("*")) == before
