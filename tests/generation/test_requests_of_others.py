"""A case with the requests of another one: all else is as it was, and it is not too much work."""

from itertools import islice

import pytest

from indexfuzz.core.case import Case
from indexfuzz.generation.requests_of_others import with_requests_of
from indexfuzz.generation.stream import stream_cases

SMALL = Case().replace(batch={"decode": (3,), "max_model_len": 4})
LONG = Case().replace(batch={"decode": (300,) * 300, "max_model_len": 300})
WIDE = Case().replace(model={"num_heads": 128, "head_dim": 128, "quant_group": 128})


def test_only_the_requests_change():
    made = with_requests_of(WIDE, SMALL)
    assert made is not None
    assert made.batch == SMALL.batch
    assert made.model_copy(update={"batch": WIDE.batch}) == WIDE


@pytest.mark.parametrize(
    ("case", "other"),
    [
        (SMALL, LONG),  # 90,000 products of one head
        (WIDE, Case().replace(batch={"decode": (3,) * 4, "max_model_len": 4})),  # 4 tokens of 128 heads of 128
        (Case().replace(cache={"block_size": 4096}), Case().replace(batch={"decode": (1,) * 64})),
        (Case().replace(cache={"page_pad": 1 << 32}), Case().replace(batch={"decode": (9,), "max_model_len": 9})),
    ],
)
def test_what_would_be_too_much_work_or_memory_is_left_out(case, other):
    assert with_requests_of(case, other) is None


def test_many_cases_that_are_drawn_take_the_requests_of_others():
    cases = list(islice(stream_cases(7, ("e4m3fn",)), 40))
    pairs = [(case, other) for case in cases for other in cases if case is not other]
    assert sum(with_requests_of(*pair) is not None for pair in pairs) > len(pairs) / 3
