"""The command that compiles: what it prints, and how it ends."""

import json

import pytest

HOPPER = ("--target", "sm_90", "--preset", "glm-5")


@pytest.fixture
def compiling(indexfuzz, tmp_path):
    """Compile a toy's only kernel, which makes FP8 wider before its dot or does not; -> as `indexfuzz` does."""

    def run(*words, widen):
        module = f"toy_widens_{widen}".lower()
        (tmp_path / f"{module}.py").write_text(
            f"from tests.compiling.kernels import logits_by\nimplementation = logits_by(widen={widen})\n"
        )
        return indexfuzz("compile", "--impl", f"module:{module}", *words)

    return run


def test_a_clean_kernel_is_0_with_what_it_became(compiling):
    code, out, err = compiling(*HOPPER, widen=False)
    assert code == 0
    assert "sm_90: toy, 1 specialisations" in out
    assert "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3" in out
    assert "compiled for sm_90 1 of 1; 0 findings" in err


def test_fp8_that_became_wider_is_1_and_a_sentence(compiling):
    code, out, _ = compiling(*HOPPER, widen=True)
    assert code == 1
    assert "sm_90: prefill_logits, dot_kernel (" in out
    assert "FP8 is made f16 before tl.dot" in out
    assert "with HEADS=64, DIM=128, KEYS=64, WIDEN=True" in out


def test_what_a_gpu_has_no_type_for_is_left_out(compiling):
    code, out, _ = compiling("--target", "sm_80", "--preset", "glm-5", widen=False)
    assert code == 0
    assert "left out, 1 of dot_kernel: type fp8e4nv not supported in this architecture" in out


def test_as_json(compiling):
    code, out, _ = compiling(*HOPPER, "--json", widen=True)
    (kernel,) = json.loads(out)["kernels"]
    assert code == 1
    assert (kernel["kernel"], kernel["target"], kernel["verdict"]) == ("dot_kernel", "sm_90", "wrong")
    assert kernel["code"]["registers"] > 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "sm_91"), "--target: no 'sm_91'; did you mean 'sm_90'?"),
        (("--preset", "glm"), "--preset: no 'glm'"),
        (("--impl", "module:toy_gather"), "launches no Triton kernel in these shapes"),
    ],
)
def test_bad_input_is_2_and_one_sentence(indexfuzz, words, message):
    code, _, err = indexfuzz("compile", *words)
    assert code == 2
    assert message in err.splitlines()[-1]
