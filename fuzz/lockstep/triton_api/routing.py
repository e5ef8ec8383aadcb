"""Launches taken from Triton: every jit function and tuner runs what it is told instead of compiling."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import torch
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from indexfuzz.lockstep.triton_api.errors import CompileTimeAssertionFailure, OutOfResources, PTXASError

CONFIGS: Final = ("first", "all")
"""Which configurations of an autotuned kernel run: the first that its own pruning keeps, or every one of them."""

IMPOSSIBLE: Final = (CompileTimeAssertionFailure, OutOfResources, PTXASError)
"""What a tuner takes for a configuration that there is not."""


def kept_configs(tuner: Any, kwargs: dict[str, Any]) -> Sequence[Any]:
    """The configurations that the tuner's own early pruning keeps."""
    if tuner.early_config_prune:
        kept: Sequence[Any] = tuner.early_config_prune(tuner.configs, tuner.nargs, **kwargs)
        return kept
    return list(tuner.configs)


def run_first_possible(tuner: Any, configs: Sequence[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the kernel of a tuner, whose `nargs` are set, with the first configuration that is possible."""
    for config in configs[:-1]:
        with suppress(*IMPOSSIBLE):
            return _run_config(tuner, config, args, kwargs)
    return _run_config(tuner, configs[-1], args, kwargs)


def _run_config(tuner: Any, config: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tuner.best_config = config
    if config.pre_hook is not None:
        config.pre_hook({**tuner.nargs, **kwargs, **config.all_kwargs()})
    return tuner.fn.run(*args, **kwargs, **config.all_kwargs())


@contextmanager
def route_launches(run: Callable[..., Any], configs: str = CONFIGS[0]) -> Iterator[None]:
    """Send every launch of every jit function to `run(kernel, grid, args, kwargs)`, and let tuners not measure.

    A configuration that a static assertion forbids, or for which a GPU has too little, is passed over, as tuners do.
    Where `configs` is "all", a tuner's other configurations run before the first, and what they stored is taken back.
    """

    def run_kernel(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
        if warmup:
            return None
        for hook in self.pre_run_hooks:
            hook(*args, **kwargs)
        return run(self, grid, args, kwargs)

    def run_tuner(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        kept = kept_configs(self, kwargs)
        try:
            for config in kept[1:] if configs == "all" else ():
                with suppress(*IMPOSSIBLE), _taking_back([*args, *kwargs.values()]):
                    _run_config(self, config, args, kwargs)
            return run_first_possible(self, kept, args, kwargs)
        finally:
            self.nargs = None

    saved = JITFunction.run, Autotuner.run
    JITFunction.run, Autotuner.run = run_kernel, run_tuner
    try:
        yield
    finally:
        JITFunction.run, Autotuner.run = saved


@contextmanager
def _taking_back(arguments: Sequence[Any]) -> Iterator[None]:
    """Give every storage among a launch's arguments its bytes back afterwards."""
    storages = {}
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            storage = argument.untyped_storage()
            view = torch.empty(0, dtype=torch.uint8).set_(storage)
            storages[storage.data_ptr()] = view, view.clone()
    try:
        yield
    finally:
        for view, before in storages.values():
            view.copy_(before)
