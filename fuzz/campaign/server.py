"""The process from which the members of a pool are forked: it has imported everything and runs no threads of its own.

So a new member is there at once, on a clean copy. Nothing heavy is imported here: it is started before anything else,
and imports while the campaign gets ready.
"""

import multiprocessing
from multiprocessing.forkserver import ensure_running

CONTEXT = multiprocessing.get_context("forkserver")

WITH = ("indexfuzz.devices.lockstep", "indexfuzz.implementations.builtin", "indexfuzz.subjects.in_process")
"""What members import when they open their subject."""


def start_server() -> None:
    """Start it, unless it runs."""
    CONTEXT.set_forkserver_preload(["indexfuzz.campaign.member", *WITH])
    ensure_running()
