"""Quantisation of k and its insertion into the paged cache."""

from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import layout as page_layout
from indexfuzz.reference.quant import quantise, row_scale


def k_quant_cache(
    k: Tensor,
    cache: Tensor,
    slot_mapping: Tensor,
    *,
    scale_fmt: str,
    fp8: str,
    quant_group: int,
    layout: str,
) -> None:
    """Quantise k [T, D] bf16 per token and write it into ``cache`` at ``slot_mapping`` [<= T].

    A slot is block * block_size + offset. Negative slots are padding and are skipped; tokens beyond the slot mapping
    are not stored. Every other byte of the cache stays.
    """
    if quant_group != k.shape[1]:
        raise ValueError(f"one scale per token: quant_group must equal head_dim {k.shape[1]}, got {quant_group}")
    kept = slot_mapping >= 0
    rows = k[: slot_mapping.shape[0]][kept]
    scale = row_scale(rows, scale_fmt=scale_fmt, fp8=fp8)
    values = codec.codes(quantise(rows, scale, fp8=fp8))
    page_layout.write_tokens(cache, slot_mapping[kept], values, scale, page_layout.resolve(layout, cache.shape[1]))
