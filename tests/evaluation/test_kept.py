"""Results of long measurements are kept, one by one."""

from pathlib import Path
from typing import Any

import pytest

from indexfuzz.evaluation.kept import Kept, measure_all


def test_what_one_raises_costs_nothing_of_the_others(tmp_path: Path, one_process: None):
    def measure(name: str) -> dict[str, Any]:
        if name == "b":
            raise ValueError("broken")
        return {"name": name}

    told: list[str] = []
    kept = Kept(tmp_path)
    with pytest.raises(ValueError, match="broken") as error:
        measure_all(["a", "b", "c"], measure, kept, tell=lambda name, _: told.append(name))
    assert error.value.__notes__ == ["while measuring b"]
    assert sorted(told) == ["a", "c"]
    assert kept.all_of(["a", "b", "c"]) == [{"name": "a"}, {"name": "c"}]


def test_what_cannot_be_read_is_no_result(tmp_path: Path):
    kept = Kept(tmp_path)
    kept.put("a", {"x": 1})
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("[]")
    assert kept.all_of(["a", "b", "c", "d"]) == [{"x": 1}]
