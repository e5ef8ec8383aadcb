"""Tensors of a step that are made when somebody asks for them: who needs a few of them need not wait for all."""

from collections.abc import Callable, Mapping
from functools import cache, partial

from torch import Tensor

from indexfuzz.samples.places import OF_PAGES, OF_REQUESTS
from indexfuzz.samples.requests import page_tables
from indexfuzz.samples.step import Step

Makers = Mapping[tuple[str, ...], Callable[[], object]]
"""What puts tensors of these names into a step."""


class Lazy(dict[str, Tensor]):
    """Tensors by name; one that is missing is made, with those that are made together."""

    def __init__(self, makers: Makers) -> None:
        super().__init__()
        self._makers = {name: make for names, make in makers.items() for name in names}

    def __missing__(self, name: str) -> Tensor:
        self._makers[name]()
        return self[name]


def making_indices(step: Step) -> Makers:
    """What makes every input that says where something is."""
    tables = cache(lambda: page_tables(step.case, step.key("pages")))
    of_pages = {names: lambda place=place: place(step, tables()) for names, place in OF_PAGES.items()}
    return of_pages | {names: partial(place, step) for names, place in OF_REQUESTS.items()}
