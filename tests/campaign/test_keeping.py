"""What was seen is on disk at once, whatever happens then; what turns out to be a symptom stays, too."""

from pathlib import Path

import pytest

from indexfuzz.campaign import jobs
from indexfuzz.campaign.events import Explained, Found, Seen, Smaller
from indexfuzz.campaign.keeping import Keeper, probe
from indexfuzz.campaign.loop import run
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.interrupts import Interrupted
from indexfuzz.core.signature import Signature
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry, Record, Sighting
from indexfuzz.corpus.store import Corpus
from indexfuzz.reference import quant
from indexfuzz.subjects.in_process import InProcess

WRONG = Finding("gather", "code-mismatch", "k_fp8", "is 1, must be 2")
CAUSE = Finding("gather", "layout-mismatch", "k_fp8", "is read as SHUFFLE")
DRAWN, SMALL = Case().replace(model={"num_heads": 8}), Case()


def entry_of(case, finding):
    return Entry(case=case, finding=Record.of(finding))


@pytest.fixture
def notices():
    return []


@pytest.fixture
def keeper(tmp_path, notices):
    return Keeper(entry_of, tmp_path, notices.append)


def kept(folder):
    return [store.load(path) for path in Corpus(folder).files()]


def test_a_finding_is_on_disk_when_it_is_seen_and_replaced_when_it_is_smaller(keeper, tmp_path):
    keeper.hear(Seen(WRONG, DRAWN))
    assert [entry.case for entry in kept(tmp_path)] == [DRAWN]
    keeper.hear(Smaller(WRONG, SMALL))
    assert [entry.case for entry in kept(tmp_path)] == [SMALL]
    keeper.hear(Found(WRONG, SMALL, doubt="the case did not show it again"))
    (entry,) = kept(tmp_path)
    assert (entry.case, entry.note) == (SMALL, "The case did not show it again.")
    assert entry.status == "unconfirmed"
    assert keeper.saved == {WRONG.signature: tmp_path / entry.file}


def test_a_symptom_stays_with_its_first_case_and_its_cause(keeper, tmp_path):
    keeper.hear(Seen(WRONG, DRAWN))
    keeper.hear(Found(WRONG, SMALL))
    keeper.hear(Seen(CAUSE, SMALL))
    keeper.hear(Explained(WRONG, DRAWN, CAUSE.signature))
    keeper.hear(Found(CAUSE, SMALL))
    cause, symptom = sorted(kept(tmp_path), key=lambda entry: entry.cause is not None)
    assert (cause.finding.signature, cause.status, cause.cause) == (CAUSE.signature, "open", None)
    assert (symptom.finding.signature, symptom.status) == (WRONG.signature, "unconfirmed")
    assert (symptom.case, symptom.cause) == (DRAWN, CAUSE.signature)
    assert keeper.saved == {WRONG.signature: tmp_path / symptom.file, CAUSE.signature: tmp_path / cause.file}


def seen_entry_of(case, finding):
    where = {"implementation": "toy", "device": "lockstep", "triton": "3", "torch": "2", "date": "2026-01-31"}
    return entry_of(case, finding).model_copy(update={"seen": (Sighting(**where),)})


@pytest.mark.parametrize("finding", [CAUSE, Finding("gather", "crash", "KeyError", "KeyError: 1")])
def test_a_file_that_holds_the_case_of_two_findings_says_so_and_neither_is_lost(tmp_path, notices, finding):
    keeper = Keeper(seen_entry_of, tmp_path, notices.append)
    keeper.hear(Seen(WRONG, DRAWN))
    keeper.hear(Seen(finding, DRAWN))
    (both,) = kept(tmp_path)
    assert both.signatures("toy") == {WRONG.signature, finding.signature}
    keeper.hear(Smaller(finding, SMALL))
    assert {entry.signatures("toy") for entry in kept(tmp_path)} == {
        frozenset({WRONG.signature}),
        frozenset({finding.signature}),
    }
    keeper.hear(Found(finding, SMALL))
    keeper.hear(Found(WRONG, SMALL))
    (both,) = kept(tmp_path)
    assert (both.status, both.case) == ("open", SMALL)
    assert both.signatures("toy") == {WRONG.signature, finding.signature}


def test_what_follows_in_the_launch_of_its_cause_keeps_the_file_that_this_one_leaves(tmp_path, notices):
    keeper = Keeper(seen_entry_of, tmp_path, notices.append)
    keeper.hear(Seen(CAUSE, DRAWN))
    keeper.hear(Explained(WRONG, DRAWN, CAUSE.signature))
    (both,) = kept(tmp_path)
    assert (both.finding.signature, both.cause) == (CAUSE.signature, None)
    keeper.hear(Found(CAUSE, SMALL))
    entries = {entry.case.id: entry for entry in kept(tmp_path)}
    assert entries[SMALL.id].signatures("toy") == {CAUSE.signature}
    assert (entries[DRAWN.id].finding.signature, entries[DRAWN.id].cause) == (WRONG.signature, CAUSE.signature)


