import json
import math
from pathlib import Path

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import CorpusError, Entry, Record, Sighting
from indexfuzz.corpus.store import Corpus, load

FINDING = Finding(
    "gather",
    "layout-mismatch",
    "k_fp8",
    "token 0, dim 16 is 1, must be 2",
    index=(0, 16),
    got="1",
    want="2",
    location="/somewhere/on/disk/kernels/gather.py:42",
)


def sighting(implementation: str = "toy 1.0", **more: str) -> Sighting:
    data = {"device": "lockstep", "triton": "3.6.0", "torch": "2.13.0", "date": "2026-01-31"} | more
    return Sighting(implementation=implementation, **data)


def entry(seed: int = 0, finding: Finding = FINDING, **more: object) -> Entry:
    case = Case().replace(values={"seed": seed, "set": {"k": ((0, 3, math.pi.hex()),)}})
    return Entry(case=case, finding=Record.of(finding), **({"seen": (sighting(),)} | more))


class TestFormat:
    def test_round_trip(self, tmp_path):
        path = Corpus(tmp_path).save(entry(note="why"))
        assert path == tmp_path / "gather" / f"{entry().case.id}.json"
        assert load(path) == entry(note="why")
        linked = entry(seed=1, link="https://example.org/issues/7")
        assert load(Corpus(tmp_path).save(linked)) == linked

    def test_fields_are_those_that_other_tools_read(self, tmp_path):
        data = json.loads(Corpus(tmp_path).save(entry()).read_text())
        assert list(data) == ["schema", "case", "finding", "status", "note", "seen"]
        assert data["schema"] == 1
        assert data["finding"]["signature"] == "gather/layout-mismatch/k_fp8"
        assert data["seen"] == [sighting().model_dump(exclude_none=True)]

    def test_location_names_no_folder_of_this_machine(self, tmp_path):
        text = Corpus(tmp_path).save(entry()).read_text()
        assert '"kernels/gather.py:42"' in text
        assert "somewhere" not in text

    def test_guard_without_finding_lies_apart(self, tmp_path):
        guard = Entry(case=Case(), status="guard")
        assert load(Corpus(tmp_path).save(guard)) == guard
        assert (tmp_path / "indexer").is_dir()

    def test_control_characters_of_a_kernel_are_replaced(self):
        assert Record.of(Finding("rope", "crash", "Boom", "\x1b[31mred\x00")).detail == "?[31mred?"

    def test_long_details_are_cut(self):
        assert len(Record.of(Finding("rope", "crash", "Boom", "x" * 100_000)).detail) < 10_000


def text_with(**changes: object) -> str:
    return json.dumps(json.loads(entry().dumps()) | changes)


NO_STAGE = {"signature": "gathr/crash/x", "detail": ""}
NO_SIGNATURE = {"signature": "../../etc/x", "detail": ""}
BAD_DATE = sighting().model_dump(exclude_none=True) | {"date": "yesterday"}
TOO_LARGE = {"batch": {"pad_tokens": 4096}, "model": {"num_heads": 256, "head_dim": 512}}
BROKEN = {
    "a key twice": (
        entry().dumps().replace('"status":', '"status": "guard", "status":'),
        "the key 'status' is there more",
    ),
    "a key twice in the case": (
        entry().dumps().replace('"num_heads":', '"num_heads": 1, "num_heads":'),
        "the key 'num_heads' is there more than once",
    ),
    "truncated": (entry().dumps()[:300], "not JSON: line"),
    "empty": ("", "not JSON: line 1"),
    "a list": ("[]", "must hold a JSON object"),
    "nested": ("[" * 100_000, "nested too deeply"),
    "an endless number": ("1" * 10_000, "digits"),
    "not text": ("\udcff", "not UTF-8"),
    "no schema": (text_with(schema=None), "schema: must be a version number"),
    "true schema": (text_with(schema=True), "schema: must be a version number"),
    "from the future": (text_with(schema=99), "schema: version 99 is newer than 1"),
    "unknown field": (text_with(extra=1), "extra: Extra inputs"),
    "no such status": (text_with(status="closed"), "status: Input should be 'open', 'unconfirmed', 'fixed' or 'guard'"),
    "no such stage": (text_with(finding=NO_STAGE), "finding.signature: 'gathr' is no stage"),
    "a path as stage": (text_with(finding=NO_SIGNATURE), "finding.signature: "),
    "escape codes": (text_with(note="\x1b[2J"), "note: String should match pattern"),
    "a link that runs": (text_with(link="javascript:alert(1)"), "link: String should match pattern"),
    "a link with a line break": (text_with(link="https://example.org/\n"), "link: String should match pattern"),
    "a number as text": (text_with(note=3), "note: Input should be a valid string"),
    "text as number": (text_with(case={"model": {"num_heads": "64"}}), "case.model.num_heads: Input should be a valid"),
    "a huge case": (text_with(case=TOO_LARGE), "case: "),
    "open without finding": (text_with(finding=None), "status open needs a finding"),
    "a date as date": (text_with(seen=[BAD_DATE]), "seen.0.date: "),
}


