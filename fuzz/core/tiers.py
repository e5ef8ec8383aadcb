"""How strictly a result was judged, in words; reference/bounds.py computes the bounds."""

from collections.abc import Iterable

TIERS = {
    "T0": "every order of evaluation gives the same bits",
    "T1": "the bits of the matrix unit are known, the bound is that of the summation",
    "T2": "the matrix unit sums in order, the bound is that of its order",
    "T3": "the bound holds for any order of summation",
}


def explain_tier(tier: str) -> str:
    """A tier with what it means; words that are no tier stay as they are."""
    return f"{tier}: {TIERS[tier]}" if tier in TIERS else tier


def explain_tiers(tiers: Iterable[str]) -> list[str]:
    """The tiers among some words, each with what it means, the strictest first."""
    return [explain_tier(tier) for tier in sorted(set(tiers) & TIERS.keys())]
