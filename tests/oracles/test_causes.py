"""One mistake is reported once, under its cause; two mistakes are two."""

from dataclasses import replace

import pytest

from indexfuzz.core.finding import Finding
from indexfuzz.oracles.causes import cause_among, part_consequences


def finding(text: str) -> Finding:
    kind, _, output = text.rpartition("/")
    return Finding("gather", kind, output, text)


@pytest.mark.parametrize(
    ("seen", "reported"),
    [
        ("overflow/cache out-of-bounds/cache uninitialised/k_fp8", "overflow/cache"),
        ("out-of-bounds/cache overflow/cache", "overflow/cache"),
        ("overflow/cache misaligned/cache", "overflow/cache"),
        ("out-of-bounds/cache uninitialised/cache", "out-of-bounds/cache"),
        ("overflow/cache out-of-bounds/scales", "overflow/cache out-of-bounds/scales"),
        ("race/cache out-of-bounds/cache", "race/cache out-of-bounds/cache"),
        ("uninitialised/cache race/k_fp8", "uninitialised/cache race/k_fp8"),
        ("guard-write/cache overflow/cache", "guard-write/cache overflow/cache"),
        ("out-of-bounds/cache code-mismatch/k_fp8 unwritten/k_scale", "out-of-bounds/cache"),
        ("race/cache bound-exceeded/logits", "race/cache"),
        ("out-of-bounds/cache race/cache layout-mismatch/cache_values", "layout-mismatch/cache_values"),
        ("overflow/cache out-of-bounds/cache layout-mismatch/k_fp8", "overflow/cache layout-mismatch/k_fp8"),
        ("layout-mismatch/k_fp8 code-mismatch/k_scale", "layout-mismatch/k_fp8 code-mismatch/k_scale"),
        ("guard-write/cache crash/KeyError", "guard-write/cache crash/KeyError"),
        ("", ""),
    ],
)
def test_what_follows_from_something_else_is_told_apart(seen, reported):
    own, rest = part_consequences([finding(text) for text in seen.split()])
    assert [f.detail for f in own] == reported.split()
    assert sorted(f.detail for f in [*own, *rest]) == sorted(seen.split())


@pytest.mark.parametrize(
    ("symptom", "known", "cause"),
    [
        ("code-mismatch/k_fp8", "crash/KeyError out-of-bounds/cache", "out-of-bounds/cache"),
        ("code-mismatch/k_fp8", "mask-mismatch/k_fp8", "mask-mismatch/k_fp8"),
        ("code-mismatch/k_fp8", "code-mismatch/k_scale crash/KeyError", "code-mismatch/k_scale"),
        ("unwritten/k_fp8", "nondeterministic/k_fp8", "nondeterministic/k_fp8"),
        ("nondeterministic/k_fp8", "code-mismatch/k_fp8 unwritten/k_fp8", "unwritten/k_fp8"),
        ("uninitialised/cache", "race/cache", "race/cache"),
        ("race/cache", "out-of-bounds/cache code-mismatch/k_fp8", ""),
        ("race/cache", "layout-mismatch/k_fp8", "layout-mismatch/k_fp8"),
        ("metamorphic/layout/k_fp8", "crash/KeyError", "crash/KeyError"),
        ("metamorphic/layout/k_fp8", "metamorphic/next-n/k_scale", "metamorphic/next-n/k_scale"),
        ("out-of-bounds/cache", "metamorphic/layout/k_fp8", ""),
        ("crash/KeyError", "out-of-bounds/cache crash/IndexError", ""),
        ("guard-write/cache", "overflow/cache", ""),
        ("code-mismatch/k_fp8", "", ""),
    ],
)
def test_a_finding_of_another_case_may_be_the_same_mistake(symptom, known, cause):
    found = cause_among(finding(symptom), [finding(text) for text in known.split()])
    assert (found.detail if found else "") == cause


def test_one_line_that_goes_wrong_in_several_ways_is_one_mistake():
    one, other, elsewhere = (
        replace(finding(text), location=f"gather.py:{line}")
        for text, line in (("race/cache", 7), ("out-of-bounds/cache", 7), ("out-of-bounds/cache", 8))
    )
    assert cause_among(one, [elsewhere, other]) == other
    assert cause_among(one, [elsewhere]) is None


def test_views_that_one_line_makes_are_one_mistake_in_every_stage():
    one, other, elsewhere = (
        replace(finding(text), stage=stage, view=f"layout.py:{line}")
        for text, stage, line in (
            ("race/scales_ptr", "k_quant_cache", 7),
            ("out-of-bounds/scales_ptr", "gather", 7),
            ("out-of-bounds/scales_ptr", "gather", 8),
        )
    )
    assert cause_among(one, [elsewhere, other]) == other
    assert cause_among(one, [elsewhere]) is None
    assert cause_among(replace(one, beyond="block_size is 1"), [other]) is None


def test_stages_that_agree_on_a_layout_that_is_not_promised_make_one_mistake():
    writes, reads, otherwise = (
        replace(finding(f"layout-mismatch/{output}"), stage=stage, layout=layout)
        for output, stage, layout in (
            ("cache_values", "k_quant_cache", "normal"),
            ("k_fp8", "gather", "normal"),
            ("k_fp8", "gather", "tiles-of-32"),
        )
    )
    assert cause_among(reads, [writes]) == writes
    assert cause_among(writes, [reads]) == reads
    assert cause_among(writes, [otherwise]) is None


@pytest.mark.parametrize("kind", ["code-mismatch/cache_values", "metamorphic/paths/cache_scales"])
def test_a_fused_operation_shows_what_is_wrong_with_its_nodes(kind):
    fused, own, other = (
        replace(finding(text), stage=stage)
        for text, stage in (
            (kind, "fused_k"),
            ("code-mismatch/cache_scales", "k_quant_cache"),
            ("code-mismatch/q_fp8", "q_quant"),
        )
    )
    assert cause_among(fused, [other, own]) == own
    assert cause_among(own, [fused]) is None
    stray = replace(fused, kind="out-of-bounds")
    assert cause_among(stray, [own]) is None


def test_stages_and_sides_of_the_contract_are_told_apart():
    seen = finding("code-mismatch/k_fp8")
    for change in ({"stage": "rope"}, {"beyond": "block_size is 1"}):
        assert cause_among(seen, [replace(finding("out-of-bounds/cache"), **change)]) is None
