"""Contracts as data: a table of clauses, each with the place in a project's own code that it was read from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from indexfuzz.core.case import Case
from indexfuzz.core.case_parts import TILE, Memory
from indexfuzz.core.stage_names import (
    FUSED,
    FUSED_COMPRESS,
    FUSED_K,
    FUSED_POOL,
    FUSED_Q,
    GATHER,
    K_NORM,
    K_QUANT_CACHE,
    PAGED_LOGITS,
    PREFILL_LOGITS,
    Q_QUANT,
    ROPE,
    ROTATE,
    SELECT,
    SLOTS,
)

PAGED = (K_QUANT_CACHE, FUSED_K, FUSED_COMPRESS, FUSED_POOL, GATHER, PAGED_LOGITS)
"""Stages that read or write the scales of keys in pages."""

OF_KEYS = (*PAGED, PREFILL_LOGITS)
"""Stages that read or write the scales of keys."""

ROW_ORDER = ("auto", "normal", "shuffle")
"""Layouts of pages in which the scales of a key lie side by side."""

OF_DTYPES = {
    "indices": ((GATHER, PREFILL_LOGITS, PAGED_LOGITS, SLOTS, SELECT), "tables, lengths, windows and owners are int32"),
    "positions": ((ROPE, FUSED_Q, FUSED_K, SLOTS), "positions are int64"),
    "head_weights": ((Q_QUANT, FUSED_Q), "the weights of heads are fp32"),
    "norm_weights": ((K_NORM, FUSED_K), "weight and bias of the norm are fp32"),
    "activations": ((ROPE, ROTATE, Q_QUANT, K_QUANT_CACHE, K_NORM, FUSED_Q, FUSED_K), "q and k are bf16"),
}
"""Fields of Memory that name a dtype -> operations that take such tensors, and what those do that know no other."""

NORMING = (K_NORM, FUSED_K)
"""Operations that norm keys."""


class Contract(Protocol):
    """What a project promises about its kernels. `contracts.Clauses` makes one from a table.

    A contract may name in `scales` the forms of the scales of keys that it is about, and in `norms` the norms of keys;
    fp32 scales and LayerNorm where it does not. `interleaved` says that it knows the layout of interleaved scales, too.
    `dtypes` are the fields of Memory in `OF_DTYPES` that it leaves free.
    """

    def outside(self, stage: str, case: Case) -> str | None:
        """Why a case lies outside the contract of a stage, in one sentence; None when the stage must handle it."""

    def must_reject(self, stage: str, case: Case) -> bool:
        """Whether a case outside the contract has to raise ValueError rather than be undefined."""


class Unlimited:
    """The contract of code that handles every case."""

    def outside(self, stage: str, case: Case) -> str | None:  # noqa: ARG002
        """Nothing is outside."""
        return None

    def must_reject(self, stage: str, case: Case) -> bool:  # noqa: ARG002
        """Nothing to reject."""
        return False


@dataclass(frozen=True)
class Clause:
    """One promise about some stages: they handle the cases for which `holds` is true.

    `sentence` says what is promised ("block_size is 1 or 64"), `place` where a reader finds it: file, and line or
    function.
    """

    stages: tuple[str, ...]
    holds: Callable[[Case], bool]
    sentence: str
    place: str

    def __str__(self) -> str:
        return f"{self.sentence} ({self.place})"


DEFINED = (
    Clause(
        (K_QUANT_CACHE, FUSED_K, FUSED_COMPRESS, FUSED_POOL, GATHER),
        lambda case: case.has_scales,
        "quant_group is head_dim, or a quarter of it where scales are UE8M0 exponents of powers of two, as in MXFP4",
        "a token has one scale or four, else no result is right",
    ),
    Clause(
        (K_QUANT_CACHE, FUSED_K, GATHER, PAGED_LOGITS),
        lambda case: case.has_layout(case.cache.layout),
        f"SHUFFLE pages are whole tiles of {TILE} tokens by {TILE} bytes, and exponents are interleaved in MXFP4 alone",
        "of others no arrangement is defined",
    ),
    Clause(
        (ROTATE,),
        lambda case: case.model.head_dim & (case.model.head_dim - 1) == 0,
        "head_dim is a power of two",
        "there is a Hadamard matrix of this kind for no other",
    ),
    Clause(
        FUSED,
        lambda case: case.model.scale_fmt == "ue8m0",
        "scale_fmt is ue8m0",
        "what fused operations leave open is known of powers of two alone",
    ),
)
"""Where a result can be right at all, whatever a contract says."""


@dataclass(frozen=True)
class Clauses:
    """The contract of code that checks little: a case outside is undefined, whatever happens to it."""

    clauses: tuple[Clause, ...] = ()
    scales: tuple[str, ...] = ("fp32",)
    interleaved: bool = False
    norms: tuple[str, ...] = ("layer",)
    dtypes: tuple[str, ...] = ()

    def broken(self, stage: str, case: Case) -> list[str]:
        """All clauses that a case breaks, with their places."""
        return [str(clause) for clause in self.clauses if stage in clause.stages and not clause.holds(case)]

    def outside(self, stage: str, case: Case) -> str | None:
        """The first clause that a case breaks, with its place."""
        return next(iter(self.broken(stage, case)), None)

    def must_reject(self, stage: str, case: Case) -> bool:  # noqa: ARG002
        """Never: nobody promises to check."""
        return False


@dataclass(frozen=True)
class Checked(Clauses):
    """The contract of code that promises to reject with ValueError whatever it does not handle."""

    def must_reject(self, stage: str, case: Case) -> bool:
        """A launcher that accepts what it cannot do is a bug."""
        return self.outside(stage, case) is not None


@dataclass(frozen=True)
class Lifted:
    """Another contract, lifted: no case is outside, and `broken` remembers why it would have been.

    What has to be rejected still has to be.
    """

    contract: Contract

    def outside(self, stage: str, case: Case) -> str | None:
        """Only what has to be rejected."""
        return self.contract.outside(stage, case) if self.must_reject(stage, case) else None

    def must_reject(self, stage: str, case: Case) -> bool:
        """As the contract says."""
        return self.contract.must_reject(stage, case)

    def broken(self, stage: str, case: Case) -> str:
        """The clauses that a case breaks although it runs; empty where it breaks none."""
        if self.must_reject(stage, case):
            return ""
        if isinstance(self.contract, Clauses) and (broken := self.contract.broken(stage, case)):
            return "; ".join(broken)
        return outside(self.contract, stage, case) or ""

    def clauses_of(self, stage: str) -> list[str]:
        """What a case may break of a stage; empty where that has to be rejected, or the contract is no table."""
        if not isinstance(self.contract, Clauses) or isinstance(self.contract, Checked):
            return []
        return [str(clause) for clause in self.contract.clauses if stage in clause.stages]


def outside(contract: Contract, stage: str, case: Case) -> str | None:
    """Why nothing is known of a stage and a case, in one sentence: the contract says so, or no result is right.

    None where the stage must handle it, or the contract is lifted.
    """
    said = next(of_other_forms(contract, stage, case), None) or contract.outside(stage, case)
    return said if said or isinstance(contract, Lifted) else Clauses(DEFINED).outside(stage, case)


class Form(NamedTuple):
    """What a stage is asked for alone, in one sentence: a field of a part of the case has one of some values."""

    sentence: str
    part: str
    field: str
    values: tuple[str, ...]


def forms_of(contract: Contract, stage: str) -> Iterator[Form]:
    """The scales of keys, the norm and the dtypes that a stage knows, by its contract, lifted or not."""
    promised = contract.contract if isinstance(contract, Lifted) else contract
    if stage in OF_KEYS:
        scales: tuple[str, ...] = getattr(promised, "scales", ("fp32",))
        yield Form(f"the scales of keys are {' or '.join(scales)}", "cache", "scales", scales)
        if stage in PAGED and "mxfp4" in scales and not getattr(promised, "interleaved", False):
            yield Form("the scales of a key lie side by side", "cache", "layout", ROW_ORDER)
    if stage in NORMING:
        norms: tuple[str, ...] = getattr(promised, "norms", ("layer",))
        yield Form(f"the norm of keys is {' or '.join(norms)}", "model", "k_norm", norms)
    free: tuple[str, ...] = getattr(promised, "dtypes", ())
    for name, (stages, sentence) in OF_DTYPES.items():
        if stage in stages and name not in free:
            yield Form(sentence, "memory", name, (Memory.model_fields[name].default,))


def of_other_forms(contract: Contract, stage: str, case: Case) -> Iterator[str]:
    """Why a stage cannot even be asked: it knows no such scales of keys, norm or dtype, lifted or not."""
    for sentence, part, field, values in forms_of(contract, stage):
        value = getattr(getattr(case, part), field)
        if value not in values:
            yield f"{sentence}, not {value}"


def covers(contract: Contract, stage: str, case: Case) -> bool:
    """Whether a contract, lifted or not, says that a stage handles a case."""
    return outside(contract, stage, case) is None and not beyond(contract, stage, case)


def beyond(contract: Contract, stage: str, case: Case) -> str:
    """What a case that runs breaks of a contract: something only where the contract is lifted."""
    return contract.broken(stage, case) if isinstance(contract, Lifted) else ""
