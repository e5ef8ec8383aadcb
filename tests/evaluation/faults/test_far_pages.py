import pytest

from indexfuzz.core.case import Case
from indexfuzz.devices import open_device
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import plant
from indexfuzz.oracles.differential import run


@pytest.mark.parametrize("page_pad", [(1 << 30) + 4, (1 << 30) + 8, 1 << 32])
@pytest.mark.parametrize("block_size", [1, 16])
def test_clean_kernels_pass_on_pages_far_apart(page_pad, block_size):
    case = Case.parse(
        {
            "model": {"quant_group": 32},
            "cache": {"block_size": block_size, "page_pad": page_pad, "spare_blocks": 2, "pages": "highest"},
            "batch": {"prefill": [{"length": 1, "new": 1}], "max_model_len": 1},
            "values": {"k": "exact"},
        }
    )
    assert not run(case, builtin(), open_device("lockstep")).findings


@pytest.mark.parametrize(
    ("fault", "page_pad", "spare_blocks", "found"),
    [
        ("offset-int32-values", 1 << 30, 2, True),
        ("offset-int32-values", 1 << 29, 2, False),
        ("offset-int32-scales", 1 << 32, 2, True),
        ("offset-int32-scales", 1 << 31, 2, False),
        ("offset-uint32-scales", 1 << 32, 4, True),
        ("offset-uint32-scales", 1 << 32, 3, False),
    ],
)
def test_each_offset_has_a_threshold_of_its_own(fault, page_pad, spare_blocks, found):
    case = Case.parse(
        {
            "model": {"quant_group": 32},
            "cache": {"page_pad": page_pad, "spare_blocks": spare_blocks, "pages": "highest"},
            "batch": {"prefill": [{"length": 1, "new": 1}], "max_model_len": 1},
        }
    )
    assert bool(run(case, plant((fault,)), open_device("lockstep")).findings) is found
