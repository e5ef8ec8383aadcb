"""The cases whose launches are compiled: shapes of published models, some that are drawn, and sessions."""

from collections.abc import Iterable, Iterator
from itertools import product

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.core.presets import PRESETS, Preset
from indexfuzz.core.stage_names import STATEFUL
from indexfuzz.generation.narrowing import narrow
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.strategies import cases
from indexfuzz.generation.stream import draw
from indexfuzz.implementations.base import Implementation
from indexfuzz.reference.layout import CONCRETE

BATCH = {"decode": (70, 70), "prefill": ({"length": 70, "new": 16},), "max_model_len": 128}
"""Enough rows for the widest tile that a launcher takes."""

SEED = 0

SESSIONS = 4
"""Of each stateful operation; they are drawn, as no published shape says all of them."""


def cases_for(
    implementation: Implementation, fp8: str, presets: Iterable[Preset] = tuple(PRESETS.values()), drawn: int = 0
) -> Iterator[Case]:
    """Cases in an FP8 format inside the contract of an implementation: those of published models, and so many drawn."""
    forms = getattr(implementation.contract, "scales", ("fp32",))
    every = [*_published(presets, fp8, forms), *(draw(cases(formats=(fp8,)), SEED, drawn) if drawn else ())]
    for node in STATEFUL:
        if node in implementation.stages:
            every += draw(sessions((node,), formats=(fp8,)), SEED, SESSIONS)
    narrowed = (narrow(case, implementation) for case in every)
    yield from {case.id: case for case in narrowed}.values()


def _published(presets: Iterable[Preset], fp8: str, forms: tuple[str, ...]) -> Iterator[Case]:
    """Presets in each of its block sizes, layouts and forms of scales, with and without a draft."""
    for preset in presets:
        for block_size, form, layout, next_n in product(preset.block_sizes, forms, CONCRETE, (1, 2)):
            if (layout != "normal" and block_size == 1) or (layout == "shuffle-scales" and form != "mxfp4"):
                continue
            groups = 1 if form == "fp32" else 4
            model = preset.model.model_dump() | {"fp8": fp8, "quant_group": preset.model.head_dim // groups}
            try:
                yield Case().replace(
                    model=model,
                    cache={"block_size": block_size, "layout": layout, "scales": form},
                    rope={"style": preset.style, "placement": preset.placement},
                    batch={**BATCH, "next_n": next_n},
                )
            except CaseError:
                continue
