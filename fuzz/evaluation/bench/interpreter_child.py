"""The process of `interpreter`: reads workloads from standard input, a JSON object a line, and answers with times."""

import json
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from indexfuzz import implementations
from indexfuzz.evaluation.bench.workloads import Launch, prepare
from indexfuzz.implementations.base import Implementation


@triton.jit
def _probe(counts_ptr, out_ptr):  # type: ignore[no-untyped-def]
    total = 0
    for i in tl.range(tl.load(counts_ptr)):
        total += i
    tl.store(out_ptr, total)


@cache
def _implementation(spec: str) -> Implementation:
    return implementations.load(spec)


@cache
def _launch(spec: str, stage: str, size: tuple[int, ...]) -> Launch:
    launch = prepare(_implementation(spec), stage, size)
    launch.run()
    return launch


def repair_masks() -> None:
    """Let the interpreter take the masks that it computes itself: some become int32 on the way, which it refuses."""
    builder = interpreter.InterpreterBuilder
    for name, place in (("create_masked_load", 1), ("create_masked_store", 2)):
        setattr(builder, name, _with_boolean(getattr(builder, name), place))


def _with_boolean(access: Callable[..., Any], place: int) -> Callable[..., Any]:
    def repaired(self: Any, *operands: Any) -> Any:
        mask = operands[place]
        if mask.data.dtype != np.bool_:
            mask.data = mask.data.astype(np.bool_)
        return access(self, *operands)

    return repaired


def _answer(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _sentence(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def main() -> None:
    """Say whether the interpreter works at all, then answer until the input ends."""
    torch.set_num_threads(1)
    repair_masks()
    out = torch.zeros(1, dtype=torch.int32)
    try:
        _probe[(1,)](torch.tensor([4], dtype=torch.int32), out)
    except Exception as error:  # noqa: BLE001 - whatever it is, it cannot run kernels
        _answer(error=_sentence(error))
        return
    _answer(numpy=np.__version__, triton=triton.__version__)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            launch = _launch(asked["implementation"], asked["stage"], tuple(asked["size"]))
            started = time.process_time()
            launch.run()
            _answer(seconds=time.process_time() - started)
        except Exception as error:  # noqa: BLE001 - the other kernels may still run
            _answer(error=_sentence(error))


if __name__ == "__main__":
    main()
