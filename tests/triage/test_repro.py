import ast
import base64
import linecache
import pathlib
import types
import zipfile
import zlib
from math import inf, nan

import pytest
import torch

from indexfuzz.campaign.events import Found
from indexfuzz.campaign.loop import run
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.setup import Setup
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.implementations.base import Implementation, ImplementationError
from indexfuzz.implementations.vllm import standalone
from indexfuzz.implementations.vllm.contract import OPS
from indexfuzz.lockstep.values.unreserved import unreserved
from indexfuzz.oracles import composition, next_step
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest, put_under_test
from indexfuzz.triage import literals, repro_source
from indexfuzz.triage.launches import ReproError
from indexfuzz.triage.prove import NOT_RUN, run_script
from indexfuzz.triage.repro import script


def evaluate(text: str) -> torch.Tensor:
    """What a script's expression makes, with the script's own helpers."""
    names = {"torch": torch, "base64": base64, "zlib": zlib, "inf": inf, "nan": nan, "DEVICE": "cpu"}
    exec(literals.UNPACK + literals.STRIDED, names)
    return eval(text, names)


BITS = torch.arange(-(2**31), 2**31, 2**23 + 12345, dtype=torch.int64).to(torch.int32)

TENSORS = {
    "a few floats": torch.tensor([[1.1, -0.0], [inf, 1e-45]]),
    "bf16": torch.tensor([0.1, 3e38]).bfloat16(),
    "NaN payloads": BITS.view(torch.float32),
    "every bf16": torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16),
    "every code": torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn),
    "a few codes": torch.tensor([[0x7F, 0x80]], dtype=torch.uint8).view(torch.float8_e4m3fnuz),
    "all the same": torch.full((3, 4, 5), 7, dtype=torch.int32),
    "all NaN": torch.full((9,), nan),
    "zeros of either sign": torch.tensor([0.0, -0.0, 0.0, -0.0, 0.0, 0.0]),
    "empty": torch.empty((0, 4), dtype=torch.int64),
    "rows that are the same": torch.tensor([[0, 0, 0, 0, 1]] * 5 + [[2] * 5, [3] * 5] + [[0, 0, 0, 0, 1]] * 4),
    "a scalar": torch.tensor(3),
    "a column slice": torch.arange(12).view(3, 4)[:, :2],
    "padded pages": torch.arange(240, dtype=torch.uint8).as_strided((3, 2, 36), (80, 36, 1)),
}


@pytest.mark.parametrize("name", TENSORS)
def test_expressions_are_exact_in_bits_dtype_and_strides(name):
    tensor = TENSORS[name]
    made = evaluate(literals.expression(tensor))
    assert (made.dtype, made.shape, made.stride()) == (tensor.dtype, tensor.shape, tensor.stride())
    raw = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.dtype.itemsize]
    assert torch.equal(made.contiguous().view(raw), tensor.contiguous().view(raw))


def test_what_is_the_same_many_times_in_a_row_is_written_once():
    written = torch.tensor([[[False] * 20]] * 6 + [[[True] * 19 + [False]]])
    text = "[[[False] * 20]] * 6 + [[[True] * 19 + [False]]]"
    assert literals.expression(written) == f"torch.tensor({text}, dtype=torch.bool).to(DEVICE)"
    assert "[1, 1, 1, 2]" in literals.expression(torch.tensor([1, 1, 1, 2]))


def test_too_large_for_a_script():
    with pytest.raises(ReproError, match=r"shape \[500, 500\] is too large for a script; minimise the case first"):
        literals.expression((torch.arange(250_000) * 2654435761 % 2**31).to(torch.int32).view(500, 500))


class TestRefusals:
    @pytest.fixture
    def target(self, pytorch_device):
        return UnderTest(
            InProcess(Implementation("toy", {"gather": len, "rope": lambda **_: None}), pytorch_device),
            Setup("module:toy"),
        )

    def entry(self, stage: str) -> Entry:
        return Entry(case=Case(), finding=Record.of(Finding(stage, "crash", "KeyError", "")))

    def test_no_finding(self, target):
        with pytest.raises(ReproError, match="never showed a finding"):
            script(Entry(case=Case(), status="guard"), target)

    def test_no_such_stage(self, target):
        with pytest.raises(ImplementationError, match="toy has no stage topk"):
            script(self.entry("topk"), target)

    def test_a_case_that_does_not_get_there(self, target):
        with pytest.raises(ReproError, match="does not reach the stage gather"):
            script(self.entry("gather"), target)


def test_a_function_without_a_name_is_taken_from_its_adapter(pytorch_device):
    subject = InProcess(Implementation("toy", {"gather": lambda **_: None}), pytorch_device)
    source = repro_source.kernel_source(UnderTest(subject, Setup("sglang:some/path")), "gather", Case())
    assert source.code.endswith("kernel = load('sglang:some/path').stages['gather']\n")
    assert "indexfuzz" in source.needs


