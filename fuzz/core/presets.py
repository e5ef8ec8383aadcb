"""The indexers of published models, by name."""

from dataclasses import dataclass
from typing import Literal

from indexfuzz.core.case_parts import Model


@dataclass(frozen=True)
class Preset:
    """What a model fixes; everything else of a case stays free."""

    title: str
    model: Model
    style: Literal["neox", "interleaved"]
    placement: Literal["first", "last"]
    block_sizes: tuple[int, ...]
    source: str


def _model(num_heads: int, index_topk: int) -> Model:
    return Model(num_heads=num_heads, head_dim=128, rope_dim=64, quant_group=128, index_topk=index_topk)


PRESETS = {
    "deepseek-v3.2": Preset(
        "DeepSeek-V3.2", _model(64, 2048), "neox", "first", (64, 1, 16), "public configuration; vLLM deepseek_v2.py"
    ),
    "deepseek-v4": Preset(
        "DeepSeek-V4",
        _model(64, 512),
        "neox",
        "last",
        (64, 1, 16),
        "SGLang configs/deepseek_v4.py; keys are compressed tokens, ratio 4",
    ),
    "glm-5": Preset(
        "GLM-5", _model(32, 2048), "interleaved", "first", (64, 1, 16), "public configuration: indexer_rope_interleave"
    ),
}
