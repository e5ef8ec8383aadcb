"""The judge of normed compressed keys: silent on right ones, and what it says of those that are not."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.core.session import Turn, follow
from indexfuzz.core.stage_names import COMPRESS_NORM
from indexfuzz.reference import compress
from indexfuzz.reference.compress import Tokens
from indexfuzz.samples.serving import Serving
from indexfuzz.stages.stateful import due_keys
from indexfuzz.stages.table import making_keys

STEP = {"turns": (Turn(request=0, new=9).model_dump(), Turn(request=1, new=5).model_dump()), "pad_tokens": 2}


def normed(x, weight, eps):
    return x * (x.square().mean(1, keepdim=True) + eps).rsqrt() * weight.float()


def judged(norm=normed, between=torch.Tensor.bfloat16, scale=1.0, promises=None, bias=True, scores=True):
    """What is found of keys that are made here, by sums in fp64 that are rounded once."""
    session = {"node": COMPRESS_NORM, "ratio": 2, "steps": (STEP,)}
    case = Case().replace(model={"head_dim": 32}, cache={"block_size": 2}, session=session, batch={"max_model_len": 20})
    serving, (step,), (rows,) = Serving(case, "cpu"), case.session.steps, list(follow(case.session))
    serving.begin(0, step, rows)
    tokens = [serving.requests[row.request].tokens for row in rows]
    stage = making_keys(COMPRESS_NORM, [Tokens(own.kv * scale, own.scores) for own in tokens])
    given = stage.prepare(serving.making_step(0, step, rows))
    got, t = given.copy().run(stage.reference), given.tensors
    for own, (due, groups) in zip(stage.requests, due_keys(given, 2), strict=True):
        made = Tokens(own.kv, own.scores if scores else torch.zeros_like(own.scores))
        low, high = compress.legal_keys(made, t["bias"] * bias, ratio=2, overlap=False)
        summed = between(((low + high) / 2).float()).float()
        got["keys"][due] = norm(summed, t["norm_weight"], 1e-6)[groups].bfloat16()
    return stage.judge(case, given, got, Guarantees(promises or Promises(between="bf16")))


@pytest.mark.parametrize("promises", [Promises(between="bf16"), Promises()], ids=["bf16", "unknown"])
def test_right_keys_are_right(promises):
    verdict = judged(promises=promises)
    assert not verdict.findings
    assert verdict.width is not None
    assert verdict.width < (0.6 if promises.between == "unknown" else 0.05)


KEPT = {"between": torch.Tensor.float}


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"norm": lambda x, _weight, _eps: x}, "rms_norm: keys are not normalised: "),
        ({"norm": lambda x, _weight, eps: normed(x, torch.ones(32), eps)}, "rms_norm: the weight is left out: "),
        ({"norm": lambda x, weight, eps: normed(x, weight, eps * 10), "scale": 2.0**-12}, "rms_norm: eps is 1e-5: "),
        ({"norm": lambda x, weight, eps: normed(x, weight, eps) * 3}, "compress or rms_norm: "),
        ({"bias": False}, "compress: the position bias is left out: "),
        ({"bias": False, "scores": False}, "compress: all tokens weigh the same: "),
        (KEPT, "compress: keys are normed before they are rounded to bf16: "),
        ({"promises": Promises(between="fp32")}, "compress: keys are rounded to bf16 before they are normed: "),
    ],
)
def test_a_known_mistake_is_named(made, words):
    (finding,) = judged(**made).findings
    assert (finding.kind, finding.output) == ("bound-exceeded", "keys")
    assert finding.detail.startswith(words)
    assert "with which its key" in finding.detail


def test_keys_that_are_kept_in_fp32_are_right_where_that_is_promised():
    assert not judged(**KEPT, promises=Promises(between="fp32")).findings


def test_keys_that_may_overflow_may_be_anything():
    assert not judged(scale=1e30, norm=lambda x, _weight, _eps: torch.zeros_like(x)).findings
