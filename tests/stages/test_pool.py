"""The judge of pooled keys: silent on right ones, and what it says of those that are not."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.core.session import Turn, follow
from indexfuzz.core.stage_names import POOL
from indexfuzz.reference import pool as reference
from indexfuzz.reference.compress import Tokens
from indexfuzz.samples.serving import Serving
from indexfuzz.stages.table import making_keys

STEP = {"turns": (Turn(request=0, new=9).model_dump(), Turn(request=1, new=5).model_dump()), "pad_tokens": 2}


def judged(spoil=None, between="bf16", pooling="softmax", scale=1.0):
    """What is found of the reference's outputs, after something was done to them."""
    session = {"node": POOL, "ratio": 4, "pooling": pooling, "steps": (STEP,)}
    case = Case().replace(session=session, batch={"max_model_len": 20})
    serving, (step,), (rows,) = Serving(case, "cpu"), case.session.steps, list(follow(case.session))
    serving.begin(0, step, rows)
    tokens = [serving.requests[row.request].tokens for row in rows]
    stage = making_keys(POOL, [Tokens(own.kv * scale, own.scores) for own in tokens])
    given = stage.prepare(serving.making_step(0, step, rows))
    got = given.copy().run(stage.reference)
    if spoil:
        spoil(got, stage.requests, given)
    return stage.judge(case, given, got, Guarantees(Promises(between=between)))


@pytest.mark.parametrize("pooling", ["softmax", "max"])
@pytest.mark.parametrize("between", ["bf16", "unknown"])
def test_right_keys_are_right(pooling, between):
    verdict = judged(between=between, pooling=pooling)
    assert not verdict.findings
    assert verdict.width is not None
    assert verdict.width < (1.0 if between == "unknown" else 0.1)


def remade(**instead):
    """Keys of the first request made otherwise."""

    def spoil(got, requests, given):
        tokens, bias = requests[0], given.tensors["bias"]
        if instead.get("weights") == "none":
            tokens, bias = Tokens(tokens.kv, torch.zeros_like(tokens.scores)), torch.zeros_like(bias)
        options = {"ratio": 4, "pooling": instead.get("pooling", given.options["pooling"])}
        if instead.get("between"):
            ends = reference.legal_keys(tokens, bias, **options, between=instead["between"])
        elif instead.get("rotation") == "none":
            ends = reference.legal_pooled(tokens, bias, **options)
        else:
            ends = (reference.keys(tokens, bias, **options).double(),) * 2
        got["keys"][[3, 7]] = ((ends[0] + ends[1]) / 2).float().bfloat16()

    return spoil


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ({"rotation": "none"}, "keys are not rotated"),
        ({"pooling": "max"}, "the pooling is max, softmax is asked for"),
        ({"weights": "none"}, "all tokens weigh the same"),
        ({"between": "fp32"}, "keys are rotated in fp32, before they are rounded to bf16"),
    ],
)
def test_a_known_mistake_is_named(instead, words):
    (finding,) = judged(remade(**instead)).findings
    assert (finding.kind, finding.output) == ("bound-exceeded", "keys")
    assert finding.detail.startswith(f"{words}: ")
    assert "with which its key 0 is due, made of tokens 0 to 3" in finding.detail


def test_keys_that_were_promised_in_fp32_must_not_be_rounded():
    (finding,) = judged(remade(between="bf16"), between="fp32").findings
    assert finding.detail.startswith("keys are rounded to bf16 before they are rotated: ")


def test_other_mistakes_are_told_without_a_name():
    def one_dim(got, _requests, _given):
        got["keys"][12, 3] += 1

    (finding,) = judged(one_dim).findings
    assert finding.detail.startswith("token 12, dim 3 is ")
    assert "token 3 of request 1 of the step" in finding.detail


@pytest.mark.parametrize(("row", "words"), [(2, "is no place of a key"), (15, "(row 15 is padding)")])
def test_rows_without_a_key_must_stay(row, words):
    def write(got, _requests, _given):
        got["keys"][row] = 1

    (finding,) = judged(write).findings
    assert (finding.kind, finding.output) == ("guard-write", "keys")
    assert words in finding.detail


def test_keys_that_may_overflow_may_be_anything():
    def overflow(got, _requests, _given):
        got["keys"][3] = float("nan")

    assert judged(overflow).findings
    assert not judged(overflow, scale=2.0**123).findings
