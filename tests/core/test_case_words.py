"""A case in words: a line for each request, and nothing about what is at its default."""

from indexfuzz.core.case import Case
from indexfuzz.core.case_words import MAX_OVERRIDES, REGIMES, describe_case


def test_requests_are_told_one_by_one():
    case = Case().replace(
        batch={"decode": (1, 17), "max_model_len": 20, "prefill": ({"length": 3, "new": 2}, {"length": 1, "new": 0})}
    )
    lines = [line for line in describe_case(case) if line[0] == "batch" or not line[0]]
    assert lines[lines.index(("batch", "decode", "a request with a context of 1 token")) :] == [
        ("batch", "decode", "a request with a context of 1 token"),
        ("", "", "a request with a context of 17 tokens"),
        ("", "prefill", "a request of 3 tokens, 2 of them new"),
        ("", "", "a request of 1 token, none of them new"),
        ("", "max_model_len", "20"),
    ]


def test_what_is_at_its_default_is_left_out():
    fields = {name for _, name, _ in describe_case(Case())}
    assert fields == {"num_heads", "head_dim", "block_size", "decode", "prefill"}


def test_the_same_values_in_all_tensors_take_one_line():
    zeros = dict.fromkeys(REGIMES, "zeros")
    assert list(describe_case(Case().replace(values=zeros)))[-1] == ("values", "all tensors", "zeros")
    last = list(describe_case(Case().replace(values=zeros | {"rope": "ties"})))[-5:]
    assert last == [("values", "q", "zeros"), *(("", name, "zeros") for name in REGIMES[1:4]), ("", "rope", "ties")]


def test_single_values_are_told_up_to_a_number():
    case = Case().replace(values={"set": {"k": tuple((0, i, (1.5).hex()) for i in range(MAX_OVERRIDES + 2))}})
    lines = [words for _, _, words in describe_case(case)][-MAX_OVERRIDES - 1 :]
    assert lines == [*(f"k[0, {i}] = 1.5" for i in range(MAX_OVERRIDES)), "and 2 more"]
