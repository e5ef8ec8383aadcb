"""Where IndexFuzz was installed from, by what pip notes."""

from importlib.metadata import PackageNotFoundError, PathDistribution
from pathlib import Path

import pytest

from indexfuzz.core import origin

COMMIT = (
    '{"url": "https://example.org/i.git", "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "1f"}}'
)
WHEEL = '{"url": "https://example.org/indexfuzz-1-py3-none-any.whl", "archive_info": {}}'
FOLDER = '{"url": "file:///home/me/indexfuzz", "dir_info": {"editable": true}}'


@pytest.mark.parametrize(
    ("noted", "wanted"),
    [
        (None, "indexfuzz"),
        (COMMIT, "indexfuzz @ git+https://example.org/i.git@1f"),
        (WHEEL, "indexfuzz @ https://example.org/indexfuzz-1-py3-none-any.whl"),
        (FOLDER, None),
        (
            COMMIT[:-1] + ', "subdirectory": "tools/fuzz"}',
            "indexfuzz @ git+https://example.org/i.git@1f#subdirectory=tools/fuzz",
        ),
        ("not JSON", None),
        ('{"url": 7}', None),
    ],
)
def test_what_pip_takes_to_install_the_same_again(monkeypatch, noted, wanted):
    class Installed:
        def read_text(self, name):
            return {"direct_url.json": noted, "RECORD": "indexfuzz/__init__.py,,"}[name]

    monkeypatch.setattr(origin, "distribution", lambda _name: Installed())
    assert origin.requirement() == wanted


def test_a_checkout_that_python_looks_into_is_not_installed(monkeypatch):
    monkeypatch.setattr(origin, "distribution", lambda _name: PathDistribution(Path("nowhere/indexfuzz.egg-info")))
    assert origin.requirement() is None


def test_what_pip_has_not_installed_is_nowhere_else(monkeypatch):
    def find(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(origin, "distribution", find)
    assert origin.requirement() is None
