"""What is launched, found without running it, and compiled in processes that may die."""

import os
from itertools import islice

import torch

from indexfuzz.compiling import survey as surveying
from indexfuzz.compiling.cases import cases_for
from indexfuzz.compiling.examination import Wanted, examine
from indexfuzz.compiling.launches import launches
from indexfuzz.compiling.survey import specialisations, survey
from indexfuzz.compiling.targets import TARGETS
from indexfuzz.core.case import Case
from indexfuzz.core.presets import PRESETS
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.builtin import builtin
from tests.compiling.kernels import dot_kernel, logits_by, specialised

STEP = Case().replace(
    model={"head_dim": 64, "quant_group": 64, "num_heads": 4, "rope_dim": 32},
    cache={"block_size": 16},
    batch={"decode": (20,), "prefill": ({"length": 20, "new": 3},), "max_model_len": 32},
)
FORMS = (
    STEP,
    STEP.replace(cache={"scales": "ue8m0"}, model={"quant_group": 16}),
    STEP.replace(cache={"scales": "mxfp4"}, model={"quant_group": 16}),
    STEP.replace(
        model={"k_norm": "rms"},
        memory={"indices": "int64", "positions": "int32", "head_weights": "bf16", "norm_weights": "bf16"},
    ),
    *(STEP.replace(memory={"activations": dtype}) for dtype in ("fp16", "fp32")),
)
SM_90 = TARGETS["sm_90"]


def test_every_built_in_kernel_compiles_in_every_form_of_keys():
    """One set of constants for each set of types is compiled, as far as PTX."""
    tested = builtin()
    cases = [*FORMS, *islice(draw(sessions(formats=("e4m3fn",)), 3, 12), 12)]
    wanted = specialisations(launches(cases, tested), tested, SM_90)
    found = {(id(w.specialisation.kernel), *w.specialisation.types.values()): w for w in reversed(wanted)}
    names = {w.specialisation.kernel.fn.__name__ for w in found.values()}
    assert {"_k_quant_cache_kernel", "_paged_mqa_logits_kernel", "_mqa_logits_kernel", "_fused_pool_kernel"} <= names
    examined = [examine(each, assemble=False) for each in found.values()]
    assert [e for e in examined if e.verdict != "right"] == []


def test_what_is_launched_is_found_without_running_it():
    tested = logits_by(widen=False)
    (launch,) = launches([STEP], tested)
    assert (launch.stage, launch.kernel, launch.kwargs["DIM"]) == ("prefill_logits", dot_kernel, 64)
    assert launch.args[2].isnan().all()


def test_a_launcher_that_waits_for_its_kernel_is_left_behind_what_it_launched():
    def prefill_logits(q_fp8, k_fp8, k_scale, weights, ks, ke, logits):
        dot_kernel[(1,)](q_fp8, k_fp8, logits, HEADS=64, DIM=k_fp8.shape[1], KEYS=64, WIDEN=False)
        waited = 0
        while waited >= 0:
            waited += 1

    assert len(list(launches([STEP], Implementation("endless", {"prefill_logits": prefill_logits})))) == 1


def test_of_published_models_every_block_size_layout_and_form_is_asked_for():
    cases = list(cases_for(builtin(), "e4m3fnuz", [PRESETS["glm-5"]]))
    steps = [case for case in cases if not case.session.steps]
    assert {case.model.fp8 for case in cases} == {"e4m3fnuz"}
    assert {(c.cache.block_size, c.cache.layout) for c in steps} == {
        (1, "normal"),
        (16, "normal"),
        (16, "shuffle"),
        (64, "normal"),
        (64, "shuffle"),
        (16, "shuffle-scales"),
        (64, "shuffle-scales"),
    }
    assert {case.cache.scales for case in steps} == {"fp32", "ue8m0", "mxfp4"}
    assert {case.session.node for case in cases} > {"compress", "fused_pool"}
    assert len(list(cases_for(builtin(), "e4m3fn", [PRESETS["glm-5"]], 5))) == len(cases) + 5


def test_a_specialisation_is_compiled_once_and_held_to_the_strictest_form():
    tested = builtin()
    made = [launch for launch in launches(FORMS, tested) if launch.stage in ("rope", "paged_logits")]
    wanted = specialisations(made, tested, SM_90)
    assert len([w for w in wanted if w.stage == "rope"]) < len([launch for launch in made if launch.stage == "rope"])
    # Keys of one byte, in either types of indices, are held to FP8; those with packed scales may be widened.
    assert sorted(w.may_widen for w in wanted if w.stage == "paged_logits") == [False, False, True, True]
    assert not any(w.may_widen for w in wanted if w.stage == "rope")


def test_a_compiler_that_ends_its_process_is_told_and_the_rest_goes_on(monkeypatch):
    x = torch.zeros(128, 64, dtype=torch.uint8).view(torch.float8_e4m3fn)
    sizes = (64, 32, 128)
    wanted = [
        Wanted(
            specialised(dot_kernel, (x, x, torch.zeros(128, 64)), "sm_90", HEADS=64, DIM=64, KEYS=keys, WIDEN=False),
            "prefill_logits",
            may_widen=True,
        )
        for keys in sizes
    ]

    def dying(each):
        if each is wanted[1]:
            os.write(2, b"LLVM ERROR: Cannot select: intrinsic\n")
            os._exit(70)
        return examine(each, assemble=False)

    monkeypatch.setattr(surveying, "examine", dying)
    examined = list(survey({SM_90: wanted, TARGETS["sm_80"]: []}))
    assert [e.constants["KEYS"] for e in examined] == ["64", "32", "128"]
    assert [e.verdict for e in examined] == ["right", "wrong", "right"]
    assert examined[1].sentence == (
        "does not compile: the compiler ended its process with exit code 70: LLVM ERROR: Cannot select: intrinsic"
    )
