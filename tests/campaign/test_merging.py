"""Corpora joined: what one campaign would have kept, and nothing lost that a hand has set."""

import os
from pathlib import Path

import pytest

from indexfuzz.campaign.doubts import ALONE, describe_doubt
from indexfuzz.campaign.merging import ConflictError, join, merge_entries
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry, Record, Sighting
from indexfuzz.corpus.store import Corpus

WRONG = Finding("gather", "code-mismatch", "k_fp8", "is 1, must be 2")
STRAY = Finding("gather", "out-of-bounds", "cache", "loads beyond the end")
SMALL = Case()
LARGE = Case().replace(model={"num_heads": 8})
LARGER = Case().replace(model={"num_heads": 16})


def seen(implementation="toy 1.0", **more):
    data = {"device": "lockstep", "triton": "3.6.0", "torch": "2.13.0", "date": "2026-01-31"} | more
    return Sighting(implementation=implementation, **data)


def entry(case=SMALL, finding=WRONG, **more):
    return Entry(case=case, finding=Record.of(finding), **({"seen": (seen(),)} | more))


def merged(present=(), *others):
    return merge_entries(present, [(Path(f"{number}.json"), other) for number, other in enumerate(others)])


def kept(result):
    return sorted(result.entries.values(), key=Entry.dumps)


def these(*entries):
    return sorted(entries, key=Entry.dumps)


class TestOneSignature:
    def test_the_smallest_case_stays_wherever_it_comes_from(self):
        small, large, larger = (entry(case) for case in (SMALL, LARGE, LARGER))
        for present, others in (([larger], (large, small)), ([small], (large, larger)), ([], (larger, small, large))):
            result = merged(present, *others)
            assert (kept(result), result.replaced) == ([small], 2)

    def test_another_place_is_another_sighting_and_its_case_stays(self):
        others = [entry(LARGE, seen=(seen(**place),)) for place in ({"device": "cuda"}, {"torch": "2.11.0"})]
        for other in others:
            assert kept(merged([entry()], other)) == these(entry(), other)
        both = entry(seen=(seen(), seen("toy 2.0")))
        assert kept(merged([both], entry(LARGE, seen=(seen("toy 2.0"),)))) == these(both)

    def test_a_confirmed_case_stays_before_a_smaller_one_that_is_not(self):
        doubtful = entry(status="unconfirmed", note=describe_doubt(ALONE))
        assert kept(merged([], doubtful, entry(LARGE))) == these(entry(LARGE))
        assert kept(merged([], doubtful, entry(LARGE, status="unconfirmed"))) == these(doubtful)

    def test_cases_of_a_planted_bug_are_no_work_of_hands(self):
        planted = [entry(case, status="guard", note="Found with a-fault planted.") for case in (SMALL, LARGE)]
        assert kept(merged([], *planted)) == these(planted[0])
        assert not list(merged([], *planted).new_findings())


class TestWhatWasSetByHand:
    def test_neither_a_status_nor_a_note_nor_their_case_goes(self):
        for by_hand in (
            entry(LARGE, status="fixed"),
            entry(LARGE, note="see the report"),
            entry(LARGE, status="guard"),
            entry(LARGE, link="https://example.org/issues/7"),
        ):
            for present, others in (([by_hand], [entry()]), ([entry()], [by_hand])):
                assert by_hand in kept(merged(present, *others))

    def test_what_a_source_says_of_the_same_case_is_taken_over(self):
        said = entry(status="fixed", note="mended in 1.2")
        assert kept(merged([entry()], said)) == these(said)
        assert kept(merged([said], entry())) == these(said)

    def test_notes_of_both_are_kept_once(self):
        one, other = entry(note="mine"), entry(note="theirs")
        assert join(one, other).note == "mine\ntheirs"
        assert join(join(one, other), other) == join(one, other)

    def test_a_doubt_that_is_settled_leaves_with_it(self):
        doubtful = entry(status="unconfirmed", note=describe_doubt(ALONE))
        assert join(doubtful, entry()) == entry()
        assert join(entry(), doubtful) == entry()

    def test_what_contradicts_itself_is_told_and_the_corpus_left_as_it_is(self):
        result = merged([entry(status="fixed")], entry(status="guard"))
        assert kept(result) == these(entry(status="fixed"))
        assert result.conflicts == ["0.json: says guard where the corpus says fixed; the corpus is left so"]
        here, there = (entry(link=f"https://example.org/{number}") for number in (1, 2))
        with pytest.raises(ConflictError, match="/2 where the corpus says https://"):
            join(here, there)
        assert join(here, entry()) == join(entry(), here) == here
        with pytest.raises(ConflictError, match="does not fit"):
            join(entry(note="x" * 3000), entry(note="y" * 3000))


