from pathlib import Path

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.report.evidence import kept_evidence
from indexfuzz.report.pictures.draw import explain_absence
from indexfuzz.subjects.under_test import put_under_test

NEUTRAL = dict.fromkeys(("k", "weights", "cache", "q"), "zeros")
CASE = Case().replace(
    model={"num_heads": 1, "head_dim": 16, "rope_dim": 2, "quant_group": 16, "index_topk": 1},
    cache={"block_size": 1},
    batch={"decode": (), "prefill": (), "pad_tokens": 1},
    values={**NEUTRAL, "rope": "exact", "set": {"q": ((0, 0, 0, "0x1.0p+0"),)}},
)
FINDING = Record(signature="rope/bound-exceeded/q", detail="as it was kept")
FILE = Path("corpus/rope/x.json")


def test_without_a_target_it_is_what_was_kept():
    told = kept_evidence(FILE, Entry(case=CASE, finding=FINDING, note="a note"))
    assert (told.signature, told.detail, told.note, told.now) == (
        "rope/bound-exceeded/q",
        "as it was kept",
        "a note",
        "",
    )
    assert ("model", "num_heads", "1") in told.case
    assert told.source is None
    with pytest.raises(ValueError, match="no finding"):
        kept_evidence(FILE, Entry(case=CASE, status="guard"))


def test_without_a_target_the_kept_line_is_read_in_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src/kernels").mkdir(parents=True)
    (tmp_path / "src/kernels/rope.py").write_text("first\nsecond\n")
    kept = FINDING.model_copy(update={"location": "kernels/rope.py:2"})
    told = kept_evidence(FILE, Entry(case=CASE, finding=kept, link="https://example.org/7"))
    assert (told.location, told.link) == ("kernels/rope.py:2", "https://example.org/7")
    assert told.source.file == "src/kernels/rope.py"
    assert told.source.lines == ((1, "first", False), (2, "second", True))


def test_with_a_target_the_case_is_explained_proven_and_weighed():
    faulty = put_under_test(Setup(faults=("rope-result-discarded",)))
    told = kept_evidence(FILE, Entry(case=CASE, finding=FINDING, status="guard"), faulty)
    assert told.now == "STILL FAILS"
    assert "q was not rotated" in told.detail
    assert "rope.mode inplace instead of functional" in told.explanation[0]
    assert "still selected" in told.severity
    assert dict(told.commands)["again"] == f"indexfuzz replay {FILE} --fault rope-result-discarded"
    compile(told.repro, "repro", "exec")
    assert "torch.tensor([[[1.0" in told.repro
    assert told.pictures
    assert not told.absence


def test_the_blamed_line_is_shown_with_what_the_masks_around_it_were():
    faulty = put_under_test(Setup(faults=("layout-hardcoded-shuffle",)))
    case = CASE.replace(
        batch={"prefill": ({"length": 1, "new": 1},), "pad_tokens": 0}, model={"head_dim": 32, "quant_group": 32}
    )
    (found,) = (f for f in faulty.subject.run(case).findings if f.stage == "k_quant_cache")
    told = kept_evidence(FILE, faulty.entry(case, found), faulty)
    assert told.source
    assert told.source.file.endswith("kernels+layout-hardcoded-shuffle/cache.py")
    marks = dict(zip((text.strip() for _, text, _ in told.source.lines), told.source.marks, strict=True))
    (blamed,) = (text.strip() for _, text, is_blamed in told.source.lines if is_blamed)
    assert blamed.startswith("tl.store(values_ptr + value_at")
    assert "T" in marks[blamed] or "M" in marks[blamed]


def test_where_nothing_can_be_drawn_it_is_said_why():
    assert explain_absence("crash", None) == "There is nothing to draw: the launch ends without a result."
    assert "what the kernel tells the compiler is wrong" in explain_absence("promise", None)
    assert "more than one launch" in explain_absence("nondeterministic", None)


def test_of_what_passes_nothing_more_is_said():
    told = kept_evidence(FILE, Entry(case=CASE, finding=FINDING), put_under_test(Setup()))
    assert (told.now, told.explanation, told.repro, told.severity, told.source) == ("FIXED", (), "", "", None)
