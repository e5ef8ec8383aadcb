"""What the parent raises of what happens in the child."""

import re

from indexfuzz.core.setup import SetupError
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.implementations.base import ImplementationError
from indexfuzz.subjects.isolation.deaths import Death
from indexfuzz.subjects.isolation.frames import Message


class ChildError(Exception):
    """IndexFuzz itself failed in the child; the notes have its traceback."""


class DiedError(Exception):
    """The worker died before it had answered."""

    def __init__(self, death: Death) -> None:
        super().__init__(death.story)
        self.death = death


def checked(message: Message) -> Message:
    """A message, unless it stands for an exception.

    Raises SetupError, UnsupportedKernelError, ImplementationError or ChildError.
    """
    if "refused" in message:
        raise SetupError(message["refused"])
    if "unsupported" in message:
        raise UnsupportedKernelError(message["unsupported"])
    if "incomplete" in message:
        raise ImplementationError(message["incomplete"])
    if "internal" in message:
        error = ChildError(message["internal"])
        error.add_note(re.sub("^", "    ", message["traceback"], flags=re.MULTILINE))
        raise error
    return message
