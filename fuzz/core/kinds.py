"""Kinds: every way in which a stage can be wrong, and what is meant by it."""

from types import MappingProxyType

KINDS = MappingProxyType(
    {
        "crash": "raised an exception that is no refusal, or took its process down",
        "hang": "did not end in time",
        "rejected": "refused what its contract covers",
        "not-rejected": "accepted what it has to refuse",
        "guard-write": "wrote to memory that is none of its outputs",
        "out-of-bounds": "accessed memory beyond one of its arguments",
        "misaligned": "accessed memory at an address that its width does not divide",
        "race": "two programs accessed the same bytes, and one of them wrote",
        "order": "accessed the same bytes by different lanes of a program with no barrier between",
        "overflow": "an integer wrapped around on its way to an address",
        "promise": "broke what it had told the compiler",
        "uninitialised": "used memory that nobody had written",
        "input-mutated": "wrote to one of its inputs",
        "unwritten": "left a part of an output as it was",
        "shape": "returned another number of tensors, another shape or another dtype",
        "code-mismatch": "produced bits that no correct evaluation produces",
        "layout-mismatch": "took the cache for one of another layout",
        "bound-exceeded": "was further off than rounding explains",
        "mask-mismatch": "showed what a row must not see, or hid what it must see",
        "illegal-topk": "selected columns that are not the largest, not visible or not distinct",
        "nondeterministic": "did something else when it was launched again",
        "state-kept": "remembered an earlier launch",
        "not-in-place": "returned the right result, but did not leave it in its argument",
        "stray-output": "printed to standard output",
    }
)
"""Kind -> what the stage did, as the rest of a sentence; a broken relation is of the kind metamorphic/<relation>."""

METAMORPHIC = "metamorphic"

OF_RELATIONS = MappingProxyType(
    {
        "metamorphic/composition": "did something else in the whole indexer than by itself",
        "metamorphic/next-step": "did something else in the whole indexer right after another step",
    }
)
"""Relations that are not about equivalent cases -> the same."""


def check_kind(kind: str) -> None:
    """Raise ValueError unless this is a kind."""
    first, _, relation = kind.partition("/")
    if kind not in KINDS and not (first == METAMORPHIC and relation and "/" not in relation):
        raise ValueError(f"{kind!r} is no kind of finding")


def meaning_of(kind: str) -> str:
    """What a stage did that shows a finding of a kind, as the rest of a sentence."""
    return KINDS.get(kind) or OF_RELATIONS.get(kind, "did something else on an equivalent case")
