"""Launch a stage, and right after it the same call with other contents: nothing may be kept of the launch before.

A launcher that remembers a table, a plan or a buffer by address or shape is right as long as it is asked once. The
contents of the second launch lie where those of the first lay, in tensors of the same form.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.checks import memory
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Promises
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.rng import derive
from indexfuzz.core.tracebacks import location_of
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles.launching import Launched, describe_error, launch, launch_in, name_of
from indexfuzz.oracles.walk import function_for, launches
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage

KIND = "state-kept"

FURTHER = 3
"""Contents that the launch before must explain as well, where what is wrong does not hang on memory."""


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Launch every stage of an implementation, and then with other contents.

    The second result is judged by the reference, as any is; where it is wrong, the launch before must explain it, and
    not by chance. A stage that is wrong by itself is left to `differential.run`. Raises UnsupportedKernelError when the
    device cannot execute a kernel or has not the FP8 format.
    """
    outcome = Outcome(case)
    other = with_other_contents(case)
    for (stage, step, call), (_, _, new) in zip(launches(case, device), launches(other, device), strict=True):
        function = function_for(stage.name, case, implementation, only)
        if function is None or not _have_one_form(call, new):
            continue
        trial = Trial(stage, step, call, new, function, device)
        if trial.before.error:
            continue
        outcome.stages.append(stage.name)
        found = trial.examine(other, implementation.promises)
        outcome.findings += [found] if found else []
    return outcome


def with_other_contents(case: Case) -> Case:
    """A case whose tensors have the same forms: other values, and its requests the other way round."""
    batch: dict[str, object] = {"decode": case.batch.decode[::-1], "prefill": case.batch.prefill[::-1]}
    return _with_other_values(case).replace(batch=batch)


def _with_other_values(case: Case) -> Case:
    return case.replace(values={"seed": derive(case.values.seed, "other contents")})


def _have_one_form(one: Call, other: Call) -> bool:
    """Whether two calls differ in nothing but contents."""
    pairs = [(tensor, other.tensors[name]) for name, tensor in one.tensors.items()]
    return one.options == other.options and all(a.shape == b.shape and a.stride() == b.stride() for a, b in pairs)


def _is_uniform(tensor: Tensor) -> bool:
    """Whether all elements are one value: who takes no notice of such a tensor looks as if he remembered it."""
    values = tensor.double().reshape(-1)
    return bool((values == values[:1]).all() and (values.numel() > 1 or not values.any()))


def _same_outputs(one: Launched, other: Launched) -> bool:
    return all(memory.same(tensor, other.outputs[name]) for name, tensor in one.outputs.items())


def _without_numbers(launched: Launched) -> Launched:
    """The same with NaN in the place of all numbers."""
    outputs = {
        name: torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor
        for name, tensor in launched.outputs.items()
    }
    return replace(launched, outputs=outputs)


class Trial:
    """A launch, and those after it that take other contents at the same place."""

    def __init__(
        self, stage: Stage, step: Step, call: Call, new: Call, function: StageFunction, device: Device
    ) -> None:
        self._stage = stage
        self._step = step
        self._call = call
        self._new = new
        self._function = function
        self._device = device
        self._old = {name: tensor.clone() for name, tensor in call.tensors.items()}
        self.before = launch_in(step, stage.name, call, function, device)

    def examine(self, case: Case, promises: Promises) -> Finding | None:
        """What is wrong with the launch of the new contents, which `case` describes, because of the one before."""
        after = self._launch_anew(self._new)
        if after.error:
            return self._explain_error(after.error)
        wrong = self._judge(case, self._new, after, promises)
        kept = self._find_kept(case, after, promises) if wrong else ""
        if wrong is None or not kept:
            return None
        detail = f"right after a launch with other contents, {wrong.detail}; {kept}"
        return replace(wrong, stage=self._stage.name, kind=KIND, detail=detail)

    def _launch_anew(self, new: Call) -> Launched:
        """Launch with new contents where the old ones are; they are there again afterwards."""
        for name, tensor in self._call.tensors.items():
            tensor.copy_(new.tensors[name])
        try:
            launched = launch(self._stage.name, self._call, self._function, self._device)
            return replace(launched, outputs=launched.copies())
        finally:
            for name, tensor in self._call.tensors.items():
                tensor.copy_(self._old[name])
            for buffer in self._step.buffers.values():
                buffer.restore()

    def _judge(self, case: Case, given: Call, got: Launched, promises: Promises) -> Finding | None:
        verdict = self._stage.judge(case, given, got.outputs, got.guarantees(promises))
        return next(iter(verdict.findings), None)

    def _find_kept(self, case: Case, after: Launched, promises: Promises) -> str:
        """What of the launch before explains a wrong result; empty where nothing does."""
        stale = [
            name
            for name, tensor in self._old.items()
            if name not in self._call.undefined and not memory.same(tensor, self._new.tensors[name])
        ]
        telling = [name for name in stale if not _is_uniform(self._old[name])]
        for names in (*((name,) for name in telling), tuple(stale)):
            if self._explains(names, case, self._new, after, promises):
                by_chance = self._comes_anywhere(after) and not self._explains_more(names, case, promises)
                return "" if by_chance else f"it is right for {' and '.join(names)} of the launch before"
        again = self._launch_anew(self._new)
        if again.error or not _same_outputs(after, again):
            return "the same launch once more gives something else"
        return ""

    def _explains(self, names: Sequence[str], case: Case, new: Call, after: Launched, promises: Promises) -> bool:
        """Whether a result is right for some contents of the launch before, beside new ones."""
        mixed = new.with_tensors({name: self._old[name] for name in names})
        return self._judge(case, mixed, after, promises) is None

    def _comes_anywhere(self, after: Launched) -> bool:
        """Whether the new contents come to the same result in memory of their own, where nothing was launched before.

        It is then kept by the form of a launch, or not at all: the stage may be wrong by itself.
        """
        apart = launch(self._stage.name, self._new.copy(), self._function, self._device)
        return not apart.error and _same_outputs(after, apart)

    def _explains_more(self, names: Sequence[str], case: Case, promises: Promises) -> bool:
        """Whether the launch before explains what comes of further contents, too, and these are as wrong.

        Where nothing but NaN is right, a table of pages may have been mixed with a cache that does not have them.
        """
        is_telling = False
        for _ in range(FURTHER):
            case = _with_other_values(case)
            new = next(call for stage, _, call in launches(case, self._device) if stage.name == self._stage.name)
            after = self._launch_anew(new)
            if after.error or self._judge(case, new, after, promises) is None:
                return False
            if not self._explains(names, case, new, after, promises):
                return False
            is_telling |= not self._explains(names, case, new, _without_numbers(after), promises)
        return is_telling

    def _explain_error(self, error: Exception) -> Finding | None:
        """An exception that the new contents do not raise in memory of their own."""
        if launch(self._stage.name, self._new.copy(), self._function, self._device).error:
            return None
        words = (
            f"right after a launch with other contents it raised {describe_error(error)}, in other memory it does not"
        )
        return Finding(self._stage.name, KIND, name_of(error), words, location=location_of(error))
