"""The judge of pooled keys in the cache: silent on right ones, and what it says of those that are not."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.core.session import Turn, follow
from indexfuzz.core.stage_names import FUSED_POOL
from indexfuzz.reference import pool as reference
from indexfuzz.reference.cache import k_quant_cache
from indexfuzz.reference.compress import Tokens
from indexfuzz.samples.serving import Serving
from indexfuzz.stages.table import making_keys

STEP = {"turns": (Turn(request=0, new=9).model_dump(), Turn(request=1, new=5).model_dump()), "pad_tokens": 2}
BF16 = Promises(between="bf16")


def judged(spoil=None, promises=BF16, pooling="softmax", scale=1.0, fp8="e4m3fn"):
    """What is found of the reference's outputs, after something was done to them."""
    session = {"node": FUSED_POOL, "ratio": 4, "pooling": pooling, "steps": (STEP,)}
    case = Case().replace(
        model={"head_dim": 32, "quant_group": 32, "rope_dim": 16, "fp8": fp8},
        cache={"block_size": 2, "layout": "normal"},
        session=session,
        batch={"max_model_len": 20},
    )
    serving, (step,), (rows,) = Serving(case, "cpu"), case.session.steps, list(follow(case.session))
    serving.begin(0, step, rows)
    tokens = [serving.requests[row.request].tokens for row in rows]
    stage = making_keys(FUSED_POOL, [Tokens(own.kv * scale, own.scores) for own in tokens])
    given = stage.prepare(serving.making_step(0, step, rows))
    got = given.copy().run(stage.reference)
    if spoil:
        spoil(got, stage, given)
    return stage.judge(case, given, got, Guarantees(promises))


@pytest.mark.parametrize("pooling", ["softmax", "max"])
@pytest.mark.parametrize("promises", [BF16, Promises()], ids=["bf16", "unknown"])
@pytest.mark.parametrize("fp8", ["e4m3fn", "e4m3fnuz"])
def test_right_keys_are_right(pooling, promises, fp8):
    verdict = judged(promises=promises, pooling=pooling, fp8=fp8)
    assert not verdict.findings
    assert verdict.width is not None
    assert verdict.width < (0.5 if promises.between == "unknown" else 0.05)


def remade(weights="softmax", between="bf16", rotated=torch.Tensor.bfloat16, factor=1.0, **instead):
    """All keys made otherwise and inserted."""

    def spoil(got, stage, given):
        options, keys = given.options | instead, []
        for tokens in stage.requests:
            own, bias = tokens, given.tensors["bias"]
            if weights == "none":
                own, bias = Tokens(own.kv, torch.zeros_like(own.scores)), torch.zeros_like(bias)
            made = {"ratio": 4, "pooling": options["pooling"]}
            if between == "unrotated":
                ends = reference.legal_pooled(own, bias, **made)
            else:
                ends = reference.legal_keys(own, bias, **made, between=between)
            keys.append(rotated(((ends[0] + ends[1]) / 2).float() * factor))
        cached = {name: options[name] for name in ("scale_fmt", "fp8", "quant_group", "layout")}
        got["cache"].copy_(given.tensors["cache"])
        k_quant_cache(torch.cat(keys), got["cache"], stage._slots(given), **cached)

    return spoil


def test_what_is_made_otherwise_here_is_right_where_nothing_is_otherwise():
    assert not judged(remade()).findings


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ({"between": "unrotated"}, "pool: keys are not rotated"),
        ({"pooling": "max"}, "pool: the pooling is max, softmax is asked for"),
        ({"weights": "none"}, "pool: all tokens weigh the same"),
        ({"fp8": "e4m3fnuz"}, "k_quant_cache: codes and scales are those of e4m3fnuz, e4m3fn is asked for"),
        ({"factor": 3.0}, "pool"),
    ],
)
def test_a_known_mistake_is_named(instead, words):
    (finding,) = judged(remade(**instead)).findings
    assert finding.kind == "code-mismatch"
    assert finding.detail.startswith(f"{words}: ")
    assert "with which its key" in finding.detail


def test_a_scale_alone_is_that_of_the_insertion():
    def double(got, stage, given):
        slot = int(stage._slots(given)[0])
        scale = got["cache"].flatten(1)[slot // 2, 64 + 4 * (slot % 2) :][:4].view(torch.float32)
        scale *= 2

    (finding,) = judged(double).findings
    assert finding.detail.startswith("k_quant_cache: ")


def test_what_is_kept_in_fp32_is_no_value_of_bf16():
    kept = remade(between="fp32", rotated=torch.Tensor.float)
    assert judged(kept).findings
    assert not judged(kept, Promises(between="fp32")).findings
    assert not judged(remade(between="fp32"), Promises(between="fp32", rotated="bf16")).findings


def test_keys_that_may_overflow_may_be_anything():
    assert judged(remade(factor=0.0)).findings
    assert not judged(remade(factor=0.0), scale=2.0**125).findings
