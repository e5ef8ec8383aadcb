"""What tests of measurements share."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from indexfuzz.evaluation import kept


class _Here(Executor):
    """An executor that works in this process, at once."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        done = Future[Any]()
        try:
            done.set_result(call(*arguments, **named))
        except Exception as error:  # noqa: BLE001 - as executors do
            done.set_exception(error)
        return done


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements work in this process instead of several."""
    monkeypatch.setattr(kept, "ProcessPoolExecutor", _Here)
