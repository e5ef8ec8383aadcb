"""Pictures: as data, on a terminal, as SVG and PNG, and what they show of planted bugs."""

import importlib
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import triton
import triton.language as tl
from rich.console import Console

from indexfuzz.cli.picture import print_picture
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.devices import open_device
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.faults import plant
from indexfuzz.kernels.cache import k_quant_cache
from indexfuzz.lockstep import Lockstep
from indexfuzz.lockstep.source.search import find_violation
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles import composition
from indexfuzz.report.pictures.draw import draw
from indexfuzz.report.pictures.grid import MOST_ROWS, Panel, Picture, Shade, first_of
from indexfuzz.report.pictures.lanes import draw_lanes
from indexfuzz.report.pictures.shapes import FILL, MARGIN, WHITE, Box, Words, lay_out
from indexfuzz.report.pictures.svg import render_svg
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.look import Look
from indexfuzz.triage.looking import look_at

LEGEND = (Shade("X", "wrong", "wrong"), Shade("o", "right <as ever>", "right"), Shade(".", "hidden", "ground"))
PICTURE = Picture(
    "logits",
    (Panel("actual", ("row 0", "row 1"), ("oooo....", "ooXo....")),),
    LEGEND,
    (1, 2),
    ("is 1 & must be 2",),
)

ONE_TOKEN = Case().replace(
    model={"head_dim": 32, "rope_dim": 16, "quant_group": 32},
    cache={"block_size": 1},
    batch={"prefill": ({"length": 1, "new": 1},)},
)


def _drawn(fault: str, case: Case, stage: str) -> tuple[Picture, ...]:
    subject = InProcess(plant((fault,)), open_device("lockstep"))
    finding = next(f for f in subject.run(case, frozenset({stage})).findings if f.stage == stage)
    look = look_at(case, finding.signature, subject)
    assert look
    return draw(look)


def _wide(rows: int, columns: int, mark: tuple[int, int]) -> Picture:
    cells = tuple("".join("X" if (r, c) == mark else "o."[(r + c) % 2] for c in range(columns)) for r in range(rows))
    return Picture("wide", (Panel("is", tuple(map(str, range(rows))), cells),), LEGEND, mark, ())


def test_what_matters_more_wins_where_cells_are_drawn_as_one():
    fitted = _wide(4, 100, (2, 61)).fitted(30)
    (panel,) = fitted.panels
    assert panel.columns == 25
    assert fitted.mark == (2, 15)
    assert panel.cells[2][15] == "X"
    assert "A cell stands for 4 columns." in fitted.notes


def test_rows_around_the_mark_stay():
    fitted = _wide(100, 8, (70, 3)).fitted(30)
    assert fitted.mark is not None
    assert len(fitted.panels[0].cells) == MOST_ROWS
    assert fitted.panels[0].labels[fitted.mark[0]] == "70"


def test_rows_that_say_the_same_become_one_row_of_dots():
    cells = ("o",) * 10 + ("X",) + ("o",) * 10
    picture = Picture("", (Panel("is", tuple(map(str, range(21))), cells),), LEGEND, (10, 0), ())
    fitted = picture.fitted(30)
    assert fitted.panels[0].labels == ("0", "...", "9", "10", "11", "...", "20")
    assert fitted.mark == (3, 0)


def test_svg_is_well_formed_has_a_title_and_marks_the_first_difference():
    root = ET.fromstring(render_svg(PICTURE, "p1"))
    space = "{http://www.w3.org/2000/svg}"
    title, told = root.find(f"{space}title"), root.find(f"{space}desc")
    assert title is not None
    assert told is not None
    assert title.text == "logits"
    assert "is 1 & must be 2" in (told.text or "")
    assert root.attrib["aria-labelledby"] == "p1-title p1-desc"
    rects = root.findall(f"{space}rect")
    assert [r.attrib["fill"] for r in rects].count(FILL["wrong"]) == 2  # the cell, and the legend
    assert sum(r.attrib["fill"] == "none" for r in rects) == 1


