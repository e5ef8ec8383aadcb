"""Operations of several nodes end where they say: the last legal value of an element passes, the next one does not."""

import pytest
import torch

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees, Promises
from indexfuzz.core.session import Turn, follow
from indexfuzz.reference import fp8, layout
from indexfuzz.reference.intervals import Interval, codes_between, scales_between
from indexfuzz.reference.quant import fold
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.serving import Serving
from indexfuzz.stages.quantised import format_of, number_format
from indexfuzz.stages.stateful import due_keys
from indexfuzz.stages.table import find, making_keys

FORMS = {"fp32": 64, "ue8m0": 64, "ue8m0 of quarters": 16, "mxfp4": 16}
BETWEEN = ("bf16", "fp32", "unknown")
STEP = {"turns": (Turn(request=0, new=9).model_dump(), Turn(request=1, new=5).model_dump())}
INSERTING, HANDING_ON = ("fused_compress", "fused_pool"), ("compress", "pool", "compress_norm")
SESSIONS = (*INSERTING, *HANDING_ON)


def case_of(name, form):
    session = {"node": name, "ratio": 4, "steps": (STEP,)}
    return Case().replace(
        model={"head_dim": 64, "quant_group": FORMS[form], "rope_dim": 32},
        cache={"block_size": 2, "layout": "normal", "scales": form.partition(" ")[0]},
        batch={"max_model_len": 20, "prefill": () if name in SESSIONS else ({"length": 9, "new": 9},)},
        values={"seed": 3},
        **({"session": session} if name in SESSIONS else {}),
    )


def launch(case, name):
    """The operation of a case, its call, and what the reference makes of it."""
    if name not in SESSIONS:
        stage, given = find(name), find(name).prepare(materialise(case))
        return stage, given, given.copy().run(stage.reference)
    serving, (step,), (rows,) = Serving(case, "cpu"), case.session.steps, list(follow(case.session))
    serving.begin(0, step, rows)
    stage = making_keys(name, [serving.requests[row.request].tokens for row in rows])
    given = stage.prepare(serving.making_step(0, step, rows))
    return stage, given, given.copy().run(stage.reference)


def beside(code, step, values):
    """The code of the next number of a format above, or below, that of a code; None where there is none."""
    every = fp8.decode(torch.arange(256, dtype=torch.uint8), "e4m3fn")
    at = int((values == every[int(code)]).nonzero()[0]) + step
    return int(fp8.encode(values[at : at + 1], "e4m3fn")[0]) if 0 <= at < len(values) else None


def numbers_of(given):
    """The numbers of the format in which a call stores values, in order."""
    if number_format(given) == "e2m1":
        return torch.tensor([-6.0, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6])
    every = fp8.decode(torch.arange(256, dtype=torch.uint8), "e4m3fn")
    return every[torch.isfinite(every)].unique()


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["fused_k", *INSERTING])
def test_codes_and_scales_of_keys(name, form, between):
    case, guarantees = case_of(name, form), Guarantees(Promises(between=between))
    stage, given, got = launch(case, name)
    keys = stage._keys(given, guarantees, {}) if name == "fused_k" else stage.keys(given, guarantees, {})
    own, quantised = format_of(given, 64), number_format(given)
    ends = Interval(*map(own.grouped, keys.values))
    scales = scales_between(ends, fp8=quantised)
    low, high = (codes.view(-1, 64) for codes in codes_between(ends, scales[:, 0], fp8=quantised))
    numbers, opened = numbers_of(given), (low != high).nonzero()[:2].tolist()

    def findings(codes, scales):
        cache = got["cache"].clone()
        stored = own.store(scales).view(torch.float32)
        layout.write_tokens(cache, keys.slots, own.write(codes), stored, "normal")
        return stage.judge(case, given, got | {"cache": cache}, guarantees).findings

    for codes in (low, high):
        assert findings(codes, scales[:, 0]) == ()
    for key, dim in [*opened, [0, 1], [1, 40]]:
        for end, step in ((low, -1), (high, 1)):
            changed = end.clone()
            changed[key, dim] = beside(end[key, dim], step, numbers)
            (found,) = findings(changed, scales[:, 0])
            assert found.output == "cache_values"
    for beyond in (scales.amax(1) * 2, scales.amin(1) / 2):
        (found,) = findings(low, torch.cat([beyond[:1], scales[1:, 0]]))
        assert found.output == "cache_scales"


@pytest.mark.parametrize("between", BETWEEN)
def test_codes_and_weights_of_q(between):
    case, guarantees = case_of("fused_q", "fp32"), Guarantees(Promises(between=between))
    stage, given, got = launch(case, "fused_q")
    rows, numbers = stage._legal_rows(given, guarantees, {}), numbers_of(given)
    low, high = rows.codes_under(rows.scales[..., 0])
    weights = fold(given.tensors["weights"], rows.scales[..., 0], num_heads=1, head_dim=64).float()

    def findings(codes, weights):
        outputs = {"q_fp8": codes.view(got["q_fp8"].dtype), "q_weights": weights}
        return stage.judge(case, given, outputs, guarantees).findings

    for at in [*map(tuple, (low != high).nonzero()[:2].tolist()), (0, 0, 1), (5, 0, 40)]:
        for end, step in ((low, -1), (high, 1)):
            changed = end.clone()
            changed[at] = beside(end[at], step, numbers)
            assert findings(end, weights) == ()
            assert [found.output for found in findings(changed, weights)] == ["q_fp8"]
    for factor in (1 - 2.0**-20, 1 + 2.0**-20):
        assert [found.output for found in findings(low, weights * factor)] == ["q_weights"]


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("name", HANDING_ON)
def test_keys_that_are_handed_on(name, between):
    case, guarantees = case_of(name, "fp32"), Guarantees(Promises(between=between))
    stage, given, got = launch(case, name)
    due = due_keys(given, case.session.ratio)
    ends = [stage._legal(given, request, groups, between, {}) for request, (_, groups) in enumerate(due)]
    rows, (low, high) = torch.cat([rows for rows, _ in due]), map(torch.cat, zip(*ends, strict=True))

    def findings(keys):
        outputs = got | {"keys": got["keys"].index_copy(0, rows, keys)}
        return stage.judge(case, given, outputs, guarantees).findings

    opened = (low != high).nonzero()[:2].tolist()
    assert opened or between != "unknown" or name == "compress"
    for key, dim in [*opened, [0, 1], [2, 40]]:
        for end, beyond in ((low, -torch.inf), (high, torch.inf)):
            changed = end.clone()
            changed[key, dim] = torch.nextafter(end[key, dim], torch.tensor(beyond, dtype=end.dtype))
            assert findings(end) == ()
            (found,) = findings(changed)
            assert (found.kind, found.output, found.index) == ("bound-exceeded", "keys", (int(rows[key]), dim))
