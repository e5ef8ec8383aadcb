"""What the nodes of sessions are given of a token, and how many tokens a request's ring has room for."""

from dataclasses import dataclass

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import POOL


@dataclass(frozen=True)
class Kept:
    """Of a token `width` values and as many scores, of a dtype; of a request the last `rows` tokens."""

    width: int
    rows: int
    dtype: torch.dtype


def kept_by(case: Case) -> Kept:
    """What the node of a case's session is given and keeps.

    A ring has the tokens that a later key may need, and as many as drafts may have to be taken back. A pool needs those
    of a group but its last, a compressor a whole window.
    """
    session, dim = case.session, case.model.head_dim
    if session.node == POOL:
        return Kept(dim, session.ratio - 1 + session.max_drafts, torch.bfloat16)
    groups = 1 + session.overlap
    return Kept(groups * dim, groups * session.ratio + session.max_drafts, torch.float32)
