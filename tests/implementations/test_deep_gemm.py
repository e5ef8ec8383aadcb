import sys
import types

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations import deep_gemm, load
from indexfuzz.implementations.base import ImplementationError
from indexfuzz.implementations.deep_gemm import per_row, refusals
from indexfuzz.oracles.differential import run
from indexfuzz.reference.mqa_logits import mqa_logits
from indexfuzz.reference.paged_mqa_logits import paged_mqa_logits

SMS = 7


def package():
    """A stand-in with the signatures of the real package, which asserts what its host code asserts."""

    def check(condition):
        if not condition:
            raise RuntimeError("Assertion error (csrc/apis/attention.hpp:1): condition")

    def fp8_mqa_logits(q, kv, weights, ks, ke, clean_logits=False, max_seqlen_k=0):
        k_fp8, k_scale = kv
        check(q.is_contiguous() and k_fp8.is_contiguous() and k_scale.dim() == 1 and weights.stride(1) == 1)
        check(q.shape[1] in {32, 64} and clean_logits and not max_seqlen_k)
        logits = torch.empty(q.shape[0], k_fp8.shape[0])
        mqa_logits(q, k_fp8, k_scale, weights, ks, ke, logits)
        return logits

    def get_paged_mqa_logits_metadata(context_lens, block_kv, num_sms, indices=None):
        check(context_lens.dim() == 2 and context_lens.dtype == torch.int32 and context_lens.is_contiguous())
        check(block_kv == 64 and num_sms == SMS and indices is None)
        return torch.zeros(num_sms + 1, 2, dtype=torch.int32)

    def fp8_paged_mqa_logits(
        q,
        kv_cache,
        weights,
        context_lens,
        block_table,
        schedule_meta,
        max_context_len,
        clean_logits=False,
        indices=None,
    ):
        check(kv_cache.shape[1:3] == (64, 1) and kv_cache.stride(1) == kv_cache.shape[3] and weights.is_contiguous())
        check(context_lens.shape == q.shape[:2] and schedule_meta.shape == (SMS + 1, 2))
        check(not clean_logits and indices is None)
        logits = torch.empty(q.shape[0] * q.shape[1], max_context_len)
        cache = kv_cache.squeeze(2)
        paged_mqa_logits(q, cache, weights, context_lens, block_table, logits, layout="normal")
        return torch.where(logits == float("-inf"), torch.nan, logits)

    module = types.ModuleType("deep_gemm")
    module.__spec__ = types.SimpleNamespace(name="deep_gemm")
    for function in (fp8_mqa_logits, get_paged_mqa_logits_metadata, fp8_paged_mqa_logits):
        setattr(module, function.__name__, function)
    module.get_num_sms = lambda: SMS
    return module


@pytest.fixture
def installed(monkeypatch):
    module = package()
    monkeypatch.setitem(sys.modules, "deep_gemm", module)
    monkeypatch.setattr(deep_gemm, "has_gpu", lambda: True)
    return module


@pytest.fixture
def on_cpu(installed, monkeypatch):
    monkeypatch.setattr(deep_gemm, "_need_gpu", lambda _: None)
    return installed


def case(**parts):
    model = {"num_heads": 32, "head_dim": 32, "quant_group": 32, **parts.pop("model", {})}
    cache = {"block_size": 64, "layout": "normal", **parts.pop("cache", {})}
    batch = {"decode": (5, 70), "prefill": ({"length": 9, "new": 3},), "max_model_len": 80, **parts.pop("batch", {})}
    return Case().replace(model=model, cache=cache, batch=batch, **parts)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("batch", [{}, {"next_n": 2}, {"next_n": 2, "lens": "2d"}, {"decode": (0, 1), "next_n": 2}])
def test_right_kernels_give_no_findings(batch):
    outcome = run(case(batch=batch), load("deep_gemm"), LockstepDevice())
    assert (outcome.findings, outcome.outside) == ([], {})
    assert outcome.stages == ["prefill_logits", "paged_logits"]