def test_png_has_the_colours_the_letters_and_the_mark_with_no_font_installed():
    image = pytest.importorskip("PIL.Image", reason="needs Pillow, of the extra png")
    png = importlib.import_module("indexfuzz.report.pictures.png")
    scale = png.SCALE
    drawing = lay_out(PICTURE)
    drawn = image.open(io.BytesIO(png.render_png(PICTURE)))
    assert drawn.size == (scale * (drawing.width + 2 * MARGIN), scale * (drawing.height + 2 * MARGIN))

    def colours(shape: Box | Words, width: float, above: float, below: float) -> set[str]:
        x, y = scale * (shape.x + MARGIN), scale * (shape.y + MARGIN)
        part = drawn.crop((int(x), int(y - scale * above), int(x + scale * width), int(y + scale * below)))
        return {"#{:02x}{:02x}{:02x}".format(*pixel) for _, pixel in part.getcolors(1 << 16)}

    for box in (shape for shape in drawing.shapes if isinstance(shape, Box)):
        assert {box.fill, box.edge} - {"none"} <= colours(box, box.size + 1, 1, box.size + 1)
    for words in (shape for shape in drawing.shapes if isinstance(shape, Words) and len(shape.text) > 1):
        assert words.ink in colours(words, 6 * len(words.text), words.size, 2)
    wrong = next(s for s in drawing.shapes if isinstance(s, Words) and s.text == "X")
    assert WHITE in colours(replace(wrong, x=wrong.x - 4), 8, 7, 1)


def _printed(picture: Picture, **options: bool | int | str) -> str:
    stream = io.StringIO()
    print_picture(picture, Console(file=stream, **options))
    return stream.getvalue()


def test_labels_that_are_long_leave_room_for_themselves():
    wide = replace(PICTURE, panels=(Panel("actual", ("program (0, 1000, 0)", "row 1"), PICTURE.panels[0].cells),))
    first = min(int(x) for x in re.findall(r'<rect x="(\d+)" y="\d+" width="12"', render_svg(wide)) if int(x))
    assert first > 6.7 * len("program (0, 1000, 0)")


@pytest.mark.parametrize("no_color", [True, False])
def test_a_terminal_shows_letters_with_and_without_colours(no_color: bool):
    text = _printed(PICTURE, width=80, force_terminal=True, no_color=no_color, color_system="truecolor")
    assert ("48;2" in text) is not no_color
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "row 1  ooXo....  <- cell 2" in plain
    assert "X wrong" in plain
    assert "is 1 & must be 2" in plain


def test_a_narrow_terminal_gets_fewer_cells():
    lines = _printed(_wide(3, 200, (1, 190)), width=40).splitlines()
    assert any("<- cell" in line for line in lines)
    assert all(len(line) <= 40 for line in lines)


def test_the_cache_shows_bytes_of_another_layout_where_they_do_not_belong():
    (picture,) = _drawn("layout-hardcoded-shuffle", ONE_TOKEN, "k_quant_cache")
    expected, actual = picture.panels
    assert expected.cells[0] == "a" * 32
    assert actual.cells[0] == "a" * 16 + "-" * 16
    assert "A" * 16 in "".join(actual.cells[2:])
    assert picture.mark == (0, 16)
    assert "byte 16 of the page: should be token 0, dim 16, is nobody's" in picture.notes


def test_a_cache_that_a_caller_fills_by_copies_is_drawn_by_what_it_holds():
    def inserted(k, cache, slot_mapping, **options):
        mine = cache.clone()
        k_quant_cache(k, mine, slot_mapping, **options)
        mine.view(-1, 36)[:, 32:].view(torch.float32).mul_(2)
        cache.copy_(mine)

    def forgotten(**_):
        pass

    cells = []
    for function in (inserted, forgotten):
        own = Implementation("own", {"k_quant_cache": function})
        subject = InProcess(own, open_device("lockstep"))
        finding = next(f for f in subject.run(ONE_TOKEN).findings if f.stage == "k_quant_cache")
        look = look_at(ONE_TOKEN, finding.signature, subject)
        assert look
        (picture,) = draw(look)
        cells.append(picture.panels[1].cells)
    assert cells[0] == ("a" * 32, "aa!!")
    assert cells[1] == ("-" * 32, "-" * 4)


