"""Quantised rows: the scale must be one of the legal ones, and every code legal under the scale that was used."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.finding import Finding, complaint

CodesUnder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Scales fp32 [n] -> the one or two legal codes of every element, uint8 [n, D] each."""


def rows(
    values: str,
    scales: str,
    got_codes: Tensor,
    got_scales: Tensor,
    allowed: Tensor,
    codes_under: CodesUnder,
    *,
    fp8: torch.dtype,
    row: str = "token",
    names: Sequence[int] | None = None,
) -> Finding | None:
    """Judge n quantised rows with observed scales; ``values`` and ``scales`` name the two outputs.

    got_codes uint8 [n, D], got_scales fp32 [n], ``allowed`` fp32 [n, m] the legal scales. The codes are judged under
    the observed scale where it is legal. ``names`` gives each row's number in the words of the caller, where that is
    not its index.
    """
    scale_ok = legal_scale(got_scales, allowed)
    number = list(names) if names is not None else list(range(len(got_scales)))
    if not bool(scale_ok.all()):
        return _wrong_scale(scales, got_scales, allowed, ~scale_ok, number, row)
    low, high = codes_under(got_scales)
    wrong = _neither(got_codes, low, high)
    if not bool(wrong.any()):
        return None
    return wrong_codes(values, got_codes, low, high, wrong, fp8=fp8, axes=(row, "dim"), names=(number, None))


def _neither(got: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Which codes are neither of the two legal ones, which may be one and the same tensor."""
    wrong = got != low
    return wrong if high is low else wrong & (got != high)


def legal_scale(got: Tensor, allowed: Tensor) -> Tensor:
    """Which scales [n] are, bit for bit, among the allowed ones [n, m]."""
    return (describe.bits(got).unsqueeze(-1) == describe.bits(allowed)).any(-1)


def _wrong_scale(output: str, got: Tensor, allowed: Tensor, wrong: Tensor, number: Sequence[int], row: str) -> Finding:
    i = int(wrong.nonzero()[0])
    want = " or ".join(sorted({describe.text(s) for s in allowed[i]}))
    words = describe.summary(got, allowed[:, 0], wrong, (row,))
    detail = f"the scale of {row} {number[i]} is {describe.text(got[i])}, must be {want}; {words}"
    return complaint("code-mismatch", output, detail, (number[i],), describe.text(got[i]), want)


def wrong_codes(
    output: str,
    got: Tensor,
    low: Tensor,
    high: Tensor,
    wrong: Tensor,
    *,
    fp8: torch.dtype,
    axes: Sequence[str],
    names: Sequence[Sequence[int] | None],
) -> Finding:
    """What is wrong with codes uint8 with ``wrong`` elements, none of which is ``low`` or ``high``."""
    index = describe.first(wrong)
    spoken = tuple(n[i] if n is not None else i for n, i in zip(names, index, strict=True))
    want = code_text(low[index], fp8)
    if int(low[index]) != int(high[index]):
        want = f"{want} or {code_text(high[index], fp8)}"
    seen = code_text(got[index], fp8)
    words = describe.summary(got.view(fp8).float(), low.view(fp8).float(), wrong, axes)
    detail = f"{describe.place(spoken, axes)} is {seen}, must be {want}; {words}"
    return complaint("code-mismatch", output, detail, spoken, seen, want)


def code_text(code: Tensor, fp8: torch.dtype) -> str:
    """A code with its value, such as ``0x7e (448)``."""
    return f"0x{int(code):02x} ({float(code.reshape(1).view(fp8).float()):g})"


def folded(
    got_codes: Tensor,
    got_weights: Tensor,
    scales: Tensor,
    codes_under: CodesUnder,
    weights_under: CodesUnder,
    *,
    fp8: torch.dtype,
    values: str = "q_fp8",
    weights: str = "q_weights",
) -> Finding | None:
    """Judge quantised rows whose scale shows only in the weight that it was multiplied into.

    got_codes uint8 [T, H, D], got_weights fp32 [T, H], ``scales`` fp32 [T, H, m] the legal scales. ``weights_under``
    gives the smallest and largest legal weight (fp64) of every row under a scale. A row is right if one legal scale
    explains its codes and its weight.
    """
    axes = ("token", "head", "dim")
    explained = torch.zeros_like(got_weights, dtype=torch.bool)
    trials = []
    for scale in scales.unbind(-1):
        low, high = codes_under(scale)
        wrong = _neither(got_codes, low, high)
        smallest, largest = weights_under(scale)
        weight_ok = (got_weights >= smallest) & (got_weights <= largest)
        explained |= weight_ok & ~wrong.any(-1)
        if bool(explained.all()):
            return None
        trials.append((low, high, wrong, smallest, largest, weight_ok))
    # Blame by the scale that leaves fewest rows unexplained.
    _, chosen = min((int((~ok | wrong.any(-1)).sum()), i) for i, (_, _, wrong, _, _, ok) in enumerate(trials))
    low, high, wrong, smallest, largest, weight_ok = trials[chosen]
    codes_wrong = wrong & ~explained.unsqueeze(-1)
    if bool(codes_wrong.any()):
        return wrong_codes(values, got_codes, low, high, codes_wrong, fp8=fp8, axes=axes, names=(None, None, None))
    bad = ~weight_ok & ~explained
    index = describe.first(bad)
    want = f"in [{float(smallest[index]):.9g}, {float(largest[index]):.9g}]"
    words = describe.summary(got_weights, (smallest + largest) / 2, bad, axes[:2])
    seen = describe.text(got_weights[index])
    detail = f"the folded weight of {describe.place(index, axes[:2])} is {seen}, must be {want}; {words}"
    return complaint("bound-exceeded", weights, detail, index, seen, want)
