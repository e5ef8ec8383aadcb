"""Launches taken from Triton: every jit function and tuner runs what it is told instead of compiling."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction


def first_config(tuner: Any, kwargs: dict[str, Any]) -> Any:
    """The first configuration that the tuner's own early pruning keeps."""
    if tuner.early_config_prune:
        return tuner.early_config_prune(tuner.configs, tuner.nargs, **kwargs)[0]
    return tuner.configs[0]


@contextmanager
def route_launches(run: Callable[..., Any]) -> Iterator[None]:
    """Send every launch of every jit function to `run(kernel, grid, args, kwargs)`, and let tuners not measure."""

    def run_kernel(self: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> Any:
        if warmup:
            return None
        for hook in self.pre_run_hooks:
            hook(*args, **kwargs)
        return run(self, grid, args, kwargs)

    def run_tuner(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        config = first_config(self, kwargs)
        self.best_config = config
        if config.pre_hook is not None:
            config.pre_hook({**self.nargs, **kwargs, **config.all_kwargs()})
        result = self.fn.run(*args, **kwargs, **config.all_kwargs())
        self.nargs = None
        return result

    saved = JITFunction.run, Autotuner.run
    JITFunction.run, Autotuner.run = run_kernel, run_tuner
    try:
        yield
    finally:
        JITFunction.run, Autotuner.run = saved
