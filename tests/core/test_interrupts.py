"""A signal ends what runs, once, wherever it falls, and is not forgotten where somebody swallows it."""

import contextlib
import os
import pickle
import signal
import sys

import pytest
from pydantic import BaseModel, model_serializer
from pydantic_core import PydanticSerializationError

from indexfuzz.core import interrupts
from indexfuzz.core.interrupts import Interrupted


def strike(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _listening():
    with interrupts.listening():
        yield


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_is_raised_and_has_the_exit_code_of_a_shell(number):
    with pytest.raises(Interrupted) as caught:
        strike(number)
    assert caught.value.exit_code == 128 + number


def test_what_is_swallowed_is_raised_again():
    with contextlib.suppress(BaseException):
        strike()
    with pytest.raises(Interrupted):
        interrupts.check()


class Dumped(BaseModel):
    @model_serializer(mode="wrap")
    def _struck(self, dump):
        strike()
        return dump(self)


@pytest.mark.parametrize(
    ("around", "raised"), [(contextlib.nullcontext, PydanticSerializationError), (interrupts.unmasked, Interrupted)]
)
def test_what_others_make_an_error_of_is_raised_as_it_was(around, raised):
    """Pydantic puts whatever a serializer raises into an error of its own."""
    with pytest.raises(raised), around():
        Dumped().model_dump_json()


def test_an_error_of_others_without_a_signal_stays_one():
    with pytest.raises(KeyError), interrupts.unmasked():
        raise KeyError("x")


def test_a_shield_puts_it_off_to_its_end():
    done = []

    def write():
        with interrupts.shielded():
            strike()
            done.append("written")

    with pytest.raises(Interrupted):
        write()
    assert done == ["written"]


def test_who_cleans_up_is_left_in_peace():
    done = []

    def clean_up():
        try:
            strike()
        finally:
            strike()
            done.append("cleaned")

    with pytest.raises(Interrupted):
        clean_up()
    assert done == ["cleaned"]


def test_at_the_end_nothing_is_heard():
    interrupts.end()
    strike()
    interrupts.check()


def test_what_was_heard_in_a_block_ends_nothing_after_it():
    with contextlib.suppress(Interrupted), interrupts.listening():
        strike()
    with interrupts.shielded():
        pass
    interrupts.check()


def test_who_has_heard_enough_hears_again_in_the_next_block():
    with interrupts.listening():
        interrupts.end()
    with pytest.raises(Interrupted):
        strike()


def test_it_travels_between_processes():
    assert pickle.loads(pickle.dumps(Interrupted(signal.SIGTERM))).exit_code == 128 + signal.SIGTERM


def test_handlers_are_put_back():
    inside = signal.getsignal(signal.SIGTERM)
    with interrupts.listening():
        pass
    assert signal.getsignal(signal.SIGTERM) is inside


@pytest.mark.parametrize(("raised", "told"), [(interrupts.Interrupted(signal.SIGTERM), []), (KeyError("x"), ["x"])])
def test_a_signal_in_a_destructor_makes_no_noise(monkeypatch, raised, told):
    class Dying:
        def __del__(self):
            raise raised

    heard = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: heard.extend(unraisable.exc_value.args))
    with interrupts.listening():
        Dying()
    assert heard == told
