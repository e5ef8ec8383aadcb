"""The judge of compressed keys in the cache: silent on right ones, and what it says of those that are not."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.core.session import Turn, follow
from indexfuzz.core.stage_names import FUSED_COMPRESS
from indexfuzz.reference import compress as sums
from indexfuzz.reference.cache import k_quant_cache
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.layout import read_tokens, write_tokens
from indexfuzz.reference.rope import rope
from indexfuzz.samples.serving import Serving
from indexfuzz.stages.operation import legal_rows
from indexfuzz.stages.table import making_keys

STEP = {"turns": (Turn(request=0, new=9).model_dump(), Turn(request=1, new=5).model_dump()), "pad_tokens": 2}
MODEL = {"head_dim": 32, "quant_group": 32, "rope_dim": 16}


def judged(spoil=None, promises=None, scale=1.0, overlap=True, rope="normal"):
    """What is found of the reference's outputs, after something was done to them."""
    session = {"node": FUSED_COMPRESS, "ratio": 4, "overlap": overlap, "steps": (STEP,)}
    case = Case().replace(
        model=MODEL, cache={"block_size": 2, "layout": "normal"}, session=session, batch={"max_model_len": 20}
    )
    case = case.replace(values={"rope": rope})
    serving, (step,), (rows,) = Serving(case, "cpu"), case.session.steps, list(follow(case.session))
    serving.begin(0, step, rows)
    tokens = [serving.requests[row.request].tokens for row in rows]
    stage = making_keys(FUSED_COMPRESS, [Tokens(own.kv * scale, own.scores) for own in tokens])
    given = stage.prepare(serving.making_step(0, step, rows))
    got = given.copy().run(stage.reference)
    if spoil:
        spoil(got, stage.requests, given)
    return stage.judge(case, given, got, Guarantees(promises or Promises(between="bf16")))


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize(
    "promises", [Promises(between="bf16"), Promises(), Promises(rotated="bf16")], ids=["bf16", "unknown", "rotated"]
)
def test_right_keys_are_right(promises, overlap):
    verdict = judged(promises=promises, overlap=overlap)
    assert not verdict.findings
    assert verdict.width is not None
    assert verdict.width < (0.5 if promises.between == "unknown" else 0.05)


def inserted(given, requests, *, norm=None, places=None, summed=None, between=torch.Tensor.bfloat16, **instead):
    """The cache after all keys were made otherwise and inserted."""
    t, options, cache = given.tensors, given.options | instead, given.tensors["cache"].clone()
    keys, positions = [], []
    for request in requests:
        low, high = sums.legal_keys(request, t["bias"], ratio=4, overlap=options["overlap"])
        keys.append((summed or between)(((low + high) / 2).float()).float())
        positions += range(len(low))
    normed = norm or partial(normed_as, between=between)
    x = normed(torch.cat(keys), instead.get("weight", t["norm_weight"]), eps=options["eps"]).bfloat16()
    at = torch.tensor(positions) * 4 if places is None else places(torch.tensor(positions))
    rotate = {name: options[name] for name in ("rope_dim", "style", "placement")}
    _, x = rope(x.new_empty((len(x), 1, 32)), x, at, t["cos_sin_cache"], **rotate)
    stage = making_keys(FUSED_COMPRESS, requests)
    slots = stage._slots(given)
    cached = {name: options[name] for name in ("scale_fmt", "fp8", "quant_group", "layout")}
    k_quant_cache(x, cache, slots, **cached)
    return cache


def normed_as(x, weight, *, eps, between=torch.Tensor.bfloat16):
    return between(x * (x.square().mean(1, keepdim=True) + eps).rsqrt() * weight.float())


def remade(**instead):
    def spoil(got, requests, given):
        got["cache"].copy_(inserted(given, requests, **instead))

    return spoil