class TestStrangersFiles:
    @pytest.mark.parametrize("name", BROKEN)
    def test_error_names_file_and_field(self, name, tmp_path):
        text, message = BROKEN[name]
        path = tmp_path / "bug.json"
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(CorpusError) as error:
            load(path)
        assert str(error.value).startswith(f"{path}: ")
        assert message in str(error.value)
        assert "\n" not in str(error.value)

    def test_too_large(self, tmp_path):
        path = tmp_path / "bug.json"
        path.write_text(" " * (store.MAX_BYTES + 1) + entry().dumps())
        with pytest.raises(CorpusError, match="larger than 4 MiB"):
            load(path)

    def test_missing_and_not_a_file(self, tmp_path):
        with pytest.raises(CorpusError, match="no such file"):
            load(tmp_path / "none.json")
        with pytest.raises(CorpusError, match="not a regular file"):
            load(tmp_path)

    def test_name_must_be_the_id(self, tmp_path):
        path = tmp_path / "0123456789abcdef.json"
        path.write_text(entry().dumps())
        with pytest.raises(CorpusError, match=f"case: it has the id {entry().case.id}, the file name says 0123456789"):
            load(path)

    def test_any_other_name_will_do(self, tmp_path):
        path = tmp_path / "bug-report.json"
        path.write_text(entry().dumps())
        assert load(path) == entry()

    def test_one_broken_file_does_not_stop_the_others(self, tmp_path):
        good = [Corpus(tmp_path).save(entry(seed)) for seed in (1, 2)]
        bad = tmp_path / "gather" / "0123456789abcdef.json"
        bad.write_text("{")
        found = dict(Corpus(tmp_path).entries())
        assert isinstance(found.pop(bad), CorpusError)
        assert found == {path: load(path) for path in good}


