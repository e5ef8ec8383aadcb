"""The process from which the members of a pool are forked: it has imported everything and runs no threads of its own.

So a new member is there at once, on a clean copy. Nothing heavy is imported here: it is started before anything else,
and imports while the campaign gets ready.
"""

import multiprocessing
import os
from multiprocessing.forkserver import ensure_running

CONTEXT = multiprocessing.get_context("forkserver")

CAMPAIGN = "INDEXFUZZ_CAMPAIGN"
"""The environment variable that tells the server whose it is."""

WITH = ("indexfuzz.devices.lockstep", "indexfuzz.implementations.builtin", "indexfuzz.subjects.in_process")
"""What members import when they open their subject."""


def start_server() -> None:
    """Start it, unless it runs."""
    os.environ[CAMPAIGN] = str(os.getpid())
    CONTEXT.set_forkserver_preload(["indexfuzz.campaign.bound", "indexfuzz.campaign.member", *WITH])
    ensure_running()
