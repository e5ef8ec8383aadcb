"""A broken relation, looked at: the launch, of those that are compared, which is wrong by itself."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import Setup
from indexfuzz.oracles.metamorphic import runner
from indexfuzz.report.pictures.draw import draw
from indexfuzz.subjects.under_test import put_under_test
from indexfuzz.triage.launches import ReproError
from indexfuzz.triage.look import Look
from indexfuzz.triage.looking import look_at
from indexfuzz.triage.repro import script

FAULT = "page-stride-in-rows"
CASE = Case().replace(cache={"block_size": 2, "layout": "normal"}, batch={"decode": (2,), "max_model_len": 4})
"""All its keys lie in the first page, which starts where it should; pages of one token do not."""


@pytest.fixture(scope="module")
def faulty():
    return put_under_test(Setup(faults=(FAULT,)))


def broken(target):
    assert target.subject.run(CASE).findings == []
    (finding,) = runner.run(CASE, target.subject.implementation, target.subject.device).findings
    assert str(finding.signature) == "k_quant_cache/metamorphic/block-size/cache_values"
    return finding


def test_the_other_launch_is_drawn_and_its_line_told(faulty):
    look = look_at(CASE, broken(faulty).signature, faulty.subject)
    assert isinstance(look, Look)
    assert look.finding.kind == "code-mismatch"
    assert look.sentences()[0] == "It shows in the launch with another block_size, which is wrong by itself."
    assert look.place().rpartition("/")[2].startswith("cache.py:")
    assert draw(look)[0].mark


def test_the_script_makes_the_other_launch(faulty, run_copied):
    text = script(faulty.entry(CASE, broken(faulty)), faulty)
    assert run_copied(text).shows
    assert not run_copied(text.replace(f"plant(({FAULT!r},))", "plant(())")).shows


def test_the_first_launch_is_told_where_that_is_the_wrong_one(faulty, run_copied):
    case = CASE.replace(cache={"block_size": 1})
    signature = broken(faulty).signature
    look = look_at(case, signature, faulty.subject)
    assert isinstance(look, Look)
    assert (look.moment, look.finding.kind) == ("", "code-mismatch")
    finding = Finding("k_quant_cache", signature.kind, signature.output, "")
    text = script(faulty.entry(case, finding), faulty)
    assert run_copied(text).shows
    assert not run_copied(text.replace(f"plant(({FAULT!r},))", "plant(())")).shows


def test_where_no_launch_is_wrong_by_itself_nothing_is_told():
    clean = put_under_test(Setup())
    finding = Finding("k_quant_cache", "metamorphic/block-size", "cache_values", "")
    assert look_at(CASE, finding.signature, clean.subject) is None
    with pytest.raises(ReproError, match="no launch by itself shows"):
        script(clean.entry(CASE, finding), clean)
