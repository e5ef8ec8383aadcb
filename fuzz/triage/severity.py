"""How much a bug costs the model: the share of the true top-k that a faulty indexer still selects.

A minimal case is too small to say: with one key there is nothing to choose. So the case is grown to hundreds of keys
and the shape of a published model, with everything that triggers the bug kept as it is, and the whole indexer runs
twice: once with the implementation's stages, each fed with what the one before it made, once with the reference's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import outside
from indexfuzz.core.part import CaseError
from indexfuzz.core.presets import PRESETS
from indexfuzz.core.stage_names import PAGED_LOGITS, TOPK
from indexfuzz.devices.base import Device, UnsupportedKernelError
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles.launching import describe_error, launch
from indexfuzz.oracles.walk import accept, materialise_on
from indexfuzz.stages.table import STAGES
from indexfuzz.triage.recall import FEWEST, SHARE, Recall, SeverityError, shared
from indexfuzz.triage.session_severity import grow_session, recall_session

MODEL = "deepseek-v3.2"
KEYS_CACHED, KEYS_WRITTEN = 4096, 512
"""Keys added to each request: where only reading is at stake, and where all of them are written in the step itself."""


def grow(case: Case, stage: str) -> Case:
    """The case with hundreds of keys in each request, nearly Gaussian values, and the heads of a published model.

    What `paged_logits` reads was cached before. For every other stage the requests are prefilled from their first
    token, so that every key is written and gathered in the step. Lengths grow by whole pages.

    A session keeps its steps; `session_severity.py` says how it is grown.

    Raises SeverityError when the case cannot hold more keys, and of sessions as `grow_session`.
    """
    if case.session.steps:
        return grow_session(case)
    block_size, lengths = case.cache.block_size, case.lengths or (1,)
    paged = stage == PAGED_LOGITS or (stage == TOPK and bool(case.batch.decode))
    wanted = KEYS_CACHED if paged else KEYS_WRITTEN
    model = PRESETS[MODEL].model.model_dump(include={"num_heads", "head_dim", "rope_dim", "quant_group"})
    while wanted >= FEWEST:
        more = -(-wanted // block_size) * block_size
        batch: dict[str, object] = {"max_model_len": case.batch.max_model_len + more}
        if paged:
            batch |= {"decode": tuple(length + more for length in lengths[:2]), "prefill": ()}
        else:
            batch |= {"decode": (), "prefill": tuple({"length": n + more, "new": n + more} for n in lengths[:2])}
        values: dict[str, object] = dict.fromkeys(("q", "k", "weights", "cache", "rope"), "normal")
        topk = {"index_topk": (min(lengths[:2]) + more) // SHARE}
        try:
            return case.replace(model=model | topk, batch=batch, values=values | {"set": {}})
        except CaseError:
            wanted //= 2
    raise SeverityError("its cache is too far-flung to hold enough keys for a choice")


def recall(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Recall:
    """Run the whole indexer on a grown case and compare its selections with the reference's.

    `only` names the stages to take from the implementation, all that promise to handle the case when empty.

    Raises SeverityError when no row has more keys than it may select, or the device cannot run the case, and of
    sessions as `recall_session`.
    """
    try:
        if case.session.steps:
            return recall_session(case, implementation, device, only)
        right, undefined = _select(case, {}, device)
        got, failed = _select(case, _within(case, implementation, only), device)
    except UnsupportedKernelError as error:
        raise SeverityError(f"the grown case cannot run here: {error}") from error
    except Exception as error:
        if not device.lacks_memory(error):
            raise
        raise SeverityError(f"{device.name} has not enough memory for the grown case") from error
    if undefined:
        raise SeverityError(f"the reference defines no result of the grown case: {undefined}")
    shares, blind = [], []
    for name, (selected, visible) in right.items():
        choosing = visible > selected.shape[1]
        mine = got[name][0] if name in got else torch.full_like(selected, -2)
        shares.append(shared(selected, mine)[choosing])
        blind.append(selected.shape[1] / visible[choosing].double())
    return Recall.of(case, shares, blind, failed)


def _within(case: Case, implementation: Implementation, only: frozenset[str]) -> Mapping[str, StageFunction]:
    """The stages that promise to handle the case, or those of them that are named."""
    return {
        name: function
        for name, function in implementation.stages.items()
        if (not only or name in only) and outside(implementation.contract, name, case) is None
    }


def _select(
    case: Case, functions: Mapping[str, StageFunction], device: Device
) -> tuple[dict[str, tuple[Tensor, Tensor]], str]:
    """The selections int32 [rows, k] and the number of visible keys int64 [rows], by output; and what was raised."""
    step = materialise_on(case, device)
    selections: dict[str, tuple[Tensor, Tensor]] = {}
    for stage in STAGES:
        if not stage.applies(case):
            continue
        call = stage.prepare(step)
        launched = launch(stage.name, call, functions.get(stage.name, stage.reference), device)
        if launched.error:
            return {}, describe_error(launched.error)
        if stage.name == TOPK:
            ((name, selected),) = launched.outputs.items()
            visible = (call.tensors["logits"] != float("-inf")).sum(1)
            selections[name] = (selected.cpu(), visible.cpu())
        accept(stage, step, call, launched.outputs)
    return selections, ""
