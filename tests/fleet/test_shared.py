"""The shared folder: files appear whole, names lead nowhere else, and what strangers put there costs one line."""

import uuid
from pathlib import Path

import fsspec
import pytest

from indexfuzz.corpus.entry import CorpusError, Entry
from indexfuzz.corpus.store import MAX_BYTES
from indexfuzz.fleet.shared import Shared, SharedError
from tests.corpus.hostile_files import good, hostile_file


@pytest.fixture(params=["folder", "memory"])
def shared(request, tmp_path):
    return Shared(str(tmp_path / "shared") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def put(shared, name, content):
    """Write a file as somebody else would."""
    files, root = fsspec.core.url_to_fs(shared.url)
    files.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
    files.pipe_file(f"{root}/{name}", content)


def test_a_file_is_written_read_and_removed(shared, tmp_path):
    shared.probe()
    assert shared.names("corpus") == []
    entry = good(1)
    shared.write(f"corpus/{entry.file}", entry.dumps().encode())
    assert list(shared.entries("corpus")) == [(f"corpus/{entry.file}", entry)]
    shared.download(f"corpus/{entry.file}", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == entry.dumps()
    shared.upload(tmp_path / "copy", "slices/x/00001/run.jsonl")
    assert shared.names("slices") == ["slices/x/00001/run.jsonl"]
    shared.remove(f"corpus/{entry.file}")
    shared.remove(f"corpus/{entry.file}")
    assert shared.names("corpus") == []


@pytest.mark.parametrize("failing", ["pipe_file", "mv"])
def test_a_file_that_cannot_be_written_whole_is_as_it_was(shared, monkeypatch, failing):
    shared.write("corpus/a", b"before")
    files, root = fsspec.core.url_to_fs(shared.url)
    whole = files.pipe_file

    def cut(path, content):
        whole(path, content[:2])
        raise OSError(28, "No space left on device")

    def refuse(*_):
        raise PermissionError("Forbidden")

    monkeypatch.setattr(type(files), failing, staticmethod(cut if failing == "pipe_file" else refuse))
    with pytest.raises(SharedError, match=r"corpus/a: (No space left|Forbidden)"):
        shared.write("corpus/a", b"afterwards")
    monkeypatch.undo()
    assert files.cat_file(f"{root}/corpus/a") == b"before"
    assert [path.rpartition("/")[2] for path in files.find(f"{root}/corpus")] == ["a"]


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../x", "a//x", "", ".x", "a/.x", "a\\..\\x", "a/x\n", "C:x", "a/" * 9 + "x"]
)
def test_no_name_leads_out_of_the_folder(shared, name):
    with pytest.raises(ValueError, match="is no name of a file below a shared folder"):
        shared.write(name, b"")


def test_names_that_no_fleet_has_written_are_left_alone(shared):
    for name in ("slices/.hidden/a", "slices/a b", "slices/.a.tmp", "slices/\x1b[2J"):
        put(shared, name, b"x")
    put(shared, "slices/a", b"x")
    assert shared.names("slices") == ["slices/a"]


def test_damaged_and_hostile_entries_cost_a_line_each(shared):
    kept = good(0)
    shared.write(f"corpus/{kept.file}", kept.dumps().encode())
    names = set()
    for number in range(150):
        _, name, content = hostile_file(5, number)
        put(shared, f"corpus/{name}", content)
        names.add(f"corpus/{name}")
    put(shared, "corpus/gather/00000000000000aa.json", b" " * (MAX_BYTES + 1))
    put(shared, "corpus/gather/00000000000000ab.json", b"")
    read = dict(shared.entries("corpus"))
    assert [entry for entry in read.values() if isinstance(entry, Entry)] == [kept]
    complaints = {name: str(entry) for name, entry in read.items() if isinstance(entry, CorpusError)}
    assert complaints.keys() == names | {f"corpus/gather/00000000000000a{end}.json" for end in "ab"}
    assert all(text.startswith(f"{name}: ") and text.isprintable() for name, text in complaints.items())
    assert "larger than 4 MiB" in complaints["corpus/gather/00000000000000aa.json"]


def test_an_entry_that_cannot_be_read_costs_a_line(tmp_path):
    shared = Shared(str(tmp_path))
    (tmp_path / "corpus/gather").mkdir(parents=True)
    (tmp_path / "corpus/gather/00000000000000aa.json").symlink_to("nowhere")
    ((name, error),) = shared.entries("corpus")
    assert name == "corpus/gather/00000000000000aa.json"
    assert "No such file" in str(error)


def test_a_file_that_is_set_aside_is_read_no_more(shared):
    shared.write("corpus/gather/00000000000000aa.json", b"{")
    shared.set_aside("corpus/gather/00000000000000aa.json")
    assert not list(shared.entries("corpus"))
    assert shared.names("corpus") == ["corpus/gather/00000000000000aa.json.damaged"]


@pytest.mark.parametrize("url", ["nonsense://x", "s3:\x00//x"])
def test_a_url_of_which_nothing_is_known(url):
    with pytest.raises(SharedError, match=r"nonsense|s3"):
        Shared(url).probe()


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SharedError, match="file"):
        Shared(str(tmp_path / "file")).probe()


def test_a_url_holds_wherever_it_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = Shared("here")
    monkeypatch.chdir("/")
    Shared(shared.url).write("a", b"x")
    assert Path(tmp_path / "here/a").read_bytes() == b"x"
