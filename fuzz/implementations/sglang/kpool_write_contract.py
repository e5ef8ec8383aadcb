"""What the callers of GLM-5.3-Flash promise to SGLang's key pooling, and where they do."""

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.session import Session
from indexfuzz.core.stage_names import FUSED_POOL
from indexfuzz.implementations.callers import drafts_follow_one_token, step_is_near
from indexfuzz.implementations.loading.source import Project
from indexfuzz.implementations.sglang.contract import HEAD_DIM, KPOOL_BLOCK_SIZE, KPOOL_FILE

_BACKEND = "sglang/srt/layers/attention/dsa/dsa_backend_kpool.py"
MODEL = "sglang/srt/models/deepseek_v2.py"

RATIO = 4
"""Tokens to a key of GLM-5.3-Flash."""


def contract(project: Project) -> Clauses:
    """What the indexer that pools keys hands to the kernels that make them."""
    pooled = (FUSED_POOL,)
    dense = project.place(KPOOL_FILE, "def kpool_decode_update_and_maybe_write_cache(", "assert tail_k.is_contiguous()")
    verified = project.place(_BACKEND, "is_target_verify()", "num_draft_tokens=self.speculative_num_draft_tokens")
    return Clauses(
        (
            Clause(
                pooled,
                lambda case: case.model.fp8 == "e4m3fn",
                "keys are e4m3fn",
                project.place(KPOOL_FILE, "buf_fp8 = buf.view(torch.float8_e4m3fn)"),
            ),
            Clause(
                pooled,
                lambda case: case.model.head_dim == HEAD_DIM,
                f"head_dim is {HEAD_DIM}",
                project.place(KPOOL_FILE, "INDEX_HEAD_DIM = 128"),
            ),
            Clause(
                pooled,
                lambda case: case.model.quant_group == HEAD_DIM,
                "every key has one scale",
                project.place(KPOOL_FILE, "absmax = tl.max(tl.abs(x), axis=0)"),
            ),
            Clause(
                pooled,
                lambda case: case.model.scale_fmt == "ue8m0",
                "scales are powers of two",
                project.place(MODEL, 'scale_fmt="ue8m0"'),
            ),
            Clause(
                pooled,
                lambda case: case.session.pooling == "softmax",
                "keys are pooled by a softmax",
                project.place(KPOOL_FILE, "prob = tl.exp(score - max_score)"),
            ),
            Clause(
                pooled,
                lambda case: case.session.ratio == RATIO,
                f"ratio is {RATIO}",
                "index_kpool of GLM-5.3-Flash",
            ),
            Clause(
                pooled,
                lambda case: case.cache.block_size == KPOOL_BLOCK_SIZE,
                f"block_size is {KPOOL_BLOCK_SIZE}",
                project.place(KPOOL_FILE, "assert pool.index_page_size == BLOCK_SIZE_K"),
            ),
            step_is_near(pooled, project.place(MODEL, "IndexerKPool if get_dsa_index_kpool(config) > 1")),
            Clause(
                pooled,
                lambda case: not case.cache.page_pad and case.memory.far != "state",
                "the cache and the rings are dense",
                dense,
            ),
            Clause(
                pooled,
                lambda case: verifies(case.session),
                "drafts follow one token, when the prompt is there, and are as many each time",
                verified,
            ),
        )
    )


def verifies(session: Session) -> bool:
    """Whether every turn that drafts appends one token before, of a request that has tokens, and drafts as many."""
    turns = (turn for step in session.steps for turn in step.turns)
    return drafts_follow_one_token(session) and all(turn.drafts in (0, session.max_drafts) for turn in turns)
