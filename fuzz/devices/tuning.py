"""Launches that are made otherwise than their launchers say, in what must not matter: warps, and a tuner's entry.

A tuner measures its entries and takes the fastest, on another day another one. Here none measures: it takes the entry
that it is told, of those that its own pruning keeps.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from indexfuzz.lockstep.triton_api.errors import TritonError
from indexfuzz.lockstep.triton_api.routing import kept_configs, run_first_possible

DEFAULT_WARPS = 4
"""Of a launch that does not say."""

PASSES_FAILED = "PassManager::run failed"
"""What the RuntimeError says where the compiler gave up on a kernel."""


class Otherwise(NamedTuple):
    """How a kernel was launched: with `warps` in the place of its `own`, or by an `entry` of its tuner, as text."""

    warps: int = 0
    own: int = 0
    entry: str = ""

    @property
    def words(self) -> str:
        """The same in words."""
        return f"its tuner's entry {self.entry}" if self.entry else f"num_warps {self.warps} in the place of {self.own}"


@dataclass(frozen=True)
class Choice:
    """How kernels are launched.

    With `num_warps`, or as many as their launchers say, for 0. A tuner takes the entry of number `entry`, counted round
    and round those that it keeps, and that entry's warps. `changed` is told the kernels that were launched otherwise by
    that, and how.
    """

    num_warps: int = 0
    entry: int = 0
    changed: dict[str, Otherwise] = field(default_factory=dict, compare=False)


@contextmanager
def choosing(choice: Choice) -> Iterator[None]:
    """Have every launch in here made by a choice; what then cannot be compiled is launched as its launcher says."""
    tuned: list[Any] = []
    run_kernel, run_tuner = JITFunction.run, Autotuner.run

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = kwargs.get("num_warps", DEFAULT_WARPS)
        wanted = choice.num_warps or own
        if tuned or wanted == own or "num_warps" in self.arg_names:
            return run_kernel(self, *args, **kwargs)
        try:
            result = run_kernel(self, *args, **kwargs | {"num_warps": wanted})
        except (TritonError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and PASSES_FAILED not in str(error):
                raise
            return run_kernel(self, *args, **kwargs)
        choice.changed[self.__name__] = Otherwise(wanted, own)
        return result

    def take(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        tuned.append(self)
        try:
            kept = kept_configs(self, kwargs)
            at = choice.entry % len(kept)
            result = run_first_possible(self, [*kept[at:], *kept[:at]], args, kwargs)
            if self.best_config is not kept[0]:
                choice.changed[self.base_fn.__name__] = Otherwise(entry=str(self.best_config))
            return result
        finally:
            tuned.pop()
            self.nargs = None

    JITFunction.run, Autotuner.run = run, take
    try:
        yield
    finally:
        JITFunction.run, Autotuner.run = run_kernel, run_tuner
