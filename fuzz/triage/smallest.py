"""The smallest case so far, and what may take its place."""

from collections.abc import Callable, Iterable
from typing import Any

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import Prefill
from indexfuzz.core.part import CaseError
from indexfuzz.triage.order import is_smaller

Request = int | Prefill
"""A decode request, which is its length, or a prefill request."""


class Smallest:
    """The smallest case so far that `shows` said yes to; it is asked about a case once."""

    def __init__(self, case: Case, shows: Callable[[Case], bool]) -> None:
        self.case = case
        self._shows = shows
        self._tried = {case.id}

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests of the case, decode requests first."""
        return (*self.case.batch.decode, *self.case.batch.prefill)

    def take(self, **parts: dict[str, Any]) -> bool:
        """Change fields of parts of the case, if that makes it smaller and it shows the bug still."""
        try:
            candidate = self.case.replace(**parts)
        except CaseError:
            return False
        return self.take_case(candidate)

    def take_case(self, candidate: Case) -> bool:
        """Go on with another case, if that is smaller and shows the bug still."""
        if candidate.id in self._tried or not is_smaller(candidate, self.case):
            return False
        self._tried.add(candidate.id)
        if self._shows(candidate):
            self.case = candidate
            return True
        return False

    def take_requests(self, requests: Iterable[Request], *, keep_pool: bool = False) -> bool:
        """Go on with other requests, in a pool of fewer pages or in one of as many."""
        requests = list(requests)
        batch: dict[str, object] = {
            "decode": tuple(r for r in requests if isinstance(r, int)),
            "prefill": tuple(r.model_dump() for r in requests if isinstance(r, Prefill)),
        }
        pages = self.case.num_blocks
        try:
            candidate = self.case.replace(batch=batch)
            if keep_pool:
                spare = candidate.cache.spare_blocks + max(pages - candidate.num_blocks, 0)
                candidate = candidate.replace(cache={"spare_blocks": spare})
        except CaseError:
            return False
        return self.take_case(candidate)
