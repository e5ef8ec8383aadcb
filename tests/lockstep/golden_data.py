"""Access to what tests/golden/record_sm90.py recorded, for the tests that replay it."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors import safe_open

FOLDER = Path(__file__).parents[1] / "golden"


def module(name: str) -> ModuleType:
    """Import a module that lies beside the recorder."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def recorded(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and metadata of one file; skips the test if it was not recorded."""
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no {path.name}: run tests/golden/record_sm90.py on an H100 or H200")
    with safe_open(path, "numpy") as file:
        metadata = {
            key: value if value[:1] not in "[{" else json.loads(value) for key, value in file.metadata().items()
        }
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118
