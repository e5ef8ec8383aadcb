"""Judges: one for each stage. From the inputs that a stage was given to what it may have produced, and the checks.

The legal sets and bounds come from the reference; the comparison, and the words, from the checks.
"""

from indexfuzz.stages.judges.activations import q_quant, rope
from indexfuzz.stages.judges.logits import paged_logits, prefill_logits
from indexfuzz.stages.judges.paged_cache import gather, k_quant_cache
from indexfuzz.stages.judges.selection import topk
from indexfuzz.stages.judges.verdict import Verdict

__all__ = ["Verdict", "gather", "k_quant_cache", "paged_logits", "prefill_logits", "q_quant", "rope", "topk"]
