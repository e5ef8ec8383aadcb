"""docs/faults.md has every planted bug, with the figures of the table that it names."""

import pytest

from indexfuzz.evaluation.bench import faults
from indexfuzz.evaluation.bench.faults import Row, as_markdown, known_rows, rows_of
from indexfuzz.implementations.faults import load_faults

TABLES = """# A page

| fault | stage | found | cases: median (worst) | seconds: median (worst) |
| --- | --- | --- | --- | --- |
| ks-offset | prefill_logits | 5/5 | 5 (19) | 1.0 (2.3) |

## Planted bugs

| fault | sessions | seconds of a core | signature |
|---|---|---|---|
| relu-after-sum | 2 | 0.3 | a/b/c |

| fault | source |
| --- | --- |
| weights-bf16 | has no figures |
"""


def test_every_fault_has_a_row_and_the_page_is_as_it_is_made():
    rows = known_rows(faults.ROOT)
    missing = [name for name in load_faults() if name not in rows]
    assert not missing, "put their rows of `indexfuzz bench detection --faults ID` into docs/detection.md"
    page = (faults.ROOT / faults.PAGE).read_text(encoding="utf-8")
    assert page == as_markdown(rows), "indexfuzz bench faults writes it anew"


def test_rows_are_those_of_tables_with_times():
    assert list(rows_of("x.md", TABLES)) == [
        Row("ks-offset", "5/5", "1.0 (2.3)", "x.md", ""),
        Row("relu-after-sum", "one stream", "0.3", "x.md", "Planted bugs"),
    ]


def test_counts_go_before_streams_the_first_page_before_the_second_and_new_rows_before_old(tmp_path):
    (tmp_path / "docs").mkdir()
    again = TABLES.replace("ks-offset", "relu-after-sum").replace("1.0", "7.0")
    (tmp_path / "docs" / "detection.md").write_text(TABLES.replace("relu-after-sum", "relu-missing"))
    (tmp_path / "docs" / "sessions.md").write_text(TABLES.replace("1.0", "3.0") + again + again.replace("7.0", "8.0"))
    rows = known_rows(tmp_path)
    assert rows["ks-offset"].seconds == "1.0 (2.3)"
    assert rows["relu-after-sum"].seconds == "8.0 (2.3)"
    assert rows["relu-missing"].found == "one stream"


def test_a_fault_without_a_row_is_told_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    for page in faults.SOURCES:
        (tmp_path / "docs" / page).write_text(TABLES)
    monkeypatch.setattr(faults, "ROOT", tmp_path)
    monkeypatch.setattr(faults, "load_faults", lambda: dict.fromkeys(("ks-offset", "weights-bf16")))
    assert faults.main(as_json=False) == 1
    assert capsys.readouterr().out == "no page has figures of weights-bf16\n"
    assert not (tmp_path / faults.PAGE).exists()


def test_a_page_says_where_each_row_stands():
    rows = dict.fromkeys(load_faults(), Row("any", "5/5", "1.0 (2.3)", "sessions.md", "Planted bugs"))
    line = next(line for line in as_markdown(rows).splitlines() if line.startswith("| ks-offset |"))
    title = load_faults()["ks-offset"].title
    where = "[Planted bugs](sessions.md#planted-bugs)"
    assert line == f"| ks-offset | {title} | prefill_logits | 5/5 | 1.0 (2.3) | {where} |"
    with pytest.raises(KeyError):
        as_markdown({})