class TestCausesAndSymptoms:
    def test_a_symptom_that_another_shard_found_is_put_down_to_its_cause(self):
        symptom = entry(SMALL, WRONG, cause=STRAY.signature)
        result = merged([], entry(SMALL, WRONG), entry(LARGE, STRAY))
        assert kept(result) == these(entry(LARGE, STRAY), symptom)
        (new,) = result.new_findings()
        assert (new.signature, new.symptoms) == (STRAY.signature, {WRONG.signature: symptom.file})
        again = merged(kept(result), entry(SMALL, WRONG), entry(LARGE, STRAY))
        assert kept(again) == kept(result)
        assert not list(again.new_findings())

    def test_of_several_symptoms_of_one_signature_the_smallest_stays(self):
        symptoms = [entry(case, WRONG, cause=STRAY.signature) for case in (LARGER, LARGE)]
        assert kept(merged([], *symptoms, entry(SMALL, STRAY))) == these(symptoms[1], entry(SMALL, STRAY))

    def test_what_a_source_put_down_to_something_that_is_nowhere_is_new(self):
        alone = entry(SMALL, WRONG, cause=STRAY.signature)
        assert [new.signature for new in merged([], alone).new_findings()] == [WRONG.signature]
        assert not list(merged([entry(LARGE, STRAY)], alone).new_findings())

    def test_what_is_known_already_hides_nothing_but_itself(self):
        assert kept(merged([entry(LARGE, STRAY)], entry(SMALL, WRONG))) == these(
            entry(LARGE, STRAY), entry(SMALL, WRONG)
        )

    def test_one_implementation_says_nothing_of_another(self):
        others = entry(SMALL, WRONG), entry(LARGE, STRAY, seen=(seen("toy 2.0"),))
        assert kept(merged([], *others)) == these(*others)

    def test_what_a_hand_has_touched_is_no_symptom(self):
        others = entry(SMALL, WRONG, note="not the same"), entry(LARGE, STRAY)
        assert kept(merged([], *others)) == these(*others)


class TestNew:
    def test_only_what_was_not_open_on_that_implementation(self):
        assert not list(merged([entry(LARGE)], entry()).new_findings())
        assert not list(merged([], entry(status="fixed")).new_findings())
        for before in (entry(LARGE, status="fixed"), entry(LARGE, seen=(seen("toy 2.0"),))):
            assert [found.signature for found in merged([before], entry()).new_findings()] == [WRONG.signature]

    def test_a_second_signature_of_a_known_case_is_kept_with_it(self):
        result = merged([entry()], entry(SMALL, Finding("gather", "race", "k_out", "two programs")))
        (both,) = kept(result)
        assert both.signatures("toy 1.0") == {WRONG.signature, Signature("gather", "race", "k_out")}


class TestWriting:
    def test_the_folder_holds_what_was_merged_and_merging_again_changes_nothing(self, tmp_path):
        corpus = Corpus(tmp_path)
        corpus.save(entry(LARGE))
        merged([entry(LARGE)], entry()).write(tmp_path)
        assert [store.load(path) for path in corpus.files()] == [entry()]
        before = [path.stat().st_mtime_ns for path in corpus.files()]
        merged([entry()], entry(), entry(LARGE)).write(tmp_path)
        assert [path.stat().st_mtime_ns for path in corpus.files()] == before

    def test_what_gives_way_goes_last(self, tmp_path, monkeypatch):
        path = Corpus(tmp_path).save(entry(LARGE))

        def fail(_descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            merged([entry(LARGE)], entry()).write(tmp_path)
        assert store.load(path) == entry(LARGE)

    def test_a_file_that_came_meanwhile_is_added_to_and_a_broken_one_set_aside(self, tmp_path):
        result = merged([], entry(seen=(seen("toy 2.0"),)))
        path = Corpus(tmp_path).save(entry(note="just now"))
        result.write(tmp_path)
        assert (store.load(path).note, len(store.load(path).seen)) == ("just now", 2)
        path.write_text("{")
        result.write(tmp_path)
        assert path.with_name(f"{path.name}.damaged").read_text() == "{"
        assert store.load(path) == entry(seen=(seen("toy 2.0"),))
