import inspect
import linecache
import re
import sys

import pytest

from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.faults import FaultError, load_faults, plant
from indexfuzz.implementations.faults.planting import edited_kernels, import_source, original_sources


@pytest.mark.parametrize("name", list(load_faults()))
def test_every_fault_fits_the_kernels_and_blames_a_stage_they_have(name):
    planted = plant((name,))
    assert planted.name == f"builtin+{name}"
    assert load_faults()[name].stage in planted.stages


@pytest.mark.parametrize("name", list(load_faults()))
def test_no_edit_cuts_a_name_in_two(name):
    for edit in load_faults()[name].edits:
        source = original_sources()[edit.file]
        start = source.index(edit.old)
        for at in (start, start + len(edit.old)):
            assert not re.fullmatch(r"\w\w", source[at - 1 : at + 1]), source[at - 20 : at + 20]


def test_triton_reads_the_edited_source_under_a_name_that_says_what_it_is():
    write = plant(("layout-hardcoded-shuffle",)).stages["k_quant_cache"]
    assert "SHUFFLE=True," in inspect.getsource(write)
    kernel = sys.modules[write.__module__]._k_quant_cache_kernel
    assert kernel.fn.__code__.co_filename == "kernels+layout-hardcoded-shuffle/cache.py"
    assert "def _k_quant_cache_kernel(" in kernel.src
    del linecache.cache[kernel.fn.__code__.co_filename]
    assert "SHUFFLE=True," in inspect.getsource(write)


def test_the_kernels_proper_stay_as_they_are():
    planted, whole = plant(("rope-result-discarded",)), builtin()
    assert whole.stages["rope"].__module__ == "indexfuzz.kernels.rope"
    assert planted.stages["rope"] is not whole.stages["rope"]
    assert "return q, k\n" not in inspect.getsource(whole.stages["rope"]).splitlines(keepends=True)[-1]


def test_faults_combine_in_any_order():
    names = ("rope-result-discarded", "layout-hardcoded-shuffle")
    assert plant(names).stages == plant(names[::-1]).stages
    assert plant(names).name == "builtin+layout-hardcoded-shuffle+rope-result-discarded"


def test_unknown_fault():
    with pytest.raises(FaultError, match="no fault 'nix'; `indexfuzz faults` lists them"):
        plant(("nix",))


@pytest.mark.parametrize(("old", "count"), [("no such text", 0), ("import", "[2-9]+")])
def test_text_must_occur_exactly_once(old, count):
    message = f"fault demo: kernels/cache.py must have this text once, but has it {count} times: {old}"
    with pytest.raises(FaultError, match=message):
        edited_kernels(f"demo-{old}", [("demo", "kernels/cache.py", old, "")])


def test_a_label_names_the_same_edits_for_ever():
    """Or a test would run what another one has planted."""
    text = next(line for line in original_sources()["kernels/cache.py"].splitlines() if line.startswith("def "))
    one = ("demo", "kernels/cache.py", text, f"{text}  # edited")
    assert edited_kernels("demo-same", [one]) == edited_kernels("demo-same", [one])
    with pytest.raises(FaultError, match="demo_same was made of something else already"):
        edited_kernels("demo-same", [("demo", "kernels/cache.py", text, f"{text}  # another")])
    import_source("demo_of_one_source", "a = 1", "demo.py")
    with pytest.raises(FaultError, match="demo_of_one_source was made of something else already"):
        import_source("demo_of_one_source", "a = 2", "demo.py")
