import inspect
import linecache
import sys
import types

import pytest

from indexfuzz.implementations.loading.loader import Loader
from indexfuzz.implementations.loading.source import SourceError, open_project
from indexfuzz.implementations.loading.stand_ins import StandIn, StandInError

OPS = """\
import functools
import math
import absent_package.deep as deep
from toy.config import Config, decorate, registered
from toy.platform import current
from .near import helper
from toy._C import fast

@decorate
def decorated(config: Config | None = None):
    return math.pi

@registered(name="x")
class Layer(Config):
    size = 3

ON_DEVICE = current.is_device()

def late(n):
    from toy.utils.math import cdiv
    return cdiv(n, 4)

def optional():
    try:
        import absent_package
    except ImportError:
        return "absent"
    return "present"

def reach():
    return helper(1)

def compare(x):
    return fast == x

def iterate():
    return list(deep.items)

def branch():
    return 1 if deep.flag else 0

def launch():
    return deep.kernel[(1,)](3)
"""


def current(*, device=True):
    return types.SimpleNamespace(is_device=lambda: device)


def make(root, files, provide=None, execute=None):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    project = open_project(root, "toy", known_versions="1.0 to 1.9")
    return Loader(project, provide=provide or {}, execute=execute or {"toy.ops": ()})


@pytest.fixture
def loader(tmp_path):
    provide = {"toy.platform.current": current(), "toy.utils.math.cdiv": lambda a, b: -(-a // b)}
    return make(tmp_path, {"toy/ops.py": OPS}, provide)


class TestExecution:
    def test_decorators_annotations_and_bases_are_tolerated(self, loader):
        ops = loader.load("toy.ops")
        assert ops.decorated() == pytest.approx(3.14159, abs=1e-5)
        assert (ops.Layer.size, ops.Layer.__mro__) == (3, (ops.Layer, object))
        assert ops.ON_DEVICE is True

    def test_imports_inside_functions_are_replaced_when_they_run(self, loader):
        ops = loader.load("toy.ops")
        assert "toy.utils.math.cdiv" not in loader.replaced
        assert ops.late(9) == 3
        assert "toy.utils.math.cdiv" in loader.replaced

    def test_says_what_it_replaced(self, loader):
        loader.load("toy.ops")
        assert loader.replaced == (
            "absent_package.deep",
            "toy._C.fast",
            "toy.config.Config",
            "toy.config.decorate",
            "toy.config.registered",
            "toy.near.helper",
            "toy.platform.current",
        )

    def test_an_optional_import_stays_absent(self, loader):
        assert loader.load("toy.ops").optional() == "absent"

    def test_leaves_no_module_behind(self, loader):
        before = dict(sys.modules)
        loader.load("toy.ops").late(1)
        assert sys.modules == before

    def test_an_installed_copy_is_neither_used_nor_disturbed(self, loader, monkeypatch):
        installed, config = types.ModuleType("toy"), types.ModuleType("toy.config")
        config.Config = installed.config = None
        monkeypatch.setitem(sys.modules, "toy", installed)
        monkeypatch.setitem(sys.modules, "toy.config", config)
        assert isinstance(loader.load("toy.ops").Config, StandIn)
        assert sys.modules["toy"] is installed

    def test_is_loaded_once(self, loader):
        assert loader.load("toy.ops") is loader.load("toy.ops")

    def test_other_files_of_the_project_can_be_executed_too(self, tmp_path):
        files = {"toy/ops.py": "from .near import helper\nfrom toy import near\n", "toy/near.py": "helper = 5\n"}
        loader = make(tmp_path, files, execute={"toy.ops": (), "toy.near": ()})
        assert (loader.load("toy.ops").helper, loader.load("toy.ops").near.helper) == (5, 5)
        assert loader.replaced == ()

    def test_a_provided_name_replaces_that_of_an_executed_file(self, tmp_path):
        files = {
            "toy/ops.py": "from toy.near import a, b\n",
            "toy/near.py": "def a():\n    return b()\ndef b():\n    1 / 0\n",
        }
        loader = make(tmp_path, files, {"toy.near.b": lambda: 7}, {"toy.ops": (), "toy.near": ("a",)})
        ops = loader.load("toy.ops")
        assert (ops.a(), ops.b()) == (7, 7)

    def test_only_what_is_wanted_runs(self, tmp_path):
        text = "import absent\nBAD = 1 / 0\ndef good():\n    return 7\n"
        loader = make(tmp_path, {"toy/ops.py": text}, execute={"toy.ops": ("good",)})
        assert (loader.load("toy.ops").good(), loader.replaced) == (7, ())

    def test_dataclasses_with_postponed_annotations(self, tmp_path):
        text = (
            "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
        )
        assert make(tmp_path, {"toy/ops.py": text}).load("toy.ops").A(3).x == 3


class TestSource:
    def test_getsource_works_for_a_file_that_is_not_there(self, loader, tmp_path, monkeypatch):
        monkeypatch.setattr(linecache, "cache", {})  # other texts of that name would keep theirs
        ops = loader.load("toy.ops")
        (tmp_path / "toy/ops.py").unlink()
        linecache.checkcache()
        assert (
            inspect.getsource(ops.late) == "def late(n):\n    from toy.utils.math import cdiv\n    return cdiv(n, 4)\n"
        )
        assert ops.late.__code__.co_filename == "toy-unknown/toy/ops.py"

    def test_two_texts_of_one_version_keep_their_own_source(self, tmp_path):
        first = make(tmp_path / "a", {"toy/ops.py": "def f():\n    return 1\n"}).load("toy.ops")
        second = make(tmp_path / "b", {"toy/ops.py": "def f():\n    return 22\n"}).load("toy.ops")
        assert "return 1\n" in inspect.getsource(first.f)
        assert "return 22\n" in inspect.getsource(second.f)


class TestErrors:
    @pytest.mark.parametrize(
        ("function", "arguments", "message"),
        [
            (
                "reach",
                (),
                r"toy\.near\.helper is not loaded, only a stand-in, and was called; its adapter must provide",
            ),
            ("compare", (3,), r"toy\._C\.fast .* was compared"),
            ("iterate", (), r"absent_package\.deep\.items .* was iterated over"),
            ("branch", (), r"absent_package\.deep\.flag .* was tested for truth"),
            ("launch", (), r"absent_package\.deep\.kernel\[\.\.\.\] .* was called"),
        ],
    )
    def test_a_stand_in_is_no_value(self, loader, function, arguments, message):
        with pytest.raises(StandInError, match=message):
            getattr(loader.load("toy.ops"), function)(*arguments)

    def test_triton_takes_a_kernel_that_names_one_in_a_branch_that_is_left_out(self, tmp_path):
        text = (
            "import triton\nfrom absent import pack\n\n@triton.jit\ndef kernel(PACK):\n    if PACK:\n        pack()\n"
        )
        kernel = make(tmp_path, {"toy/ops.py": text}, execute={"toy.ops": ("kernel",)}).load("toy.ops").kernel
        assert isinstance(kernel.cache_key, str)

    def test_a_stand_in_decides_nothing_while_loading(self, tmp_path):
        text = "from toy.platform import current\nif current.is_device():\n    FLAG = 1\n"
        with pytest.raises(StandInError, match=r"toy\.platform\.current\.is_device\(\.\.\.\) .* was tested for truth"):
            make(tmp_path, {"toy/ops.py": text}).load("toy.ops")

    def test_missing_function(self, tmp_path):
        loader = make(tmp_path, {"toy/ops.py": "x = 1\n"}, execute={"toy.ops": ("f", "g")})
        with pytest.raises(SourceError, match=r"toy/ops\.py of toy unknown has no f and no g; versions 1\.0 to 1\.9"):
            loader.load("toy.ops")

    def test_file_that_fails(self, tmp_path):
        with pytest.raises(SourceError, match=r"toy/ops\.py of toy unknown cannot be executed: ZeroDivisionError"):
            make(tmp_path, {"toy/ops.py": "1 / 0\n"}).load("toy.ops")

    def test_syntax_of_another_python(self, tmp_path):
        with pytest.raises(SourceError, match="is not valid Python here"):
            make(tmp_path, {"toy/ops.py": "def f(:\n"}).load("toy.ops")

    def test_a_failed_load_leaves_no_module_behind(self, tmp_path):
        before = dict(sys.modules)
        with pytest.raises(SourceError):
            make(tmp_path, {"toy/ops.py": "1 / 0\n"}).load("toy.ops")
        assert sys.modules == before
