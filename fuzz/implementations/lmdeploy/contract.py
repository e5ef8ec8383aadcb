"""What LMDeploy promises about its DSA indexer, and who comes to it, read from the release under test."""

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.stage_names import FUSED_K, FUSED_Q
from indexfuzz.implementations.callers import as_callers_do
from indexfuzz.implementations.loading.source import Project

_ROOT = "lmdeploy/pytorch"
_FOLDER = f"{_ROOT}/kernels/cuda"
FUSED = f"{_FOLDER}/dsa_indexer_preprocess.py"
SCORES = f"{_FOLDER}/ds_index.py"
TOPK = f"{_FOLDER}/bitonic_topk.py"
INSERT = f"{_FOLDER}/fill_kv_cache.py"
ROPE = f"{_FOLDER}/apply_rotary_pos_emb.py"
QUANT = f"{_FOLDER}/blocked_gemm_fp8.py"
CALLER = f"{_ROOT}/backends/cuda/nsa.py"
CONSTANTS = f"{_ROOT}/consts.py"
_MODELS = f"{_ROOT}/models/module_map.py"
_MODEL = f"{_ROOT}/models/deepseek_v32.py"
_CONFIG = f"{_ROOT}/configurations/deepseek_v32.py"
_ANGLES = f"{_ROOT}/backends/default/rotary_embedding.py"
_CACHE = f"{_ROOT}/engine/cache_engine.py"
_SCHEMA = f"{_ROOT}/engine/cache_engine/schema.py"
"""Where releases after 0.16.0 have what was in the file above."""


HEAD_DIM = 128
_ROPE_DIM = 64
_ALIGNMENT = 256
_HEADS = frozenset({16, 32, 64, 128})
_FUSED = (FUSED_Q, FUSED_K)
_QUANTISED = (*_FUSED, "q_quant", "k_quant_cache")
_INSERTED = (FUSED_K, "k_quant_cache")
_PAGED = (*_INSERTED, "gather", "paged_logits")
_LOGITS = ("prefill_logits", "paged_logits")


def reach(project: Project) -> tuple[str, ...]:
    """By which lines of a release a model comes to these kernels, and on which hardware."""
    models = [project.place(_MODELS, f"'{name}'") for name in ("DeepseekV32ForCausalLM", "GlmMoeDsaForCausalLM")]
    fused = [project.place(CALLER, text) for text in ("= prepare_dsa_indexer_q(", "prepare_dsa_indexer_k_cache(k,")]
    return (
        (
            f"{FUSED_Q} and {FUSED_K} are what DeepSeek-V3.2 and GLM-5 run ({', '.join(models)}; called at "
            f"{', '.join(fused)}) on NVIDIA GPUs: FlashMLA is required "
            f"({project.place(_CONFIG, 'requires <flash_mla>')})"
        ),
        (
            "off the default path are rope, q_quant and k_quant_cache: LMDEPLOY_DISABLE_DSA_INDEXER_FUSION=1 asks for "
            f"them ({project.place(f'{_ROOT}/envs.py', 'disable_dsa_indexer_fusion')})"
        ),
        (
            "off the default path where DeepGEMM is installed are prefill_logits and paged_logits "
            f"({project.place(CALLER, '_warn_triton_index_scoring()', '_warn_triton_index_scoring()')}); gather runs "
            f"there alone ({project.place(CALLER, 'flatten_dsa_indexer_k_cache(')})"
        ),
        (
            "off the default path is topk where TileLang, which the release requires on x86, has a kernel: "
            f"{project.place(f'{_FOLDER}/sparse_index_topk.py', '_SUPPORTED_TOPK')}"
        ),
    )