def test_interleaved_exponents_are_drawn_where_each_belongs():
    """Some of the key's values are zeros, and are written as negative ones."""
    cache = {"block_size": 16, "layout": "shuffle-scales", "scales": "mxfp4"}
    case = ONE_TOKEN.replace(model={"quant_group": 8}, cache=cache)
    (picture,) = _drawn("interleaved-scales-written-in-rows", case, "k_quant_cache")
    expected, actual = (panel.cells for panel in picture.panels)
    assert actual[0] == expected[0] == "a" * 16
    assert expected[16:] == ("a" + "." * 15,) * 4
    assert actual[16:] == ("aAAA" + "." * 12, *("-" + "." * 15,) * 3)
    assert picture.panels[0].title == "should be (SHUFFLE-SCALES)"
    assert picture.mark == (16, 1)


def test_elements_show_what_was_not_rotated():
    case = ONE_TOKEN.replace(rope={"mode": "functional"}, batch={"prefill": ({"length": 3, "new": 3},)})
    (picture,) = _drawn("rope-result-discarded", case, "rope")
    (panel,) = picture.panels
    assert first_of(panel.cells, "X") == picture.mark
    assert {row[16:] for row in panel.cells} == {"." * 16}


def test_of_a_session_the_rows_of_the_step_are_drawn_that_shows_it():
    steps = ({"turns": ({"request": 0, "new": 1},)}, {"turns": ({"request": 0, "new": 2},)})
    case = Case().replace(
        model={"head_dim": 32, "rope_dim": 2, "quant_group": 32},
        cache={"layout": "normal"},
        batch={"max_model_len": 4},
        session={"node": "compress", "ratio": 2, "steps": steps},
    )
    (picture,) = _drawn("compress-groups-from-chunk-start", case, "compress")
    (panel,) = picture.panels
    assert panel.labels == ("token 0", "token 1")
    assert set(panel.cells[0]) == {"u"}
    assert set(panel.cells[1]) == {"X"}
    assert picture.notes[-1] == "step 1 of the session: request 0 appends tokens 1 to 2; key 0 is due"


def test_rows_that_nothing_is_written_to_are_told_from_right_ones():
    steps = ({"turns": ({"request": 0, "new": 2},)},)
    case = Case().replace(
        model={"head_dim": 32, "rope_dim": 2, "quant_group": 32},
        cache={"layout": "normal"},
        batch={"max_model_len": 4},
        session={"node": "compress", "ratio": 2, "overlap": True, "steps": steps},
    )
    (picture,) = _drawn("compress-halves-swapped", case, "compress")
    none, due = picture.panels[0].cells
    assert set(none) == {"-"}
    assert set(due) <= {"X", "o", "."}


def test_keys_that_an_operation_inserts_are_drawn_as_they_lie_in_the_cache():
    steps = ({"turns": ({"request": 0, "new": 4},)},)
    case = Case().replace(
        model={"head_dim": 32, "rope_dim": 32, "quant_group": 32},
        cache={"layout": "normal"},
        batch={"max_model_len": 4},
        session={"node": "fused_compress", "ratio": 2, "steps": steps},
    )
    picture = _drawn("fused-compress-angles-of-last-token", case, "fused_compress")[0]
    assert picture.title == "cache_values: token x dim"
    cells = picture.panels[0].cells
    assert [set(row) for row in cells[::2]] == [{"-"}, {"-"}]
    assert "X" in "".join(cells[1::2])
    assert set("".join(cells[1::2])) <= {".", "X"}


def test_bytes_of_the_cache_that_no_key_owns_are_drawn_in_their_page():
    steps = ({"turns": ({"request": 0, "new": 1},)},)
    case = Case().replace(
        model={"head_dim": 32, "rope_dim": 2, "quant_group": 32},
        cache={"layout": "normal", "block_size": 16},
        batch={"max_model_len": 4},
        session={"node": "fused_compress", "ratio": 2, "steps": steps},
    )
    picture = _drawn("fused-compress-scale-where-none-is-due", case, "fused_compress")[-1]
    assert picture.title == "cache: block x offset x byte"
    assert "".join(picture.panels[0].cells).count("X") in range(1, 5)


