"""Pages that requests own, of keys or of a state: given out again as soon as nobody has them, never cleared."""

from collections import Counter
from collections.abc import Iterable, Sequence


class Pages:
    """Pages in the order in which they are taken first."""

    def __init__(self, free: Sequence[int]) -> None:
        self._free = list(free)[::-1]
        self._owners = Counter[int]()

    def take(self) -> int:
        """A page that nobody has, for one owner."""
        page = self._free.pop()
        self._owners[page] += 1
        return page

    def share(self, pages: Iterable[int]) -> None:
        """Give pages one owner more."""
        self._owners.update(pages)

    def release(self, pages: Sequence[int]) -> None:
        """Give pages one owner less."""
        for page in reversed(pages):
            self._owners[page] -= 1
            if not self._owners[page]:
                self._free.append(page)
