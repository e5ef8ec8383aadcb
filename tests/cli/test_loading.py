"""The first second of a command, in which the libraries load."""

import os
import re
import signal
import subprocess
import sys

import pytest


class TestLoading:
    def test_a_terminal_says_what_it_waits_for(self, monkeypatch):
        script = (
            "import sys; from indexfuzz.cli import loading\n"
            "sys.stderr.isatty = lambda: True\n"
            "sys.stderr.write(f'{\"torch\" in sys.modules}|'); sys.stderr.flush()\n"
            "loading.load_libraries()\n"
            "sys.stderr.write(f'|{\"torch\" in sys.modules}')\n"
        )
        environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm"}
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
        )
        before, told, after = run.stderr.split("|")
        assert (before, after) == ("False", "True")
        assert "loading torch and triton" in told

    def test_a_pipe_gets_nothing_of_it_whatever_colours_are_wished_for(self, tmp_path):
        """Nor does the folder in which nothing was found."""
        here, environment = tmp_path / "here", os.environ | {"FORCE_COLOR": "1", "XDG_CACHE_HOME": str(tmp_path)}
        here.mkdir()
        command = [sys.executable, "-m", "indexfuzz", "run", "--cases", "2", "--seed", "1"]
        run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=here)
        moves = re.findall(r"\x1b\[[0-9;?]*[A-HJKfhlsu]", run.stdout + run.stderr)
        assert (moves, "loading" in run.stderr) == ([], False)
        assert list(here.iterdir()) == []


class TestInterruptsWhileLoading:
    """A signal that comes while the command line is still being imported ends it as any other does."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    @pytest.mark.parametrize("module", ["typer", "torch", "triton"])
    def test_each_signal_during_an_import(self, tmp_path, module, number):
        script = (
            "import os, sys, importlib.abc\n"
            "class Striking(importlib.abc.MetaPathFinder):\n"
            "    def find_spec(self, name, path, target=None):\n"
            f"        if name == {module!r}: os.kill(os.getpid(), {int(number)})\n"
            "sys.meta_path.insert(0, Striking())\n"
            "sys.argv = ['indexfuzz', 'run', '--cases', '1']\n"
            "from indexfuzz.__main__ import main\n"
            "main()\n"
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (run.returncode, run.stderr) == (128 + number, f"interrupted by {signal.Signals(number).name}\n")

    def test_a_library_is_imported_to_its_end(self, tmp_path):
        """Code in C++ ends the process where Python raises in the midst of its import."""
        (tmp_path / "torch.py").write_text(
            "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    os.abort()\n"
        )
        script = "from indexfuzz.__main__ import main\nimport sys\nsys.argv = ['indexfuzz', 'prune']\nmain()\n"
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
        assert (run.returncode, run.stderr) == (130, "interrupted by SIGINT\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_last_word_changes_nothing(tmp_path, number):
    """The exit code is decided, and the interpreter only puts its things away."""
    script = (
        "import atexit, os, sys\n"
        f"atexit.register(os.kill, os.getpid(), {int(number)})\n"
        "sys.argv = ['indexfuzz', 'presets']\n"
        "from indexfuzz.__main__ import start\n"
        "start()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (run.returncode, run.stderr) == (0, "")
