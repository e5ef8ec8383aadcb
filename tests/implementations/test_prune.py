import ast

from indexfuzz.implementations.loading.prune import guarded_import_lines, prune

FILE = """\
from __future__ import annotations
import heavy
from toy import a as b, c
if b.yes:
    FLAG = 1
else:
    FLAG = c.value
UNUSED = heavy.compute()
LIMIT: int = 3
def helper():
    local = UNDEFINED
    return FLAG
def wanted(x=LIMIT):
    return helper()
heavy.register(wanted)
class Other(heavy.Base):
    pass
"""


def kept(*wanted):
    missing, tree = prune(ast.parse(FILE), wanted)
    assert not missing
    return [ast.unparse(statement).splitlines()[0] for statement in tree.body]


def test_keeps_what_the_wanted_name_needs_in_order():
    assert kept("wanted") == [
        "from __future__ import annotations",
        "from toy import a as b, c",
        "if b.yes:",
        "LIMIT: int = 3",
        "def helper():",
        "def wanted(x=LIMIT):",
    ]


def test_a_class_needs_its_bases():
    assert kept("Other") == ["from __future__ import annotations", "import heavy", "class Other(heavy.Base):"]


def test_everything_without_wanted_names():
    assert len(kept()) == len(ast.parse(FILE).body)


def test_missing_names_are_reported():
    assert prune(ast.parse(FILE), ("wanted", "moved", "local"))[0] == ["moved", "local"]


def test_line_numbers_stay():
    _, tree = prune(ast.parse(FILE), ("Other",))
    assert tree.body[-1].lineno == FILE.splitlines().index("class Other(heavy.Base):") + 1


def test_imports_guarded_by_a_handler():
    text = """\
import plain
try:
    import optional
    from optional import (
        name,
    )
except ImportError:
    import fallback
try:
    import needed
except ValueError:
    pass
def f():
    try:
        import inner
    except (OSError, ModuleNotFoundError):
        pass
"""
    assert guarded_import_lines(ast.parse(text)) == {3, 4, 5, 6, 15}