class TestSaving:
    def test_sightings_of_the_same_case_are_merged(self, tmp_path):
        Corpus(tmp_path).save(entry(status="guard", note="mine"))
        path = Corpus(tmp_path).save(entry(seen=(sighting("other 2.0"), sighting(date="2026-02-01"))))
        merged = load(path)
        assert (merged.status, merged.note) == ("guard", "mine")
        assert merged.seen == (sighting(), sighting("other 2.0"))

    def test_nothing_new_leaves_the_file_alone(self, tmp_path):
        path = Corpus(tmp_path).save(entry())
        before = path.stat().st_mtime_ns, path.stat().st_ino
        Corpus(tmp_path).save(entry(seen=(sighting(date="2027-01-01"),)))
        assert (path.stat().st_mtime_ns, path.stat().st_ino) == before

    def test_another_signature_of_the_same_case_is_noted_with_it(self, tmp_path):
        Corpus(tmp_path).save(entry())
        other = Finding("gather", "out-of-bounds", "k_fp8", "stores beyond the end")
        Corpus(tmp_path).save(entry(finding=other))
        assert Corpus(tmp_path).known("toy 1.0") == {FINDING.signature, other.signature}

    def test_a_damaged_file_is_set_aside(self, tmp_path):
        path = Corpus(tmp_path).save(entry())
        path.write_text("{")
        assert Corpus(tmp_path).save(entry()) == path
        assert load(path) == entry()
        assert path.with_name(f"{path.name}.damaged").read_text() == "{"

    def test_a_crash_while_writing_leaves_what_was_there(self, tmp_path, monkeypatch):
        path = Corpus(tmp_path).save(entry())

        def fail(_descriptor: int) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(store.os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            Corpus(tmp_path).save(entry(note="x", seen=(sighting("other 2.0"),)))
        assert load(path) == entry()
        assert [file.name for file in path.parent.iterdir()] == [path.name]


class TestKnown:
    def test_only_open_entries_seen_on_that_implementation(self, tmp_path):
        crash = Finding("rope", "crash", "KeyError", "KeyError: 1")
        Corpus(tmp_path).save(entry(1))
        Corpus(tmp_path).save(entry(2, crash, status="guard"))
        Corpus(tmp_path).save(entry(3, crash, seen=(sighting("other 2.0"),)))
        assert Corpus(tmp_path).known("toy 1.0") == {FINDING.signature}
        assert Corpus(tmp_path).known("toy") == frozenset()
        assert Corpus(tmp_path / "none").known("toy 1.0") == frozenset()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("corpus/gather/0123456789abcdef.json", True),
        ("corpus/indexer/0123456789abcdef.json", True),
        ("corpus/gather/package.json", False),
        ("corpus/other/0123456789abcdef.json", False),
        ("corpus/gather/0123456789abcdef.json.damaged", False),
    ],
)
def test_entries_are_known_by_their_path(path, expected):
    assert store.is_entry(Path(path)) is expected


class TestCauses:
    OTHER = Finding("gather", "code-mismatch", "k_scale", "token 0 is 1, must be 2")

    def put_down(self, **more: object) -> Entry:
        return entry(1, self.OTHER, **({"cause": FINDING.signature, "status": "unconfirmed"} | more))

    def test_round_trip(self, tmp_path):
        path = Corpus(tmp_path).save(self.put_down())
        assert load(path) == self.put_down()
        assert json.loads(path.read_text())["cause"] == str(FINDING.signature)

    def test_nothing_is_its_own_cause(self):
        with pytest.raises(ValueError, match="cause must be the signature of another finding"):
            Entry.model_validate(dict(entry(cause=None)) | {"cause": FINDING.signature})

    def test_it_is_known_as_long_as_its_cause_is_not_mended(self):
        both = {FINDING.signature, self.OTHER.signature}
        assert store.open_signatures([entry(), self.put_down()], "toy 1.0") == both
        assert store.open_signatures([entry(), self.put_down()], "toy 2.0") == frozenset()
        for mended in ([entry(status="fixed")], []):
            assert store.open_signatures([*mended, self.put_down()], "toy 1.0") == frozenset()
        unsure = entry(status="unconfirmed")
        assert store.open_signatures([unsure, self.put_down()], "toy 1.0") == {self.OTHER.signature}

    def test_causes_of_causes_count(self):
        third = entry(2, Finding("gather", "race", "k_fp8", "two"), cause=self.OTHER.signature)
        assert len(store.open_signatures([third, self.put_down(), entry()], "toy 1.0")) == 3
        assert store.open_signatures([third, self.put_down()], "toy 1.0") == frozenset()

    def test_what_shows_by_itself_is_put_down_to_nothing_any_more(self):
        alone = self.put_down(cause=None, status="open")
        assert store.merge(self.put_down(), alone) == alone
        assert store.merge(alone, self.put_down()) == alone
        assert store.merge(self.put_down(status="open"), alone) == alone

    def test_what_stands_for_itself_comes_first_in_a_file_of_two(self):
        other = entry(1, Finding("gather", "race", "k_fp8", "two"))
        joined = store.merge(self.put_down(), other)
        assert (joined.finding, joined.cause, joined.status) == (other.finding, None, "open")
        assert joined.signatures("toy 1.0") == {other.finding.signature, self.OTHER.signature}