def contract(project: Project) -> Clauses:
    """What TritonNSAIndexFP8 hands to its launchers, and what these assert or compute from it."""
    caller = project.place(CALLER, "class TritonNSAIndexFP8")
    dense = project.place(_MODEL, "q = self.wq_b(qr)")
    tile = project.place(SCORES, "tl.arange(0, BLOCK_H)")
    causal = project.place(SCORES, "causal_k_seqlen = k_seqlen - q_seqlen + q_id + 1")
    power = project.place(TOPK, "offs_k = tl.arange(0, K)")
    return Clauses(
        (
            Clause(
                (*_QUANTISED, "rope", *_LOGITS, "gather"),
                lambda case: case.model.head_dim == HEAD_DIM,
                f"head_dim is {HEAD_DIM}",
                project.place(FUSED, "assert q.size(-1) == 128"),
            ),
            Clause(
                (*_FUSED, "rope"),
                lambda case: case.model.rope_dim == _ROPE_DIM,
                f"rope_dim is {_ROPE_DIM}",
                project.place(FUSED, "cos.size(-1) == 64"),
            ),
            Clause(
                (*_FUSED, "rope"),
                lambda case: case.rope.placement == "first",
                "the first dims are rotated",
                project.place(FUSED, "def _apply_rope_first("),
            ),
            Clause(
                (*_FUSED, "rope"),
                lambda case: case.rope.table == "bf16",
                "angles are bf16, as the hidden states are",
                project.place(_ANGLES, "return cos.to(dtype=dtype)"),
            ),
            Clause(
                (*_QUANTISED, "gather", *_LOGITS),
                lambda case: case.model.fp8 == "e4m3fn",
                "keys are e4m3fn",
                project.place(CALLER, "view(torch.float8_e4m3fn)"),
            ),
            Clause(
                _QUANTISED,
                lambda case: case.model.scale_fmt == "ue8m0",
                "scale_fmt is ue8m0",
                project.place(CALLER, "self.scale_fmt = 'ue8m0'"),
            ),
            Clause(
                _PAGED,
                lambda case: case.model.quant_group == case.model.head_dim,
                "every key has one scale",
                project.place(FUSED, "assert k_s_cache.dim() == 2"),
            ),
            Clause(
                _PAGED,
                lambda case: case.cache.page_layout == "normal",
                "pages are NORMAL",
                project.place(CALLER, "Raw block layout"),
            ),
            Clause(
                _PAGED,
                _has_kernel_pages,
                "block_size is a power of two, at least 16",
                project.place("lmdeploy/messages.py", "self.kernel_block_size >= 16"),
            ),
            Clause(
                _PAGED,
                lambda case: case.cache.page_pad < _ALIGNMENT,
                f"pages are padded to {_ALIGNMENT} bytes at most",
                project.place(_CACHE if project.has(_CACHE) else _SCHEMA, "alignment: int = 256"),
            ),
            Clause((FUSED_Q, "rope", "q_quant"), lambda case: not case.memory.q_pad, "q is dense", dense),
            Clause(
                (FUSED_Q, "rope", "q_quant"), lambda case: not case.memory.q_head_pad, "the heads of q are dense", dense
            ),
            Clause((FUSED_Q,), lambda case: not case.memory.weights_head_pad, "the weights of heads are dense", caller),
            Clause(_FUSED, lambda case: not case.memory.angles_pad, "the table of angles is dense", caller),
            Clause(_FUSED, lambda case: not case.memory.fused, "q and k are no views of one", caller),
            Clause(_FUSED, lambda case: not case.memory.shift, "tensors start at multiples of 16 bytes", caller),
            Clause(
                _FUSED,
                lambda case: case.memory.far not in ("q", "k", "weights"),
                "the rows of q, k and weights are not 2^31 elements apart",
                caller,
            ),
            Clause(
                ("gather",),
                lambda case: not case.batch.gather_pad,
                "exactly the keys of the requests are gathered",
                project.place(CALLER, "out_size=meta.kv_flatten_size"),
            ),
            Clause(
                _LOGITS,
                lambda case: case.model.num_heads in _HEADS,
                "num_heads is a power of two that fills a tile of tl.dot",
                tile,
            ),
            Clause(
                ("paged_logits",),
                lambda case: case.batch.lens == "1d" or case.batch.next_n == 1,
                "there is one length per request",
                project.place(SCORES, "k_seqlen_ptr + batch_id"),
            ),
            Clause(
                ("prefill_logits",),
                lambda case: case.batch.row_step == 1,
                "a row sees one key more than the row before",
                causal,
            ),
            Clause(("prefill_logits",), lambda case: not case.batch.empty_windows, "a row sees its own key", causal),
            Clause(
                ("topk",),
                lambda case: case.model.index_topk & (case.model.index_topk - 1) == 0,
                "index_topk is a power of two",
                power,
            ),
            *as_callers_do(caller),
        ),
        # The weights of heads are columns of what `wk_weights_proj` makes, which is bf16 (models/deepseek_v32.py).
        dtypes=("head_weights",),
    )


def _has_kernel_pages(case: Case) -> bool:
    return case.cache.block_size >= 16 and case.cache.block_size.bit_count() == 1
