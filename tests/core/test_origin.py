"""Where IndexFuzz was installed from, by what pip notes."""

from importlib.metadata import PackageNotFoundError

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
        ("not JSON", None),
        ('{"url": 7}', None),
    ],
)
def test_what_pip_takes_to_install_the_same_again(monkeypatch, noted, wanted):
    class Installed:
        def read_text(self, name):
            assert name == "direct_url.json"
            return noted

    monkeypatch.setattr(origin, "distribution", lambda _name: Installed())
    assert origin.requirement() == wanted


def test_what_pip_has_not_installed_is_nowhere_else(monkeypatch):
    def find(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(origin, "distribution", find)
    assert origin.requirement() is None
