"""What the model and the scheduler of GLM-5.3-Flash promise to vLLM's key pooling, and where they do."""

from dataclasses import dataclass, replace

from indexfuzz.core.case import Case
from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.core.session import follow
from indexfuzz.core.stage_names import FUSED_POOL
from indexfuzz.implementations.callers import drafts_follow_one_token, step_is_near
from indexfuzz.implementations.loading.source import Project
from indexfuzz.implementations.vllm.v4 import METADATA
from indexfuzz.samples.kept import Kept, kept_by

FOLDER = "vllm/models/glm5next"
MODEL = f"{FOLDER}/common/attention.py"
_SCHEDULER = "vllm/v1/core/sched/scheduler.py"
_CONFIG = "vllm/model_executor/models/config.py"

HEAD_DIM, RATIO, PAGES = 128, 4, (32, 64)
"""Of the indexer of GLM-5.3-Flash: dims of a key, tokens to a key, keys of a page of the cache."""

NULL_BLOCKS = 1
"""Blocks of the rings that belong to nobody."""


@dataclass(frozen=True)
class Served:
    """How vLLM is run: with prefix caching, chunks start at blocks; on SM90, requests that decode are alike.

    On SM100 the scale of a key is four equal exponents.
    """

    chunks_are_aligned: bool = True
    is_sm90: bool = False
    is_sm100: bool = False


BY_DEFAULT = Served()

SCALES = "vllm/utils/deep_gemm.py"
"""The file that says which scales the logits take."""


def reach(project: Project) -> tuple[str, ...]:
    """By which lines of a release a model comes to these kernels, and on which hardware."""
    called = project.place(MODEL, "class Indexer(", "return self.indexer_op(")
    return (
        f"reached by GLM-5.3-Flash on NVIDIA and AMD: called at {called}",
        "shuffled pages stand for AMD, e4m3fnuz for gfx942, pages in token order for NVIDIA",
    )


def conditions(project: Project, served: Served) -> tuple[str, ...]:
    """When vLLM is run in another way than by default."""
    split = project.place(METADATA, "require_uniform=not (self.use_flattening")
    uncached = project.place(_CONFIG, "class MambaModelConfig(", 'cache_config.mamba_cache_mode = "none"')
    return (
        *((f"served with --no-enable-prefix-caching: {uncached}",) if not served.chunks_are_aligned else ()),
        *((f"split as on SM90, with one or three drafts: {split}",) if served.is_sm90 else ()),
        f"scales are four UE8M0 bytes, as on SM100 ({project.place(SCALES, 'def mqa_logits_use_mx_scales(')})"
        if served.is_sm100
        else "scales are fp32, as on all GPUs but SM100",
    )


def kept(case: Case) -> Kept:
    """The ring of a request: groups in a number that is a power of two, with room for drafts; and the null block."""
    own, ratio = kept_by(case), case.session.ratio
    groups = -(-(ratio + case.session.max_drafts) // ratio)
    return replace(own, rows=ratio << (groups - 1).bit_length(), nobodys=NULL_BLOCKS)


def most_drafts(ring: int, ratio: int) -> int:
    """The most drafts of an engine that has rings of so many rows, but one where there are any."""
    return max(ring - ratio - 1, 0)


def contract(project: Project, served: Served) -> Clauses:
    """What the indexer of GLM-5.3-Flash hands to its pooling, and what the scheduler hands to that."""
    fused = (FUSED_POOL,)
    split = project.place(_SCHEDULER, "def _mamba_block_aligned_split(", "aligned_end = end // block_size * block_size")
    verified = project.place(_SCHEDULER, "def schedule(", "scheduled_spec_decode_tokens[request.request_id] =")
    ring = project.place(MODEL, "class Glm5NextTailCache(", "span = self._index_kpool +")
    aligned = Clause(
        fused,
        starts_at_groups,
        "chunks start where groups do, as long as prefixes are cached",
        split,
    )
    split_on_sm90 = project.place(METADATA, "def _supports_native_decode(", "return native_next_n_supported(next_n)")
    gpu = "SM100" if served.is_sm100 else "SM90"
    there = project.place(SCALES, "def mqa_logits_use_mx_scales(") if served.is_sm100 else split_on_sm90
    of_one_gpu = (
        Clause(fused, lambda case: case.model.fp8 == "e4m3fn", f"the format of {gpu} is e4m3fn", there),
        Clause(fused, lambda case: case.cache.page_layout == "normal", f"{gpu} has pages in token order", there),
    )
    uncached = project.place(_CONFIG, "class MambaModelConfig(", 'cache_config.mamba_cache_mode = "none"')
    return Clauses(
        (
            Clause(
                fused,
                lambda case: case.model.head_dim == HEAD_DIM,
                f"head_dim is {HEAD_DIM}",
                project.place(MODEL, "assert self.head_dim == 128"),
            ),
            Clause(
                fused,
                lambda case: case.model.quant_group == case.model.head_dim,
                "one scale per key",
                project.place(MODEL, "self.quant_block_size == 128"),
            ),
            Clause(
                fused, lambda case: case.session.ratio == RATIO, f"ratio is {RATIO}", "index_kpool of GLM-5.3-Flash"
            ),
            step_is_near(fused, project.place(MODEL, "class Indexer(", "return self.indexer_op(")),
            Clause(
                fused,
                lambda case: case.session.pooling == "softmax",
                "keys are pooled by a softmax",
                project.place(MODEL, "gate_score=gate_score,"),
            ),
            Clause(
                fused,
                lambda case: case.model.scale_fmt == "ue8m0",
                "scales are powers of two",
                project.place(MODEL, 'assert self.scale_fmt == "ue8m0"'),
            ),
            Clause(
                fused,
                lambda case: case.cache.block_size in PAGES,
                "a page has 32 or 64 keys",
                project.place(METADATA, "class Glm5NextIndexerBackend", "for n in get_paged_mqa_page_sizes()"),
            ),
            Clause(
                fused,
                lambda case: case.model.fp8 == "e4m3fn" or case.cache.page_layout == "shuffle",
                "pages in token order are those of NVIDIA, whose format is e4m3fn",
                project.place(f"{FOLDER}/amd/ops/kpool_compress.py", "PRESHUFFLE=page_size > 1"),
            ),
            Clause(
                fused,
                lambda case: drafts_follow_one_token(case.session),
                "drafts follow one token, when the prompt is there",
                verified,
            ),
            Clause(
                fused,
                lambda case: case.session.max_drafts <= most_drafts(kept(case).rows, case.session.ratio),
                "a ring has room for all drafts",
                ring,
            ),
            aligned if served.chunks_are_aligned else replace(aligned, holds=lambda _: True, place=uncached),
            *(of_one_gpu if served.is_sm90 or served.is_sm100 else ()),
        ),
        scales=("ue8m0",) if served.is_sm100 else ("fp32",),
    )


def starts_at_groups(case: Case) -> bool:
    """Whether every turn that has more tokens than one of decode starts where a group does."""
    session = case.session
    if session.node != FUSED_POOL:
        return True
    most = 1 + most_drafts(kept(case).rows, session.ratio)
    rows = (row for step in follow(session) for row in step)
    return all(row.tokens <= most or row.start % session.ratio == 0 for row in rows)
