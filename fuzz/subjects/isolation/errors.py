"""What the parent raises of what happens in the child."""

import re

from indexfuzz.core.setup import SetupError
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.implementations.base import ImplementationError
from indexfuzz.subjects.isolation.deaths import Death
from indexfuzz.subjects.isolation.frames import Message

TYPES: dict[str, type[Exception]] = {
    "refused": SetupError,
    "unsupported": UnsupportedKernelError,
    "incomplete": ImplementationError,
}
"""Exceptions that say something about what is under test, by the key of the message that carries their words."""


class ChildError(Exception):
    """IndexFuzz itself failed in the child; the notes have its traceback."""


class DiedError(Exception):
    """The worker died before it had answered."""

    def __init__(self, death: Death) -> None:
        super().__init__(death.story)
        self.death = death


def unwrap(message: Message) -> Message:
    """A message, unless it stands for an exception.

    Raises SetupError, UnsupportedKernelError, ImplementationError or ChildError.
    """
    for key, kind in TYPES.items():
        if key in message:
            raise kind(message[key])
    if "internal" in message:
        error = ChildError(message["internal"])
        error.add_note(re.sub("^", "    ", message["traceback"], flags=re.MULTILINE))
        raise error
    return message