def test_wrong_kernels_give_findings(on_cpu):
    right = on_cpu.fp8_paged_mqa_logits
    on_cpu.fp8_paged_mqa_logits = lambda *args, **options: right(*args, **options) * 1.5
    on_cpu.fp8_mqa_logits = lambda q, kv, *_, **__: torch.zeros(q.shape[0], kv[0].shape[0] + 1)
    outcome = run(case(), load("deep_gemm"), LockstepDevice())
    assert {str(finding.signature) for finding in outcome.findings} == {
        "prefill_logits/shape",
        "paged_logits/bound-exceeded/logits",
    }


@pytest.mark.usefixtures("on_cpu")
def test_what_the_host_code_asserts_is_a_refusal():
    q, k = torch.zeros(1, 3, 32).to(torch.float8_e4m3fn), torch.zeros(2, 32).to(torch.float8_e4m3fn)
    window, logits = torch.zeros(1, dtype=torch.int32), torch.zeros(1, 2)
    with pytest.raises(AssertionError, match=r"attention\.hpp:1"):
        load("deep_gemm").stages["prefill_logits"](q, k, torch.zeros(2), torch.zeros(1, 3), window, window, logits)
    with pytest.raises(RuntimeError, match="CUDA driver"), refusals():
        raise RuntimeError("CUDA driver error (x.hpp:1): 700")
    with pytest.raises(ValueError, match="NORMAL layout only"):
        load("deep_gemm").stages["paged_logits"](q, torch.zeros(1, 64, 36), None, None, None, logits, layout="auto")


@pytest.mark.usefixtures("installed")
def test_tensors_on_the_cpu_are_refused():
    with pytest.raises(ImplementationError, match="add --device cuda"):
        run(case(), load("deep_gemm"), LockstepDevice())


def test_lengths_are_given_for_every_row():
    assert per_row(torch.tensor([5, 1]), 3).tolist() == [[3, 4, 5], [0, 0, 1]]
    assert per_row(torch.tensor([[5], [1]]), 1).tolist() == [[5], [1]]


class TestLoading:
    def test_without_the_package(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(ImplementationError, match="not installed; `pip install sgl-deep-gemm`"):
            load("deep_gemm")

    def test_without_a_gpu(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "deep_gemm", package())
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ImplementationError, match="needs an NVIDIA GPU, Hopper or newer"):
            load("deep_gemm")

    def test_a_package_without_the_functions(self, installed):
        del installed.fp8_paged_mqa_logits
        with pytest.raises(ImplementationError, match="deep_gemm has no fp8_paged_mqa_logits"):
            load("deep_gemm")

    def test_a_package_that_cannot_be_imported(self, monkeypatch, tmp_path):
        (tmp_path / "deep_gemm.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(deep_gemm, "has_gpu", lambda: True)
        with pytest.raises(ImplementationError, match="cannot be imported: OSError: libcudart"):
            load("deep_gemm")

    def test_takes_no_path(self):
        with pytest.raises(ImplementationError, match="deep_gemm takes no path"):
            load("deep_gemm:/opt")


@pytest.mark.parametrize(
    ("stage", "parts", "reason"),
    [
        ("prefill_logits", {"model": {"fp8": "e4m3fnuz"}}, "q and k are e4m3fn"),
        ("prefill_logits", {"model": {"num_heads": 16}}, "num_heads is 32 or 64"),
        ("prefill_logits", {"model": {"head_dim": 48, "quant_group": 48}}, "head_dim is 32, 64 or 128"),
        ("paged_logits", {"model": {"quant_group": 16}}, "every key has one scale"),
        ("paged_logits", {"cache": {"block_size": 32}}, "block_size is 64"),
        ("paged_logits", {"cache": {"layout": "auto"}}, "pages are NORMAL"),
        ("paged_logits", {"cache": {"page_pad": 8}}, "a multiple of 16 bytes apart"),
        ("paged_logits", {"batch": {"next_n": 3}}, "next_n is 1 or 2"),
        ("paged_logits", {"batch": {"next_n": 2, "lens": "ragged"}}, "the last row of a request sees the most"),
    ],
)
def test_outside_the_contract(stage, parts, reason):
    assert reason in deep_gemm.CONTRACT.outside(stage, case(**parts))
    assert deep_gemm.CONTRACT.outside(stage, case()) is None
