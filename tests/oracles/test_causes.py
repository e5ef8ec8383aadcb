"""One mistake is reported once, under its cause; two mistakes are two."""

import pytest

from indexfuzz.core.finding import Finding
from indexfuzz.oracles.causes import roots


def finding(text: str) -> Finding:
    kind, _, output = text.partition("/")
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
def test_what_follows_from_something_else_is_left_out(seen, reported):
    assert [f.detail for f in roots([finding(text) for text in seen.split()])] == reported.split()