def test_memory_that_was_read_though_nobody_wrote_it_is_drawn_in_its_buffer():
    case = ONE_TOKEN.replace(cache={"block_size": 16}, batch={"prefill": (), "decode": (1,), "max_model_len": 1})
    picture, *_ = _drawn("layout-preshuffle-64-only", case, "paged_logits")
    (panel,) = picture.panels
    assert picture.title == "memory that nobody wrote"
    assert picture.mark is not None
    row, column = picture.mark
    assert (panel.labels[row], column) == ("+0", 16)
    assert panel.cells[row] == "r" * 16 + "X" * 16 + "u" * 32
    assert panel.cells[row - 1] == "." * 64
    assert panel.cells[panel.labels.index("+256")][:17] == "w" * 16 + "u"
    assert any(
        "byte 16 of cache: page 0, token 1, dim 0 of cache (SHUFFLE), where nobody wrote" in n for n in picture.notes
    )


def test_accesses_beyond_a_tensor_that_the_caller_of_a_kernel_makes_are_drawn():
    planted = plant(("gather-all-that-there-is",))

    def gather(token_to_seq: torch.Tensor, **others: object) -> None:
        planted.stages["gather"](token_to_seq=token_to_seq.clone(), **others)

    case = ONE_TOKEN.replace(batch={"prefill": ({"length": 2, "new": 1},), "gather_cut": 1})
    subject = InProcess(replace(planted, stages={**planted.stages, "gather": gather}), open_device("lockstep"))
    finding = next(f for f in subject.run(case).findings if f.stage == "gather")
    look = look_at(case, finding.signature, subject)
    assert isinstance(look, Look)
    picture = draw(look)[0]
    assert picture.title == "memory around the buffer"
    assert picture.notes[-1] == (
        "Bytes are counted from the start of token_to_seq_ptr, a tensor that the caller of the kernel makes."
    )
    (panel,) = picture.panels
    assert picture.mark == (panel.labels.index("+0"), 4)
    assert panel.cells[picture.mark[0]][:8] == "aaaaXXXX"


def test_lanes_whose_offset_overflows_are_drawn_with_where_they_point():
    case = ONE_TOKEN.replace(
        model={"num_heads": 1, "head_dim": 16, "quant_group": 16, "index_topk": 1},
        batch={"prefill": (), "decode": (0,), "max_model_len": 1, "pad_tokens": 2},
        memory={"far": "columns"},
    )
    picture, memory = _drawn("select-columns-in-32-bits", case, "select")
    assert picture.title == "offsets that overflow"
    assert (picture.panels[0].labels, picture.panels[0].cells) == (("the only lane",), ("X",))
    assert picture.notes == (
        "the first that overflowed points to byte -8589934592 of columns_ptr",
        "in 64 bits it would be byte 8589934592, which lies in its buffer",
    )
    assert memory.panels[0].labels[memory.mark[0]] == "-8589934592"


def test_another_shape_is_drawn_beside_the_one_that_it_must_have():
    case = ONE_TOKEN.replace(model={"index_topk": 3})
    (picture,) = _drawn("topk-row-narrow", case, "topk")
    expected, actual = picture.panels
    assert (expected.title, expected.cells) == ("should be 1 x 3", ("###",))
    assert (actual.title, actual.cells) == ("is 1 x 1", (".mm",))
    assert picture.mark == (0, 1)


@triton.jit
def _masked_off_without_other(x, out):
    lane = tl.arange(0, 4)
    tl.store(out + lane, tl.load(x + lane, mask=lane < 3))


