from importlib.metadata import version

import pytest

from indexfuzz.evaluation import processes
from indexfuzz.evaluation.mutation import report
from indexfuzz.evaluation.mutation.examine import Budget, Examiner, Result
from indexfuzz.evaluation.mutation.mutants import choose_mutants, enumerate_mutants
from indexfuzz.evaluation.mutation.report import Report
from indexfuzz.evaluation.mutation.survivors import equivalent, gaps


def test_there_are_hundreds_and_each_has_an_id_of_its_own():
    mutants = enumerate_mutants()
    assert len(mutants) >= 300
    assert len({mutant.id for mutant in mutants}) == len(mutants)
    assert {mutant.operator for mutant in mutants} >= {"mask", "cast", "clamp", "loop", "statement", "stride"}


def test_the_lists_of_survivors_name_mutants_that_exist_and_do_not_overlap():
    known = {mutant.id for mutant in enumerate_mutants()}
    assert set(equivalent()) <= known, "the lines of these mutants have changed: look at them again"
    assert set(gaps()) <= known, "the lines of these mutants have changed: look at them again"
    assert not set(equivalent()) & set(gaps())


def mutant_with(file, old, new):
    (found,) = (m for m in enumerate_mutants() if m.file == f"kernels/{file}.py" and (m.old, m.new) == (old, new))
    return found


@pytest.mark.parametrize(
    ("file", "old", "new", "signature"),
    [
        ("cache", "slot >= 0", "(slot > 0)", "k_quant_cache/unwritten/cache_scales"),
        ("gather", "token < num_tokens", "(token <= num_tokens)", "gather/out-of-bounds"),
        ("mqa_logits", "key[:, None] >= window_start[None, :]", "(key[:, None] > window_start[None, :])", "prefill"),
        ("paged_mqa_logits", "position < end_key", "(position <= end_key)", "paged_logits"),
        ("pool", "position >= context", "(position > context)", "fused_pool/"),
        ("groups", "(position + 1) % RATIO == 0", "((position + 1) % RATIO != 0)", "compress_norm/code-mismatch"),
        ("fused_compress", "end - RATIO", "(end + RATIO)", "fused_compress/"),
        ("indexer", "decode_end + prefill.ks.shape[0]", "(decode_end - prefill.ks.shape[0])", "topk/metamorphic"),
    ],
)
def test_a_mutant_is_found(file, old, new, signature):
    result = Examiner(Budget(cases=100)).examine(mutant_with(file, old, new))
    assert result.fate == "killed"
    assert result.signature.startswith(signature)


def test_a_mutant_of_what_stages_share_is_found_by_whichever_shows_it():
    """Padding that has no exponents is what gather writes, and what logits hide."""
    (mutant,) = (m for m in choose_mutants(["scales"]) if (m.function, m.operator) == ("load_exponents", "other"))
    assert {"gather", "paged_logits"} <= set(mutant.stages)
    result = Examiner(Budget(cases=100)).examine(mutant)
    assert result.signature.startswith("gather/code-mismatch")


def test_checks_of_arguments_are_left_to_the_tests_of_launchers():
    statements = {m.old for m in enumerate_mutants() if m.operator == "statement"}
    assert [old for old in statements if old.startswith(("require", "_require"))] == []
    assert any(old.startswith("tl.store") for old in statements)


def test_an_equivalent_mutant_survives():
    mutant = next(m for m in enumerate_mutants() if m.id in equivalent())
    assert Examiner(Budget(cases=10)).examine(mutant).fate == "survived"


def test_the_score_leaves_out_equivalent_mutants(monkeypatch):
    same = next(m for m in enumerate_mutants() if m.id in equivalent())
    gap, plain = [m for m in enumerate_mutants() if m.id not in equivalent()][:2]
    monkeypatch.setattr(report, "gaps", lambda: {gap.id: "a longer search"})
    results = [Result(same, "survived"), Result(gap, "survived"), Result(plain, "killed", cases=7)]
    found = Report(results)
    assert found.score == 0.5
    assert f"{gap.id}  " in found.as_text()
    assert "(needs: a longer search)" in found.as_text()
    assert same.id not in found.as_text()
    assert found.is_as_known
    assert "listed as equivalent" in Report([Result(same, "killed")]).as_text()
    assert not Report([Result(same, "killed")]).is_as_known
    assert not Report([Result(plain, "survived")]).is_as_known


def test_a_page_counts_by_operator_and_names_what_is_left(monkeypatch):
    same = next(m for m in enumerate_mutants() if m.id in equivalent())
    gap, plain = [m for m in enumerate_mutants() if m.id not in equivalent()][:2]
    monkeypatch.setattr(report, "gaps", lambda: {gap.id: "a longer search"})
    results = [Result(same, "survived"), Result(gap, "survived"), Result(plain, "killed", cases=7)]
    page = Report(results).as_markdown("X.")
    assert "score 50.0%: of 3 mutants 1 found" in page
    assert f"`{gap.id}  {gap.file}:{gap.line}" in page
    assert "Needs: a longer search" in page
    assert "the slowest took 7" in page
    assert f"| {plain.operator} |" in page
    assert "None." in Report([Result(plain, "killed")]).as_markdown("X.")


def test_words_choose_mutants():
    assert {m.operator for m in choose_mutants(["loop"])} == {"loop"}
    assert {m.file for m in choose_mutants(["gather"])} == {"kernels/gather.py"}
    with pytest.raises(ValueError, match="no mutant, operator or kernel file is called 'nix'"):
        choose_mutants(["nix"])


def test_what_is_kept_is_not_done_again_unless_the_budget_is_another(tmp_path, monkeypatch, indexfuzz):
    mutant = choose_mutants(["gather"])[0]
    examined = []

    def examine_all(left, *_, on_result, **__):
        examined.append(len(left))
        results = [Result(mutant, "killed", cases=3, seconds=1.5) for mutant in left]
        for result in results:
            on_result(result)
        return results

    monkeypatch.setattr(processes, "examine_all", examine_all)
    page, folder = tmp_path / "page.md", tmp_path / "kept"

    def mutate(*more):
        code, *_ = indexfuzz("mutate", mutant.id, "--keep", folder, "--markdown", page, *more)
        assert code == 0
        assert "of 1 mutants 1 found" in page.read_text()
        assert f"and Triton {version('triton')} on " in page.read_text()

    mutate()
    mutate()
    mutate("--cases", "7")
    for broken in ("{", "[]", '{"budget": 3}'):
        (folder / f"{mutant.id}.json").write_text(broken)
        mutate()
    assert examined == [1, 0, 1, 1, 1, 1]


def test_a_folder_that_cannot_be_made_is_told(tmp_path, indexfuzz):
    (tmp_path / "file").write_text("")
    code, _, err = indexfuzz("mutate", "gather", "--keep", tmp_path / "file" / "folder")
    assert code == 2
    assert "--keep: cannot make" in err
