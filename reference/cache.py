"""Quantisation of k and its insertion into the paged cache."""

from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import layout as page_layout
from indexfuzz.reference.quant import quantise, row_scale
from indexfuzz.reference.scales import ScaleFormat


def k_quant_cache(
    k: Tensor,
    cache: Tensor,
    slot_mapping: Tensor,
    *,
    scale_fmt: str,
    fp8: str,
    quant_group: int,
    layout: str,
    scales: str = "fp32",
) -> None:
    """Quantise k [T, D] per token and write it into ``cache`` at ``slot_mapping`` [<= T].

    With scales "mxfp4" a token has D / 2 bytes of values.

    A slot is block * block_size + offset. Negative slots are padding and are skipped; tokens beyond the slot mapping
    are not stored. Every other byte of the cache stays.

    Raises ValueError as `ScaleFormat.of` does, and for UE8M0 scales unless scale_fmt is "ue8m0".
    """
    form = ScaleFormat.of(scales, quant_group, k.shape[1])
    if scales != "fp32" and scale_fmt != "ue8m0":
        raise ValueError(f'UE8M0 scales need scale_fmt "ue8m0", got "{scale_fmt}"')
    kept = slot_mapping >= 0
    rows = k[: slot_mapping.shape[0]][kept]
    groups = form.grouped(rows)
    fmt = form.quantised(fp8)
    scale = row_scale(groups, scale_fmt=scale_fmt, fp8=fmt)
    values = form.write(codec.codes(quantise(groups, scale, fp8=fmt)).view(rows.shape))
    concrete = page_layout.resolve(layout, cache.shape[1])
    page_layout.write_tokens(cache, slot_mapping[kept], values, form.store(scale), concrete)
