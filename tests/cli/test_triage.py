"""The command `triage`: a status and a note, without an editor; the rest of the file stays."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.corpus.store import Corpus

ENTRY = Entry(case=Case(), finding=Record.of(Finding("gather", "crash", "KeyError", "lost a key")))


@pytest.fixture
def triage(indexfuzz, tmp_path):
    """Change the entry; -> (exit code, the entry as it is then, standard output, standard error)."""
    path = Corpus(tmp_path / "corpus").save(ENTRY)

    def run(*words):
        code, out, err = indexfuzz("triage", *words)
        return code, store.load(path), out, err

    return run


def test_status_and_note_are_changed_and_nothing_else(triage):
    code, entry, out, _ = triage(Case().id, "--status", "guard", "--note", "mended")
    assert code == 0
    assert entry == ENTRY.model_copy(update={"status": "guard", "note": "mended"})
    assert "open -> guard" in out
    assert triage(Case().id, "--status", "fixed")[1].note == "mended"


def test_a_link_is_kept_until_it_is_taken_away(triage):
    code, entry, out, _ = triage(Case().id, "--link", "https://example.org/issues/7#note-1")
    assert (code, entry) == (0, ENTRY.model_copy(update={"link": "https://example.org/issues/7#note-1"}))
    assert "  https://example.org/issues/7#note-1\n" in out
    assert triage(Case().id, "--link", "")[1] == ENTRY


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "give --status, --note or --link"),
        (("--status", "mended"), "no 'mended'; choose from open, unconfirmed, fixed, guard"),
        (("--note", "\x1b[2J"), "--note: String should match"),
        (("--link", "javascript:alert(1)"), "--link: 'javascript:alert(1)' is no address such as https://"),
        (("--link", "https://example.org/<b>"), "is no address"),
        (("--link", "https://example.org/a b"), "is no address"),
    ],
)
def test_bad_input_is_2_and_changes_nothing(triage, words, complaint):
    code, entry, _, err = triage(Case().id, *words)
    assert (code, entry) == (2, ENTRY)
    assert complaint in err
    assert "Traceback" not in err
