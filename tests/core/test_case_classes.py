import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.case_classes import GAPS, OF_PARTS, classes_of

CASE = Case().replace(
    cache={"block_size": 16, "page_pad": 64},
    batch={"decode": (16, 17), "prefill": ({"length": 48, "new": 8},), "max_model_len": 17, "gather_pad": 3},
)


def test_choices_gaps_sizes_and_relations_are_classes():
    found = set(classes_of(CASE))
    assert {"cache.page_layout shuffle", "cache.page_pad aligned", "batch.gather_pad unaligned"} <= found
    assert {"block_size 16", "longest 33 to 63", "tokens 9 to 15", "requests 3", "memory.k_pad none"} <= found
    assert {"fills its last page: yes", "has a key on a new page: yes", "has a request without keys: no"} <= found


@pytest.mark.parametrize("part", Case.model_fields)
def test_all_that_a_case_has_is_looked_at(part):
    """A new field is a class, a gap, or a size that is looked at by a name of its own."""
    sizes = {"num_heads", "head_dim", "rope_dim", "quant_group", "index_topk", "block_size", "layout", "lens_step"}
    sizes |= {"decode", "prefill", "next_n", "max_model_len", "rng", "seed", "set", "steps", "ratio"}
    sizes |= {"row_step"}
    fields = set(type(getattr(CASE, part)).model_fields)
    assert fields <= {*OF_PARTS.get(part, ()), *GAPS.get(part, ()), *sizes}


def test_a_case_has_one_class_of_each():
    for case in (CASE, Case()):
        names = [text.rpartition(":")[0] or text.split(" ")[0] for text in classes_of(case)]
        assert len(names) == len(set(names))
