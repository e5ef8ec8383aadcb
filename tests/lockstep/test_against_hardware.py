"""The built-in kernels in lockstep against what the same kernels gave on an H100 or H200, stage by stage.

The quantised codes, scales, cache bytes and gathered keys, and the logits that no order of summation changes, must have
the recorded bits. Every other recorded logit must lie within the bound that the simulated matrix unit sets.
"""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from triton.runtime import JITFunction

from indexfuzz.core.case import Case
from indexfuzz.reference import layout

_spec = importlib.util.spec_from_file_location("golden_data", Path(__file__).with_name("golden_data.py"))
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)
stages = golden.module("stage_runs")

OUTPUTS = {
    "q_quant/q_fp8",
    "q_quant/q_weights",
    "k_quant_cache/cache",
    "gather/k_fp8",
    "gather/k_scale",
    "prefill_logits/logits",
    "paged_logits/logits",
}


def case(**values: str) -> Case:
    """A small case with every stage; num_heads * head_dim is a power of 4, so that the weights can stay exact."""
    model = {"num_heads": 16, "head_dim": 64, "quant_group": 64}
    batch = {
        "decode": [5, 18],
        "next_n": 2,
        "max_model_len": 20,
        "prefill": [{"length": 9, "new": 4}],
        "gather_pad": 1,
    }
    return Case.parse({"model": model, "batch": batch, "cache": {"block_size": 16}, "values": {"seed": 3} | values})


EXACT = dict.fromkeys(("q", "k", "weights", "cache", "rope"), "exact")


@pytest.fixture(scope="module")
def simulated():
    """Runs of lockstep's sm90 model, where a GPU would have recorded."""
    return {name: (c, *stages.run(c, stages.Simulated())) for name, c in (("exact", case(**EXACT)), ("normal", case()))}


@pytest.fixture(scope="module")
def recorded():
    """(case, outputs, instructions, digest of the inputs) of every case that a GPU has recorded."""
    tensors, metadata = golden.recorded("stages")
    assert metadata["capability"] == [9, 0]
    return [
        (
            Case.parse(entry["case"]),
            {
                key.partition("/")[2]: torch.from_numpy(value)
                for key, value in tensors.items()
                if key.startswith(f"{number}/")
            },
            entry["instructions"],
            entry["digest"],
        )
        for number, entry in enumerate(metadata["cases"])
    ]


@pytest.fixture(scope="module")
def compared(recorded):
    """The comparisons of every recorded case."""
    return [stages.compare(sample, outputs, instructions) for sample, outputs, instructions, _ in recorded]


def test_the_cases_still_give_the_inputs_of_the_recording(recorded):
    for sample, _, _, digest in recorded:
        assert stages.digest(sample) == digest, sample.canonical_json()


def test_lockstep_gives_what_the_hardware_gave(recorded, compared):
    for (sample, outputs, _, _), comparisons in zip(recorded, compared, strict=True):
        assert comparisons.wrong == [], sample.canonical_json()
        assert {f"{c.stage}/{c.output}" for c in comparisons.found} == set(outputs)


def test_the_recorded_sample_is_broad(recorded, compared):
    """Every output often, both layouts, few heads and many; logits that are determined, and bounded ones."""
    names = [name for _, outputs, _, _ in recorded for name in outputs]
    assert all(names.count(name) >= 10 for name in OUTPUTS)
    cases = [sample for sample, _, _, _ in recorded]
    assert {layout.resolve(c.cache.layout, c.cache.block_size) for c in cases} == {"normal", "shuffle"}
    assert len({c.model.num_heads for c in cases}) >= 6
    assert {c.model.head_dim for c in cases} == {32, 64, 128}
    assert {(c.model.scale_fmt, c.model.fp8) for c in cases} == {("ue8m0", "e4m3fn")}
    for stage in ("prefill_logits", "paged_logits"):
        mine = [c for comparisons in compared for c in comparisons.found if c.stage == stage]
        assert sum(c.exact for c in mine) > 100
        assert sum(c.bounded for c in mine) > 100
        assert 0 < max(c.ratio for c in mine) < 1


def test_a_planted_flip_in_the_recorded_data_is_noticed(recorded):
    for sample, outputs, instructions, _ in recorded[:5]:
        flip_every_output(sample, outputs, instructions)


