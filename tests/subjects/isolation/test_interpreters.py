"""Another interpreter: what it lacks is said in one sentence, and where it will do the outcomes are the same."""

import os
import subprocess
import venv

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup, SetupError
from indexfuzz.subjects.isolation import bootstrap, frames, launch
from indexfuzz.subjects.isolation.isolated import Isolated
from indexfuzz.subjects.under_test import put_under_test

OTHER = "INDEXFUZZ_OTHER_PYTHON"
CASE = Case().replace(cache={"block_size": 16}, batch={"prefill": ({"length": 20, "new": 4},)})


def why_not(python) -> str:
    with pytest.raises(SetupError) as error:
        Isolated(Setup(), python=str(python))
    return str(error.value)


def test_a_bare_environment_lacks_packages(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare/bin/python"
    said = why_not(python)
    assert said.startswith(f"{python} (Python 3.")
    assert said.endswith("has no numpy and no pydantic and no torch and no triton; install what is missing there")


def test_what_is_no_interpreter(tmp_path):
    assert why_not(tmp_path / "nix") == f"--python {tmp_path / 'nix'}: No such file or directory"
    assert why_not(tmp_path) == f"--python {tmp_path}: Permission denied"
    assert "cannot be loaded by /bin/false: the process ended itself with exit code 1" in why_not("/bin/false")


def test_too_old(monkeypatch):
    assert bootstrap.check(launch.needs()) is None
    assert "has torch 2." in bootstrap.check({"torch": "99"})
    assert "(needs 99 or newer); install a newer one there" in bootstrap.check({"torch": "99"})
    monkeypatch.setattr(bootstrap, "OLDEST", (9, 9))
    assert bootstrap.check({}).endswith("is too old; IndexFuzz needs Python 9.9 or newer")


def test_needs_are_those_of_the_package():
    assert launch.needs().keys() == {"numpy", "pydantic", "torch", "triton"}
    assert bootstrap.numbers(launch.needs()["torch"]) >= [2, 11]
    assert bootstrap.numbers("2.13.0+cpu") == [2, 13, 0]


def test_another_version_of_the_protocol(monkeypatch):
    def launched(_python, _device, control, log):
        frames.send(control.fileno(), {"loading": "builtin"})
        frames.send(control.fileno(), {"ready": {"protocol": frames.PROTOCOL + 1, "indexfuzz": "0.1.0"}})
        return subprocess.Popen(["/bin/true"], stdout=log)

    monkeypatch.setattr("indexfuzz.subjects.isolation.connection.launch", launched)
    assert why_not("python9").endswith("python9 runs protocol 3, this is 2; both must be the same")


def test_another_interpreter_gives_the_same_outcomes():
    python = os.environ.get(OTHER)
    if not python:
        pytest.skip(f"{OTHER} does not name the Python of an environment with torch, triton, numpy and pydantic")
    look = "from importlib.metadata import version; print(version('torch'), version('triton'))"
    there = subprocess.run([python, "-c", look], capture_output=True, text=True, check=True).stdout.split()
    with Isolated(Setup(), python=python) as subject:
        assert [subject.facts.torch, subject.facts.triton] == there
        assert subject.run(CASE) == put_under_test(Setup()).subject.run(CASE)