def test_vllm_needs_only_the_launcher_and_what_it_uses():
    text = "def a():\n    return b()\ndef b():\n    return c\nc = 1\ne = 2\ndef d():\n    return a()\n"
    assert standalone._needed(text, "a") == {"a", "b", "c"}


OPS_TEXT = """
import vllm.envs
FORMAT = current_platform.fp8_dtype()
OTHER = vllm.envs.NOTHING

def indexer_k_quant_and_cache_triton(k, cache, slot_mapping, quant_group, scale_fmt):
    store(k, cache) if _ON_GFX950 else 1 / 0

def store(k, cache):
    cache.view(FORMAT)[0, 0, : k.shape[1]] = k[0].to(FORMAT)
"""


@pytest.mark.parametrize("is_wheel", [True, False])
def test_of_vllm_a_script_executes_a_launcher_and_what_it_uses_alone(is_wheel, tmp_path):
    path = tmp_path / ("vllm.whl" if is_wheel else "checkout")
    if is_wheel:
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(OPS, OPS_TEXT)
    else:
        (path / OPS).parent.mkdir(parents=True)
        (path / OPS).write_text(OPS_TEXT)
    source = standalone.standalone_source(types.SimpleNamespace(read=lambda _: OPS_TEXT), path, "k_quant_cache", Case())
    names = {"ast": ast, "linecache": linecache, "pathlib": pathlib, "torch": torch, "types": types, "zipfile": zipfile}
    exec(source.code, names)
    cache = torch.zeros(1, 1, 20, dtype=torch.uint8)
    options = {"scale_fmt": "ue8m0", "fp8": "e4m3fn", "quant_group": 16, "layout": "auto"}
    names["kernel"](k=torch.ones(1, 16), cache=cache, slot_mapping=torch.zeros(1, dtype=torch.int64), **options)
    assert cache[0, 0, :16].tolist() == [0x38] * 16


STRIDES = {
    "a row of one": torch.arange(12.0).view(3, 4)[:1, :2],
    "one column of many": torch.arange(12).view(3, 4)[:, :1],
    "not at the start": torch.arange(12, dtype=torch.bfloat16)[3:7],
    "one of every second": torch.arange(4, dtype=torch.int32)[1::4].as_strided((1,), (2,), 1),
    "an empty slice": torch.arange(12).view(3, 4)[:0, :2],
}


@pytest.mark.parametrize("name", STRIDES)
def test_strides_and_alignment_are_exact_where_no_value_shows_them(name):
    made = evaluate(literals.expression(STRIDES[name]))
    assert made.stride() == STRIDES[name].stride()
    assert made.storage_offset() == STRIDES[name].storage_offset()
    assert torch.equal(made, STRIDES[name])


def test_rows_that_lie_gigabytes_apart_take_no_memory_between_them():
    """More than any machine has that runs these tests."""
    apart = 1 << 38
    memory = torch.frombuffer(unreserved(2 * apart + 8), dtype=torch.uint8)
    rows = memory.as_strided((3, 8), (apart, 1)).copy_(torch.arange(24, dtype=torch.uint8).view(3, 8))
    made = evaluate(literals.expression(rows))
    assert made.stride() == rows.stride()
    assert torch.equal(made, rows)