def flip_every_output(sample, outputs, instructions):
    """Flip the lowest bit of one element of each output: noticed there and nowhere before."""
    rng = np.random.default_rng(0)
    clean = stages.compare(sample, outputs, instructions).found
    for comparison in clean:
        name = f"{comparison.stage}/{comparison.output}"
        if not comparison.exact + comparison.hidden:
            continue
        planted = outputs[name].clone()
        flat = planted.view(-1) if planted.dtype == torch.uint8 else planted.view(-1).view(torch.int32)
        candidates = range(flat.numel())
        if comparison.bounded:
            candidates = (planted.view(-1) == float("-inf")).nonzero().flatten().tolist() or candidates[:0]
        if not candidates:
            continue
        flat[candidates[int(rng.integers(len(candidates)))]] ^= 1
        wrong = stages.compare(sample, outputs | {name: planted}, instructions).wrong
        assert wrong[0].different == 1
        assert (wrong[0].stage, wrong[0].output) == (comparison.stage, comparison.output)


@pytest.mark.parametrize("name", ["exact", "normal"])
def test_a_faithful_device_is_clean(simulated, name):
    sample, outputs, instructions = simulated[name]
    assert set(outputs) == OUTPUTS
    found = stages.compare(sample, outputs, instructions).found
    assert all(c.is_clean for c in found)
    logits = [c for c in found if c.output == "logits"]
    assert all((c.exact > 0) == (name == "exact") and (c.bounded > 0) == (name == "normal") for c in logits)
    assert all(0 < c.ratio < 1 for c in logits) or name == "exact"


@pytest.mark.parametrize("name", ["exact", "normal"])
def test_a_single_bit_is_noticed(simulated, name):
    flip_every_output(*simulated[name])


def test_a_logit_beyond_its_bound_is_noticed(simulated):
    sample, outputs, instructions = simulated["normal"]
    for stage in ("prefill_logits", "paged_logits"):
        planted = outputs[f"{stage}/logits"].clone()
        row, column = torch.isfinite(planted).nonzero()[-1].tolist()
        planted[row, column] *= 1 + 2.0**-18
        (wrong,) = stages.compare(sample, outputs | {f"{stage}/logits": planted}, instructions).wrong
        assert (wrong.stage, wrong.different) == (stage, 0)
        assert wrong.ratio > 1
        assert wrong.first.startswith(f"[{row}, {column}]")


def test_the_wrong_matrix_unit_is_noticed(simulated):
    sample, outputs, instructions = simulated["normal"]
    assert instructions == dict.fromkeys(("prefill_logits", "paged_logits"), "wgmma")
    other = dict.fromkeys(instructions, "mma")
    assert {c.stage for c in stages.compare(sample, outputs, other).wrong} == set(instructions)


def test_the_matrix_instruction_is_read_from_the_ptx_of_each_launch(monkeypatch):
    """Without a GPU: a stand-in for Triton's launch returns the compiled kernel."""
    compiled = [SimpleNamespace(asm={"ptx": f"{name} ..."}) for name in ("wgmma.mma_async", "mma.sync", "fma.rn.f32")]
    launches = iter(compiled)
    monkeypatch.setattr(JITFunction, "run", lambda *args, **kwargs: next(launches))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    kernel, ptx = stages.KERNELS["paged_logits"], []
    with stages.Gpu().session("paged_logits", ptx):
        assert kernel[(1,)]() is compiled[0]
    with stages.Gpu().session("gather", ptx):
        assert kernel[(1,)]() is compiled[1]
    assert ptx == ["wgmma.mma_async ..."]
    assert "run" not in vars(kernel)
    assert stages.instruction(ptx) == "wgmma"
    assert stages.instruction(["mma.sync ..."]) == "mma"
    for neither in (["fma.rn.f32 ..."], ["mma.sync ...", "wgmma.mma_async ..."]):
        with pytest.raises(ValueError, match="which no model covers"):
            stages.instruction(neither)


def test_cases_are_drawn_alike_every_time():
    drawn = stages.drawn_cases(1, 20, stages.SMALL)
    assert [c.id for c in drawn] == [c.id for c in stages.drawn_cases(1, 20, stages.SMALL)]
    assert [c.id for c in drawn] != [c.id for c in stages.drawn_cases(2, 20, stages.SMALL)]
    assert {(c.model.scale_fmt, c.model.fp8) for c in drawn} == {("ue8m0", "e4m3fn")}
    assert len({stages.digest(c) for c in drawn}) > len(drawn) // 2


def test_cases_are_stored_as_json():
    sample = case()
    assert Case.parse(json.loads(sample.canonical_json())).id == sample.id
