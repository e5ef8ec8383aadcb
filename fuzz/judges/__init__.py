"""Judges: one for each stage. From the inputs that a stage was given to what it may have produced, and the checks.

The legal sets and bounds come from the reference; the comparison, and the words, from the checks.
"""

from indexfuzz.judges.activations import q_quant, rope
from indexfuzz.judges.logits import paged_logits, prefill_logits
from indexfuzz.judges.paged_cache import gather, k_quant_cache
from indexfuzz.judges.selection import topk
from indexfuzz.judges.verdict import Verdict

__all__ = ["Verdict", "gather", "k_quant_cache", "paged_logits", "prefill_logits", "q_quant", "rope", "topk"]
