"""Implementations that would be green without testing anything, or red about every case, are refused when loading."""

import re
import sys
from pathlib import Path

import pytest
import triton

from indexfuzz.core.contract import Clause, Clauses, Unlimited
from indexfuzz.implementations import load
from indexfuzz.implementations.base import Implementation, ImplementationError
from indexfuzz.implementations.builtin import builtin
from indexfuzz.implementations.validation import validate
from indexfuzz.reference import gather as reference
from indexfuzz.stages.table import STAGES


@triton.jit
def a_kernel(cache):
    pass


def without_layout(cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, *, quant_group):
    pass


def for_fp32_scales(cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, *, quant_group, layout):
    pass


def for_any_scales(cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, *, quant_group, layout, scales):
    pass


def positional_only(cache, /, **rest):
    pass


def with_more(stream, **rest):
    pass


def clause(stages=("gather",), holds=lambda case: True, sentence="it is so", place="here"):
    return {"gather": reference.gather}, Clauses((Clause(stages, holds, sentence, place),))


WRONG = {
    "there is no stage 'gathr'; did you mean 'gather'?": ({"gathr": reference.gather},),
    "there is no stage 3; choose from compress, compress_norm, fused_compress, fused_k, fused_pool, fused_q, gather": (
        {3: reference.gather},
    ),
    "mine has no stages, so nothing would be tested; name at least one of rope, q_quant": ({},),
    "stages must be a dictionary of stage names and functions, not a list": ([reference.gather],),
    "stages must be a dictionary of stage names and functions, not nothing": (None,),
    "stage gather must be a function, not a str": ({"gather": "page_gather.gather"},),
    "stage gather is a Triton kernel; name the Python function that launches it": ({"gather": a_kernel},),
    "the function of stage gather does not take layout; it is called as gather(cache=..., block_table=": (
        {"gather": without_layout},
    ),
    "the function of stage gather asks for cache, which it does not get by name": ({"gather": positional_only},),
    "the function of stage gather asks for stream, which it does not get by name": ({"gather": with_more},),
    "contract must be an instance of Clauses, not nothing": ({"gather": reference.gather}, None),
    "contract must be an instance of Clauses, not a tuple": ({"gather": reference.gather}, ()),
    "contract must be an instance of Clauses, not a type": ({"gather": reference.gather}, Unlimited),
    "Clauses takes a tuple of clauses, not a Clause": ({"gather": reference.gather}, Clauses(clause()[1].clauses[0])),
    "the scales of a contract must be a tuple with some of fp32, ue8m0, mxfp4, not 'ue8m0'": (
        {"gather": reference.gather},
        Clauses(scales="ue8m0"),
    ),
    "the function of stage gather does not take scales; it is called as gather(cache=..., block_table=": (
        {"gather": for_fp32_scales},
        Clauses(scales=("ue8m0",)),
    ),
    "the function of stage gather asks for scales, which it does not get by name": ({"gather": for_any_scales},),
    "clause 1 of the contract must be a Clause, not a str": ({"gather": reference.gather}, Clauses(("dense",))),
    "the clause 'it is so' is about no stage 'gathr'; did you mean 'gather'?": clause(stages=("gathr",)),
    "the clause 'it is so' must name its stages in a tuple, not a str": clause(stages="gather"),
    "the clause 'it is so' needs a function of the case, not a bool": clause(holds=True),
    "the clause 'it is so' cannot be asked about a case: AttributeError: 'Model' object has no attribute 'dim'": clause(
        holds=lambda case: case.model.dim == 1
    ),
    "the clause 3 must have a sentence and a place, both texts": clause(sentence=3),
}


@pytest.mark.parametrize("complaint", WRONG)
def test_one_sentence_says_what_is_wrong(complaint):
    with pytest.raises(ImplementationError, match=f"^{re.escape(complaint)}"):
        validate(Implementation("mine", *WRONG[complaint]))


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "\x1b[31mred", None])
def test_a_name_is_one_line(name):
    with pytest.raises(ImplementationError, match="must be one line of text"):
        validate(Implementation(name, {"gather": reference.gather}))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("promises", {"rope_in_place": True}, "promises must be an instance of Promises, not a dict"),
        ("forward", "indexer.forward", "forward must be a function, not a str"),
        ("notes", "one note", "notes must be a tuple of sentences"),
    ],
)
def test_the_other_fields(field, value, complaint):
    with pytest.raises(ImplementationError, match=complaint):
        validate(Implementation("mine", {"gather": reference.gather}, **{field: value}))


def test_what_is_right_passes():
    for implementation in (
        builtin(),
        Implementation("reference", {"gather": reference.gather}),
        Implementation("mine", {"gather": lambda **rest: None}),
        Implementation("mine", {stage.name: stage.reference for stage in STAGES if stage.name != "rope"}),
        Implementation("mine", *clause()),
    ):
        validate(implementation)


class TestModule:
    @pytest.fixture
    def module(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)

        def written(text: str) -> str:
            monkeypatch.setattr(sys, "path", [*sys.path])
            monkeypatch.delitem(sys.modules, "own_kernels", raising=False)
            Path("own_kernels.py").write_text(text)
            with pytest.raises(ImplementationError) as error:
                load("module:own_kernels")
            return str(error.value)

        yield written
        sys.modules.pop("own_kernels", None)

    def test_the_line_that_fails_is_named(self, module):
        assert module("\n1 / 0").endswith("cannot be imported: ZeroDivisionError: division by zero (own_kernels.py:2)")

    def test_a_module_that_exits_does_not_end_us(self, module):
        assert "cannot be imported: SystemExit: 0" in module("raise SystemExit(0)")

    def test_what_it_defines_instead_is_named(self, module):
        assert module("implementation = 3").endswith("an instance of indexfuzz.Implementation; it has an int")
        assert module("").endswith("it has none")

    def test_a_misspelt_stage_is_refused(self, module):
        text = "from indexfuzz import Implementation\nimplementation = Implementation('mine', {'gathr': print})"
        assert module(text) == "module:own_kernels: there is no stage 'gathr'; did you mean 'gather'?"

    @pytest.mark.parametrize(
        ("name", "meant"), [("own.py", "write module:own"), ("../own", "such as module:my_kernels")]
    )
    def test_a_path_is_no_module(self, name, meant):
        with pytest.raises(ImplementationError, match=meant):
            load(f"module:{name}")
