"""Signatures: their text, its parts again, what is refused, and that nothing else takes one apart."""

import re
from pathlib import Path

import pytest

from indexfuzz.core.finding import Finding, error_for
from indexfuzz.core.kinds import KINDS, METAMORPHIC, OF_RELATIONS, meaning_of
from indexfuzz.core.signature import BEYOND, Signature
from indexfuzz.lockstep.tracking.violations import KINDS as VIOLATIONS

ROOT = Path(__file__).parents[2]

TEXTS = {
    "gather/shape": Signature("gather", "shape"),
    "gather/code-mismatch/k_fp8": Signature("gather", "code-mismatch", "k_fp8"),
    "k_quant_cache/guard-write/cache/lost-token": Signature("k_quant_cache", "guard-write", "cache", "lost-token"),
    "gather/metamorphic/next-n/logits": Signature("gather", "metamorphic/next-n", "logits"),
    f"gather/not-rejected/{BEYOND}": Signature("gather", "not-rejected", beyond=True),
    f"topk/metamorphic/composition/selected/{BEYOND}": Signature(
        "topk", "metamorphic/composition", "selected", beyond=True
    ),
    f"rope/bound-exceeded/q/nonfinite/{BEYOND}": Signature("rope", "bound-exceeded", "q", "nonfinite", beyond=True),
}


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_parts_are_the_same(text):
    assert Signature.parse(text) == TEXTS[text]
    assert str(TEXTS[text]) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gather",
        "gather/",
        "gather/sloppy/k_fp8",
        "gather/metamorphic",
        "gather/code-mismatch//nonfinite",
        "gather/code-mismatch/k_fp8/a/b",
        "../../etc/passwd",
        "Gather/crash/x",
        BEYOND,
    ],
)
def test_what_is_no_signature(text):
    with pytest.raises(ValueError, match=r"no signature|no kind"):
        Signature.parse(text)


@pytest.mark.parametrize("parts", [("", "a"), ("a/b", ""), (BEYOND, ""), ("a\nb", "")])
def test_parts_that_would_read_as_others(parts):
    with pytest.raises(ValueError, match="is no signature"):
        Signature("gather", "code-mismatch", *parts)


def test_a_relation_is_told_from_other_kinds():
    assert Signature("gather", "metamorphic/next-n", "logits").relation == "next-n"
    assert Signature("gather", "race", "logits").relation == ""


@pytest.mark.parametrize("name", ["a/b", "new\nline", "x" * 5000, "\x1b[31m"])
def test_an_exception_of_any_name_has_a_signature(name):
    signature = Finding("gather", "crash", name, "it crashed").signature
    assert Signature.parse(str(signature)) == signature


def test_every_signature_has_an_exception_type():
    one, other = (Finding("gather", "crash", name, "") for name in ("KeyError", "IndexError"))
    assert type(error_for(one)) is type(error_for(one))
    assert type(error_for(one)) is not type(error_for(other))
    assert type(error_for(one)).__name__ == "GatherCrashKeyerror"


def test_every_kind_has_a_meaning():
    assert set(VIOLATIONS) <= set(KINDS)
    assert all(meaning_of(kind) == text for kind, text in {**KINDS, **OF_RELATIONS}.items())
    assert meaning_of(f"{METAMORPHIC}/next-n") == "did something else on an equivalent case"


TAKEN_APART = re.compile(
    r"(?<!inspect\.)signature\b[\w\])]*\.(split|partition|rpartition|startswith|endswith|removeprefix|index)\("
    r"|\" in (?!inspect)[\w.]*signature|\bre\.\w+\([^)]*signature"
)


@pytest.mark.parametrize("line", ['"/hang/" in signature', "signature.split('/')", "finding.signature.partition('/')"])
def test_the_search_for_parsers_sees_one(line):
    assert TAKEN_APART.search(line)


def test_nothing_else_takes_a_signature_apart():
    sources = (path for path in (ROOT / "fuzz").rglob("*.py") if path.name != "signature.py")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if TAKEN_APART.search(line)
    ]
    assert not found