def test_a_file_of_somebody_else_stays(keeper, tmp_path):
    guard = Entry(case=DRAWN, status="guard", note="kept by hand", finding=Record.of(WRONG))
    path = Corpus(tmp_path).save(guard)
    keeper.hear(Seen(WRONG, DRAWN))
    keeper.hear(Smaller(WRONG, SMALL))
    keeper.hear(Found(WRONG, SMALL))
    assert store.load(path).note == "kept by hand"
    assert {entry.case.id for entry in kept(tmp_path)} == {DRAWN.id, SMALL.id}


def test_where_the_disk_is_full_it_goes_elsewhere_and_says_where(keeper, tmp_path, notices, monkeypatch):
    real = Corpus.save

    def full(corpus, entry):
        if corpus.folder == tmp_path:
            raise OSError(28, "No space left on device")
        return real(corpus, entry)

    monkeypatch.setattr(Corpus, "save", full)
    keeper.hear(Seen(WRONG, DRAWN))
    keeper.hear(Found(WRONG, SMALL))
    (path,) = keeper.saved.values()
    assert store.load(path).case == SMALL
    assert len(notices) == 1
    assert "No space left on device" in notices[0]
    assert str(path.parents[1]) in notices[0]


def test_a_probe_leaves_nothing_and_says_what_cannot_be_written(tmp_path):
    probe(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        probe(tmp_path / "file" / "corpus")


def test_a_probe_makes_no_folder_that_another_run_would_see_come_and_go(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Path, "mkdir", lambda folder, **_: made.append(folder))
    probe(tmp_path / "a" / "b")
    assert made == []


def wrong_weights(q, weights, **options):
    q_fp8, folded = quant.q_quant(q, weights, **options)
    return q_fp8, folded + 1


@pytest.mark.parametrize("what", [Interrupted(15), KeyboardInterrupt(), ZeroDivisionError()])
def test_what_ends_a_shrink_loses_nothing(reference_with, pytorch_device, monkeypatch, keeper, tmp_path, what):
    def stop(*_, **__):
        raise what

    monkeypatch.setattr(jobs, "minimise", stop)
    wanted = Settings(InProcess(reference_with(q_quant=wrong_weights), pytorch_device), cases=20, seed=1)
    if isinstance(what, ZeroDivisionError):
        with pytest.raises(ZeroDivisionError):
            run(wanted, keeper.hear)
    else:
        summary = run(wanted, keeper.hear)
        assert summary.interrupted == getattr(what, "number", 2)
        assert [found.finding.signature for found in summary.findings] == list(keeper.saved)
    assert [entry.finding.signature.stage for entry in kept(tmp_path)] == ["q_quant"]


def test_what_a_fresh_process_does_not_show_says_so(reference_with, pytorch_device, keeper, tmp_path):
    subject = InProcess(reference_with(q_quant=wrong_weights), pytorch_device)
    asked = []

    def confirm(case, signature):
        asked.append((case, signature))
        return False

    run(Settings(subject, cases=20, seed=1, first_only=True, minimise_seconds=0.0, confirm=confirm), keeper.hear)
    (entry,) = kept(tmp_path)
    assert "process that had run nothing else" in entry.note
    assert entry.status == "unconfirmed"
    assert asked == [(entry.case, entry.finding.signature)]


@pytest.mark.parametrize(
    ("confirmed", "status", "note"), [(True, "open", ""), (None, "unconfirmed", "No process could be had")]
)
def test_only_what_a_fresh_process_shows_is_open(
    reference_with, pytorch_device, keeper, tmp_path, confirmed, status, note
):
    subject = InProcess(reference_with(q_quant=wrong_weights), pytorch_device)
    settings = Settings(subject, cases=20, seed=1, first_only=True, minimise_seconds=0.0, confirm=lambda *_: confirmed)
    run(settings, keeper.hear)
    (entry,) = kept(tmp_path)
    assert entry.status == status
    assert note in entry.note


def test_nothing_is_kept_of_what_is_known(reference_with, pytorch_device, keeper, tmp_path):
    subject = InProcess(reference_with(q_quant=wrong_weights), pytorch_device)
    known = frozenset(
        {Signature("q_quant", "bound-exceeded", "q_weights"), Signature("q_quant", "code-mismatch", "q_fp8")}
    )
    summary = run(Settings(subject, cases=10, seed=1, known=known), keeper.hear)
    assert (kept(tmp_path), summary.findings) == ([], [])