def test_what_is_made_otherwise_here_is_right_where_nothing_is_otherwise():
    assert not judged(remade()).findings


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        ({"places": lambda number: number * 4 + 3}, "rope: angles are those of the last token of a group"),
        ({"places": lambda number: number}, "rope: angles are those of the number of a key"),
        ({"style": "interleaved"}, "rope: pairs are interleaved, neox is asked for"),
        ({"placement": "last"}, "rope: the last dims are rotated, the first are asked for"),
        ({"norm": lambda x, _weight, **_: x}, "rms_norm: keys are not normalised"),
        ({"weight": torch.ones(32)}, "rms_norm: the weight is left out"),
        (
            {"norm": lambda x, weight, eps: normed_as(x, weight.float() / 32**0.5, eps=eps / 32)},
            "rms_norm: squares are",
        ),
        ({"summed": torch.Tensor.float}, "compress or rms_norm: keys are normed before they are rounded to bf16"),
        ({"fp8": "e4m3fnuz"}, "k_quant_cache: codes and scales are those of e4m3fnuz, e4m3fn is asked for"),
        ({"norm": lambda x, weight, **_: normed_as(x, weight, eps=1e-6) * 3}, "compress or rms_norm"),
    ],
)
def test_a_known_mistake_is_named(instead, words):
    (finding,) = judged(remade(**instead)).findings
    assert finding.kind == "code-mismatch"
    assert finding.detail.startswith(words)
    assert "with which its key" in finding.detail


def without_scores(got, requests, given):
    plain = given.with_tensors({"bias": torch.zeros_like(given.tensors["bias"])})
    remade()(got, [Tokens(own.kv, torch.zeros_like(own.scores)) for own in requests], plain)


def test_a_mistake_of_the_sum_is_named():
    (finding,) = judged(without_scores).findings
    assert finding.detail.startswith("compress: all tokens weigh the same: ")


def test_values_that_are_kept_in_fp32_are_no_values_of_bf16():
    kept = remade(between=torch.Tensor.float)
    assert judged(kept).findings
    assert not judged(kept, Promises(between="fp32", rotated="bf16")).findings


def test_a_place_is_exact():
    def one_too_many(got, _requests, _given):
        got["visible"][3] += 1

    def another_slot(got, _requests, _given):
        got["slot_mapping"][3] += 1

    for spoil, output in ((one_too_many, "visible"), (another_slot, "slot_mapping")):
        (finding,) = judged(spoil).findings
        assert (finding.kind, finding.output) == ("code-mismatch", output)
        assert "token 3 of request 0 of the step" in finding.detail


def test_bytes_of_nobody_must_stay():
    def write(got, requests, given):
        own = making_keys(FUSED_COMPRESS, requests)._slots(given).tolist()
        free = next(slot for slot in range(2 * len(got["cache"])) if slot not in own)
        write_tokens(got["cache"], torch.tensor([free]), torch.zeros(1, 32, dtype=torch.uint8), torch.ones(1), "normal")

    (finding,) = judged(write).findings
    assert (finding.kind, finding.output) == ("guard-write", "cache")
    assert finding.detail.startswith("k_quant_cache: ")


def test_keys_that_may_overflow_may_be_anything():
    def zeros(got, requests, given):
        slots = making_keys(FUSED_COMPRESS, requests)._slots(given)
        codes = torch.zeros(len(slots), 32, dtype=torch.uint8)
        write_tokens(got["cache"], slots, codes, torch.ones(len(slots)), "normal")

    assert judged(zeros).findings
    assert not judged(zeros, scale=2.0**123).findings


def test_a_value_on_a_tie_that_went_the_other_way_names_nobody_for_certain():
    """Kept in fp32 behind a quarter turn, it may lie on either side; so may what is right."""

    def to_the_other_side(got, requests, given):
        stage, guarantees = making_keys(FUSED_COMPRESS, requests), Guarantees(Promises(between="bf16"))
        slots = stage._slots(given)
        codes, scales = read_tokens(got["cache"], slots, "normal")
        kept = stage.legal(given, guarantees, {"rotated_as": "fp32"})
        ends = legal_rows(kept, given, guarantees).codes_under(scales.squeeze())
        tied = (ends[0] != ends[1]).nonzero()[0].tolist()
        other = next(end[tuple(tied)] for end in ends if end[tuple(tied)] != codes[tuple(tied)])
        codes[tuple(tied)] = other
        write_tokens(got["cache"], slots, codes, scales, "normal")

    (finding,) = judged(to_the_other_side, rope="exact").findings
    assert finding.detail.startswith("compress or rms_norm or rope: token ")


def test_a_node_is_named_for_what_a_device_saw_where_it_alone_has_the_tensor():
    stage = making_keys(FUSED_COMPRESS, [])
    seen = Finding(FUSED_COMPRESS, "race", "scales_ptr", "two programs store", tensor="cache")
    assert stage.name_node(seen).detail == "k_quant_cache: two programs store"
    assert stage.name_node(replace(seen, tensor="cos_sin_cache")).detail == "rope: two programs store"
    for tensor in ("", "state", "block_table"):
        other = replace(seen, tensor=tensor)
        assert stage.name_node(other) == other
