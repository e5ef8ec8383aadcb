"""Messages between two processes: a JSON object behind its length. Cases and outcomes travel; tensors never do."""

import json
import os
import struct
from typing import Any

PROTOCOL = 2
MOST_BYTES = 64 << 20
"""A message is a few kilobytes; nothing larger than this is read."""

_LENGTH = struct.Struct(">I")

Message = dict[str, Any]


class FrameError(Exception):
    """Bytes that are no message."""


def send(fd: int, message: Message) -> None:
    """Write a message.

    Raises OSError when nobody can read it any more.
    """
    body = json.dumps(message).encode()
    rest = memoryview(_LENGTH.pack(len(body)) + body)
    while rest:
        rest = rest[os.write(fd, rest) :]


def receive(fd: int) -> Message | None:
    """The next message, once it is there; None at the end.

    Raises FrameError.
    """
    inbox = Inbox(fd)
    while (message := inbox.next()) is None:
        if not inbox.read(_missing(inbox.pending)):
            return None
    return message


class Inbox:
    """Messages that arrive at a descriptor, however their bytes are cut."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.pending = bytearray()

    def read(self, most: int = 1 << 16) -> bool:
        """Take bytes that are there; False when the other side has closed."""
        data = os.read(self._fd, most)
        self.pending += data
        return bool(data)

    def next(self) -> Message | None:
        """The next complete message, if there is one.

        Raises FrameError.
        """
        if _missing(self.pending):
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self.pending)[0]
        body = bytes(self.pending[_LENGTH.size : end])
        del self.pending[:end]
        try:
            message = json.loads(body)
        except ValueError as error:
            raise FrameError(f"no JSON: {error}") from None
        if not isinstance(message, dict):
            raise FrameError("no JSON object")
        return message


def _missing(pending: bytearray) -> int:
    """How many bytes the first message lacks."""
    if len(pending) < _LENGTH.size:
        return _LENGTH.size - len(pending)
    length = int(_LENGTH.unpack_from(pending)[0])
    if length > MOST_BYTES:
        raise FrameError(f"{length} bytes")
    return max(0, _LENGTH.size + length - len(pending))
