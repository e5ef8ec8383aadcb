"""A stage is one object: what must hold for all of them, and who may call them by their names."""

import ast
from pathlib import Path

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.stage_names import OPERATION_NAMES, ROPE, STAGE_NAMES, require_stage
from indexfuzz.core.stage_names import STATEFUL as STATEFUL_NAMES
from indexfuzz.evaluation.mutation.mutants import FILES, SESSION_FILES
from indexfuzz.implementations.builtin import builtin
from indexfuzz.samples.materialise import materialise
from indexfuzz.stages.table import EVERY, PAGED_TOPK, PREFILL_TOPK, STAGES, STATEFUL, find

ROOT = Path(__file__).parents[2]
OWNERS = ("stages/", "implementations/", "core/stage_names.py", "lockstep/")
"""Folders of fuzz/ that call a stage by its name; in lockstep/, "gather" and "topk" are operations of Triton."""

FIELD = ("core/", "samples/", "generation/", "triage/")
"""Folders in which "rope" is the field of a Case."""

TERMS = Guarantees()
CASE = Case().replace(
    model={"num_heads": 2, "head_dim": 32, "quant_group": 32},
    cache={"block_size": 16},
    batch={"decode": (40, 17), "prefill": ({"length": 40, "new": 7},), "next_n": 2, "max_model_len": 60},
)


def literals(file: str, text: str) -> list[str]:
    """Places in a file of fuzz/ where a stage is named by a string of its own."""
    names = set(STAGE_NAMES) - ({ROPE} if file.startswith(FIELD) else set())
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and node.value in names]
    return [f"{file}:{node.lineno}: {node.value}" for node in found if not file.startswith(OWNERS)]


def test_only_stages_and_implementations_spell_the_name_of_a_stage():
    sources = {str(path.relative_to(ROOT / "fuzz")): path.read_text() for path in (ROOT / "fuzz").rglob("*.py")}
    assert [place for file, text in sources.items() for place in literals(file, text)] == []


def test_a_name_spelt_elsewhere_is_noticed():
    text = 'def f(stage):\n    return stage.name == "gather" or stage.name in {"rope", "top"}\n'
    assert literals("oracles/walk.py", text) == ["oracles/walk.py:2: gather", "oracles/walk.py:2: rope"]
    assert literals("triage/repro.py", text) == ["triage/repro.py:2: gather"]
    assert literals("stages/gather.py", text) == literals("implementations/builtin.py", text) == []


def test_the_names_that_are_known_without_torch_are_those_of_the_stages_in_order():
    assert tuple(dict.fromkeys(stage.name for stage in STAGES)) == STAGE_NAMES
    assert tuple(stage.name for stage in STATEFUL) == STATEFUL_NAMES
    assert set(builtin().stages) == set(OPERATION_NAMES)
    assert require_stage("gather") == "gather"
    with pytest.raises(
        ValueError,
        match="'top' is no stage; the stages are compress, compress_norm, fused_compress, fused_k, fused_pool, fused_q",
    ):
        require_stage("top")


def test_a_stage_in_two_places_is_told_apart_by_its_output():
    assert find("topk", "prefill_topk") is find("topk") is PREFILL_TOPK
    assert find("topk", "paged_topk") is PAGED_TOPK
    with pytest.raises(LookupError, match="'top' is no stage"):
        find("top")


def test_every_kernel_file_is_a_source_of_some_stage():
    helpers = {"__init__.py", "checks.py", "sizes.py"}
    assert {*FILES, *SESSION_FILES} == {f"kernels/{file.name}" for file in (ROOT / "kernels").glob("*.py")} - {
        f"kernels/{name}" for name in helpers
    }


@pytest.mark.parametrize("stage", EVERY, ids=lambda stage: next(iter(stage.axes)))
def test_what_a_stage_says_of_itself_fits_its_calls(stage):
    step = materialise(CASE)
    for earlier in STAGES[: STAGES.index(stage)] if stage in STAGES else ():
        step.tensors |= earlier.prepare(step).run(earlier.reference)
    call = stage.prepare(step)
    outputs = call.copy().run(stage.reference)
    assert set(call.results) == set(outputs)
    assert all(len(stage.axes[name]) == output.dim() for name, output in outputs.items() if name in stage.axes)
    assert set(stage.row_inputs) <= set(call.tensors)
    rows = {len(call.tensors[name]) for name in stage.row_inputs}
    assert len(rows | {len(output) for output in outputs.values() if rows}) <= 1
    assert stage.forms(call) == {name: (tuple(outputs[name].shape), outputs[name].dtype) for name in call.returns}
    assert stage.nonfinite_reach(call).finite.keys() <= call.tensors.keys()
    assert not stage.judge_finite(call, outputs, TERMS).findings