def test_lanes_that_a_mask_left_undefined_are_drawn():
    recorder = Recorder()
    with Lockstep(recorder=recorder) as machine:
        _masked_off_without_other[(1,)](torch.zeros(4), torch.zeros(4))
    (seen,) = machine.drain()
    doing = find_violation(recorder, seen.kind, seen.argument or "", seen.file, seen.line)
    finding = Finding("rope", seen.kind, seen.argument or "", seen.message)
    picture = draw_lanes(cast("Look", SimpleNamespace(finding=finding, doing=lambda: doing)))
    assert picture is not None
    assert picture.title == "lanes that hold nothing"
    assert (picture.panels[0].labels, picture.panels[0].cells) == (("all lanes",), ("...X",))


def test_programs_that_store_different_values_to_one_byte_have_a_row_each():
    turns = {"turns": ({"request": 0, "new": 17},)}
    case = ONE_TOKEN.replace(
        batch={"prefill": (), "max_model_len": 17}, session={"node": "compress", "ratio": 2, "steps": (turns,)}
    )
    subject = InProcess(plant(("compress-rows-of-ring-race",)), open_device("lockstep"))
    finding = next(f for f in subject.run(case).findings if f.kind == "race")
    look = look_at(case, finding.signature, subject)
    assert isinstance(look, Look)
    picture, *_ = draw(look)
    (panel,) = picture.panels
    assert picture.title == "who stores which byte"
    assert panel.labels == ("program (0, 0, 0)", "program (0, 1, 0)")
    assert panel.cells == ("X" * 64, "X" * 64)
    assert picture.notes[0].startswith("byte 0 of state_ptr, ring 0, row 0, part 0, column 0 of state:")
    values = [note.partition(" stores ")[2] for note in picture.notes[1:3]]
    assert len(set(values)) == 2
    told = "\n".join(look.sentences())
    assert "position = 14" in told
    assert "And for the same byte:\nIn save_kernel (compress.py), program (0, 1, 0)" in told
    assert "position = 16" in told


def test_what_the_whole_indexer_selects_is_drawn_beside_what_its_stages_select():
    case = Case().replace(
        model={"index_topk": 1}, batch={"prefill": ({"length": 1, "new": 1}, {"length": 1, "new": 1}), "pad_tokens": 1}
    )
    subject = InProcess(plant(("offset-of-another-row",)), open_device("lockstep"))
    (finding,) = composition.run(case, subject.implementation, subject.device).findings
    look = look_at(case, finding.signature, subject)
    assert look
    (picture,) = draw(look)
    (panel,) = picture.panels
    assert picture.title == "selected: token x entry"
    assert panel.cells == ("X", "X", ".")
    assert picture.mark == (0, 0)
    assert "first wrong: selected[0, 0]" in picture.notes


def test_a_picture_of_right_logits_has_no_mark():
    assert first_of(("oo..", "O..."), "X") is None
    assert replace(PICTURE, mark=None).fitted(10).mark is None


def test_an_input_that_was_written_to_is_drawn_as_it_was_left():
    case = ONE_TOKEN.replace(
        model={"num_heads": 1}, rope={"mode": "functional"}, batch={"prefill": ({"length": 2, "new": 2},)}
    )
    picture = next(p for p in _drawn("rope-changes-arguments", case, "rope") if "input" in p.title)
    (panel,) = picture.panels
    assert picture.title == "q, an input that was written to: token x head x dim"
    assert panel.labels == ("token 0, head 0", "token 1, head 0")
    assert picture.mark is not None
    assert panel.cells[picture.mark[0]][picture.mark[1]] == "X"
    assert set("".join(panel.cells)) == {"X", "."}
    assert re.search(r"q\[\d, 0, \d+\] was given as .* and left as", picture.notes[0])
    assert not any("input" in p.title for p in _drawn("rope-result-discarded", case, "rope"))


def test_a_narrow_picture_is_as_wide_as_what_stands_above_it():
    panel = Panel("actual, against the reference, as far as it is known at all", ("row 0",), ("oX",))
    title = f"{PICTURE.title}: {panel.title}"
    svg = ET.fromstring(render_svg(replace(PICTURE, panels=(panel,), mark=(0, 1))))
    assert int(svg.attrib["width"]) >= 7 * len(title)
