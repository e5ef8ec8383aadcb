"""Hypothesis profiles for the fuzz targets: dev, ci and nightly.

Every setting that Hypothesis would choose by itself where CI is set (`derandomize`, `database`) is spelled out: with
its choice, shards would repeat each other and keep nothing. A folder's conftest.py registers them; the pytest plugin
does not, because it is loaded for every project in its environment.
"""

import os
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase, MultiplexedDatabase, ReadOnlyDatabase

WITHOUT_EXPLAIN = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


def register() -> None:
    """Define the profiles and load ci where the variable CI is set, else dev; --hypothesis-profile overrides it."""
    common = settings(deadline=None, print_blob=False, phases=WITHOUT_EXPLAIN)
    settings.register_profile("dev", common, max_examples=60, derandomize=False, database=_database("dev"))
    settings.register_profile("ci", common, max_examples=60, derandomize=True, database=None)
    settings.register_profile(
        "nightly", common, max_examples=5000, derandomize=False, phases=tuple(Phase), database=_database("nightly")
    )
    settings.load_profile("ci" if os.environ.get("CI") else "dev")


def _database(profile: str) -> ExampleDatabase:
    """A database of its own for each worker of pytest-xdist, beside the one that all of them read."""
    shared = Path(".hypothesis") / profile
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return DirectoryBasedExampleDatabase(shared)
    own = DirectoryBasedExampleDatabase(shared.with_name(f"{profile}-{worker}"))
    return MultiplexedDatabase(own, ReadOnlyDatabase(DirectoryBasedExampleDatabase(shared)))