FAULTS = {
    "layout-hardcoded-shuffle": 1,
    "rope-result-discarded": 1,
    "logits-store-unmasked": 3,
    "columns-unwritten": 1,
    "mxfp4-halves-swapped-by-writer": 1,
}
"""Bytes, values, a stray store, memory that is never written, and packed keys; `bench findings` does it for all.

With each stands the seed of a campaign that soon has a case small enough for a script.
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_script_fails_on_the_faulty_kernel_and_passes_on_the_clean_one(fault, run_copied):
    target = put_under_test(Setup(faults=(fault,)))
    found = []

    def listen(event):
        found.extend([event] if isinstance(event, Found) else [])

    wanted = Settings(target.subject, cases=300, seed=FAULTS[fault], first_only=True, minimise_seconds=0.0)
    run(wanted, listen)
    text = script(Entry(case=found[0].case, finding=Record.of(found[0].finding)), target)
    planted = f"plant(({fault!r},))"
    assert planted in text
    assert run_copied(text).shows
    clean = run_copied(text.replace(planted, "plant(())"))
    assert not clean.shows, clean.last_line


def test_a_script_reads_interleaved_exponents_where_they_belong(run_copied):
    case = Case().replace(
        model={"head_dim": 32, "quant_group": 8},
        cache={"block_size": 16, "layout": "shuffle-scales", "scales": "mxfp4"},
        batch={"prefill": ({"length": 1, "new": 1},)},
    )
    fault = "interleaved-scales-written-in-rows"
    target = put_under_test(Setup(faults=(fault,)))
    finding = next(f for f in target.subject.run(case).findings if f.stage == "k_quant_cache")
    assert (finding.kind, finding.output) == ("layout-mismatch", "cache_scales")
    text, planted = script(Entry(case=case, finding=Record.of(finding)), target), f"plant(({fault!r},))"
    assert run_copied(text).shows
    assert not run_copied(text.replace(planted, "plant(())")).shows


def test_a_relation_needs_launches_of_other_inputs(pytorch_device):
    target = UnderTest(InProcess(Implementation("toy", {"gather": len}), pytorch_device), Setup("module:toy"))
    finding = Record.of(Finding("gather", "metamorphic/table-width", "k_fp8", ""))
    with pytest.raises(ReproError, match="no launch by itself shows"):
        script(Entry(case=Case(), finding=finding), target)


WHOLE = {
    "offset-of-another-row": Case().replace(
        model={"index_topk": 2}, batch={"prefill": ({"length": 2, "new": 1}, {"length": 3, "new": 2})}
    ),
    "rope-lost-without-prefill": Case().replace(
        rope={"mode": "functional"}, batch={"decode": (5,), "max_model_len": 8, "positions": "repeated"}
    ),
    "kept-lengths-of-a-table": Case().replace(
        model={"index_topk": 2}, batch={"decode": (1, 7), "prefill": (), "max_model_len": 8}
    ),
}


@pytest.mark.parametrize("fault", WHOLE)
def test_the_whole_indexer_is_called_beside_what_its_stages_make(fault, run_copied):
    target = put_under_test(Setup(faults=(fault,)))
    implementation, device = target.subject.implementation, target.subject.device
    oracle = next_step if fault.startswith("kept-") else composition
    (finding,) = oracle.run(WHOLE[fault], implementation, device).findings
    text = script(target.entry(WHOLE[fault], finding), target)
    assert "step = materialise(Case.parse(CASE), DEVICE)" in text
    assert run_copied(text).shows
    assert not run_copied(text.replace(f"plant(({fault!r},))", "plant(())")).shows


def test_a_script_that_shows_nothing_is_noticed():
    assert not run_script("print('fine')").shows
    assert run_script("raise SystemExit('wrong')").last_line == "wrong"
    assert run_script("import time; time.sleep(60)", seconds=0.5).shows


@pytest.mark.parametrize("text", ["import a_module_that_is_nowhere", "this is no Python"])
def test_a_script_that_does_not_run_shows_nothing(text):
    proof = run_script(text)
    assert not proof.shows
    assert proof.last_line.startswith(NOT_RUN)


SMALL = Case().replace(
    model={"head_dim": 32, "rope_dim": 16, "quant_group": 32, "num_heads": 2},
    cache={"block_size": 16},
    batch={"prefill": ({"length": 3, "new": 3},)},
)
DECODE = {"prefill": (), "decode": (5,), "max_model_len": 16}
TELLING = {
    "weights-bf16": ("prefill_logits", SMALL.replace(values={"k": "normal", "weights": "normal"})),
    "lens-rows-taken-for-dense": (
        "paged_logits",
        SMALL.replace(batch=DECODE | {"next_n": 2, "lens": "2d"}, memory={"lens_step": 2}),
    ),
    "layout-preshuffle-64-only": ("paged_logits", SMALL.replace(batch=DECODE)),
    "rope-changes-arguments": ("rope", SMALL.replace(rope={"mode": "functional"})),
    "topk-longer-than-row": (
        "topk",
        SMALL.replace(model={"index_topk": 2}, batch=DECODE | {"decode": (0,), "max_model_len": 1}),
    ),
    "topk-one-more-than-k": ("topk", SMALL.replace(model={"index_topk": 2})),
    "scale-view-of-another-layer": ("k_quant_cache", SMALL.replace(cache={"block_size": 8, "layout": "normal"})),
}


@pytest.mark.parametrize("fault", TELLING)
def test_every_kind_of_check_tells_the_bug_from_its_absence(fault, run_copied):
    stage, case = TELLING[fault]
    target = put_under_test(Setup(faults=(fault,)))
    finding = next(f for f in target.subject.run(case, frozenset({stage})).findings if f.stage == stage)
    text = script(target.entry(case, finding), target)
    planted = f"plant(({fault!r},))"
    assert planted in text
    assert run_copied(text).shows
    assert not run_copied(text.replace(planted, "plant(())")).shows


def test_a_bound_is_asked_for_as_a_bound():
    stage, case = TELLING["weights-bf16"]
    target = put_under_test(Setup(faults=("weights-bf16",)))
    finding = next(f for f in target.subject.run(case, frozenset({stage})).findings if f.stage == stage)
    text = script(target.entry(case, finding), target)
    assert finding.want in text
    assert "<= got <=" in text
