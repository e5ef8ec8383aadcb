"""What the nodes of sessions are given of a token, and how much of their requests has room in the state."""

from dataclasses import dataclass

import torch

from indexfuzz.core.case import Case
from indexfuzz.core.session import Session, follow
from indexfuzz.core.stage_names import FUSED_POOL, POOL


@dataclass(frozen=True)
class Kept:
    """Of a token `width` values and as many scores, of a dtype; of a request the last `rows` tokens.

    Without a `page` each request has a ring of so many rows. With one it has pages of so many tokens, by a table: one
    for each token that it ever had, of which those before the last `rows` ones are given to others again. The first
    `nobodys` rings belong to nobody. Values and scores of a token lie side by side, or `apart`: all values first.
    """

    width: int
    rows: int
    dtype: torch.dtype
    page: int = 0
    nobodys: int = 0
    apart: bool = False

    def gone(self, start: int) -> int:
        """Pages that a request needs no more when it has so many tokens before a step."""
        return max(start - self.rows, 0) // self.page

    def pages(self, session: Session) -> int:
        """Pages that the requests of a session need in the step that needs most."""
        held, most = dict[int, int](), 0
        for step, rows in zip(session.steps, follow(session), strict=True):
            for fork in step.forks:
                held[fork.child] = held[fork.parent]
            for row in rows:
                needed = -(-row.end // self.page) - self.gone(row.start)
                held[row.request] = max(held.get(row.request, 0), needed)
            most = max(most, sum(held.values()))
            for request in step.free:
                del held[request]
        return most


def kept_by(case: Case) -> Kept:
    """What the node of a case's session is given and keeps, where an implementation does not say otherwise.

    A ring has the tokens that a later key may need, and as many as drafts may have to be taken back. A pool needs those
    of a group but its last, a compressor a whole window.
    """
    session, dim = case.session, case.model.head_dim
    if session.node in (POOL, FUSED_POOL):
        return Kept(dim, session.ratio - 1 + session.max_drafts, torch.bfloat16)
    groups = 1 + session.overlap
    return Kept(groups * dim, groups * session.ratio + session.max_drafts, torch.float32)
