"""The line that a finding blames, as a CI names it."""

import pytest

from indexfuzz.report.places import find_checkout, find_source, place_in_checkout


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    folder = tmp_path / "checkout"
    for file in ("ops/gather.py", "ops/cache.py", "other/ops/cache.py", ".hidden/ops/top.py", "env/ops/top.py"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("")
    (folder / "env/pyvenv.cfg").write_text("")
    (folder / ".git").mkdir()
    monkeypatch.chdir(folder / "ops")
    return folder


def test_the_checkout_is_the_repository_around_the_current_folder(checkout, monkeypatch):
    assert find_checkout() == checkout
    (checkout / ".git").rmdir()
    assert find_checkout() == checkout / "ops"


def test_a_kept_location_is_the_one_file_that_is_called_so(checkout):
    assert find_source("ops/gather.py:3", checkout) == (checkout / "ops/gather.py", 3)
    assert find_source("ops/cache.py:3", checkout) == (checkout / "ops/cache.py", 3)
    (checkout / "ops/cache.py").rename(checkout / "other/ops/gather.py")
    (checkout / "ops").rename(checkout / "moved")
    assert find_source("ops/cache.py:3", checkout) == (checkout / "other/ops/cache.py", 3)


@pytest.mark.parametrize("location", ["", "ops/gather.py", "x.py:1", "ops/top.py:1", "../secret.py:1", "a.py:-1"])
def test_what_is_no_file_of_the_checkout_is_none(checkout, location):
    (checkout.parent / "secret.py").write_text("")
    assert place_in_checkout(location) == ("", 0)


def test_two_files_of_one_name_are_none(checkout):
    (checkout / "third/ops").mkdir(parents=True)
    (checkout / "third/ops/gather.py").write_text("")
    (checkout / "ops/gather.py").rename(checkout / "other/ops/gather.py")
    assert find_source("ops/gather.py:3", checkout) is None


def test_an_absolute_location_is_named_from_the_checkout(checkout):
    assert place_in_checkout(f"{checkout}/ops/gather.py:3") == ("ops/gather.py", 3)
    outside = checkout.parent / "wheel.py"
    outside.write_text("")
    assert find_source(f"{outside}:3", checkout) == (outside, 3)
    assert place_in_checkout(f"{outside}:3") == place_in_checkout(f"{checkout}/gone.py:3") == ("", 0)


@pytest.mark.parametrize("name", ["ops-0.33.0/ops/gather.py", "ops-unknown/ops/gather.py~0123abcd"])
def test_a_file_of_a_project_that_was_read_from_the_checkout(checkout, name):
    assert place_in_checkout(f"{name}:3") == ("ops/gather.py", 3)
    assert place_in_checkout(f"other{name}:3") == ("", 0)
    (checkout / "python").mkdir()
    (checkout / "ops").rename(checkout / "python/ops")
    assert place_in_checkout(f"{name}:3") == ("python/ops/gather.py", 3)
