import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from indexfuzz.report.chart import HEIGHT, WIDTH, count_over_time
from indexfuzz.report.evidence import Evidence, Excerpt, excerpt
from indexfuzz.report.page import render_page
from indexfuzz.report.story import read_story
from tests.report.test_story import CASE, END, FOUND, START, log, written  # noqa: F401 - a fixture among them

PLAIN = Evidence(
    signature="rope/bound-exceeded/q",
    detail="q was not rotated",
    promise="within the contract",
    status="open",
    note="",
    link="",
    location="",
    file="corpus/rope/0123456789abcdef.json",
    case=(("model", "num_heads", "1"),),
)
HOSTILE = '<img src="https://example.org/x" onerror=alert(1)></pre></script>{{ 7 * 7 }}'


class Page(HTMLParser):
    """Tags, ids and links of a page; fails on tags that are not closed in order."""

    VOID = frozenset({"meta", "link", "img", "polyline", "line"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.text = [], [], [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        fields = dict(attrs)
        self.tags.append((tag, fields))
        self.ids += [fields["id"]] if "id" in fields else []
        self.links += [fields[name] for name in ("href", "src") if name in fields]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_everything_that_is_known_is_told():
    told = replace(
        PLAIN,
        now="STILL FAILS",
        explanation=("It passes with rope.mode inplace instead of functional.",),
        source=Excerpt("kernels/rope.py", ((7, "    x = 1", False), (8, "    y = x", True)), ("", "TF-")),
        commands=(("again", "indexfuzz replay x.json"),),
        repro="import torch",
        severity="Of the true top-k keys 61.2% are still selected.",
        absence="There is nothing to draw: the launch ends without a result.",
    )
    page = Page(render_page("IndexFuzz: toy", [told]))
    for words in (
        told.signature,
        told.detail,
        *told.explanation,
        told.severity,
        told.absence,
        "y = x",
        "num_heads",
        "import torch",
    ):
        assert words in page.text
    assert "was further off than rounding explains" in page.text
    assert "TF-8    y = x" in page.text
    assert "T, F and M where a mask on it was all true" in page.text
    blamed = [fields for tag, fields in page.tags if tag == "span" and "blamed" in fields.get("class", "")]
    assert len(blamed) == 1


def test_what_is_seen_again_is_told_with_its_finding_and_what_was_known_apart(log):  # noqa: F811
    again = FOUND | {"event": "known"}
    symptom = again | {"signature": "rope/bound-exceeded/k", "by": FOUND["signature"]}
    known = again | {"signature": "gather/race/k_out"}
    story = read_story(written(log, START, CASE, FOUND | {"event": "seen"}, again, symptom, known, FOUND, END))
    text = " ".join(Page(render_page("IndexFuzz", [replace(PLAIN, signature=FOUND["signature"])], story)).text.split())
    assert "Seen 1 time more in this run." in text
    assert "Also seen as rope/bound-exceeded/k, most likely a symptom of the same bug." in text
    assert text.endswith("known before the run, and seen againcases gather/race/k_out1")


def test_an_issue_is_a_link():
    page = Page(render_page("IndexFuzz", [replace(PLAIN, link="https://example.org/7?a=1&b=2")]))
    assert "https://example.org/7?a=1&b=2" in page.links
    assert "https://example.org/7?a=1&b=2" in page.text


@pytest.mark.parametrize("name", ["detail", "note", "file", "now", "repro", "severity"])
def test_nothing_that_a_file_says_becomes_markup(name):
    page = Page(render_page(HOSTILE, [replace(PLAIN, **{name: HOSTILE})]))
    assert HOSTILE in page.text
    assert not [tag for tag, _ in page.tags if tag in ("img", "script")]


def test_a_page_needs_no_network_and_leads_to_its_own_parts():
    page = Page(render_page("IndexFuzz", [PLAIN, replace(PLAIN, signature="gather/race/k_out")]))
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_what_scrolls_can_be_reached_by_keyboard_and_has_a_name():
    told = replace(PLAIN, repro="x", source=Excerpt("a.py", ((1, "x", True),)), commands=(("again", "x"),))
    tags = Page(render_page("IndexFuzz", [told])).tags
    scrolling = [fields for tag, fields in tags if tag == "pre" or fields.get("class") == "scroll"]
    assert len(scrolling) == 4
    assert all(fields["tabindex"] == "0" and fields["aria-label"] for fields in scrolling)


def _luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


ON = {"ground": ("text", "quiet", "link", "bad"), "raised": ("text", "quiet"), "blamed": ("text", "quiet")}


@pytest.mark.parametrize("scheme", [0, 1])
@pytest.mark.parametrize(("front", "back"), [(front, back) for back, fronts in ON.items() for front in fronts])
def test_text_can_be_read_in_light_and_dark(scheme, front, back):
    """A contrast of 4.5 to 1: level AA of WCAG 2.2, criterion 1.4.3."""
    schemes = render_page("IndexFuzz", []).split("prefers-color-scheme: dark")
    colours = dict(re.findall(r"--(\w+): (#\w+)", schemes[scheme]))
    one, two = (_luminance(colours[name]) for name in (front, back))
    assert (max(one, two) + 0.05) / (min(one, two) + 0.05) >= 4.5


def test_a_run_is_told_with_its_curve(log):  # noqa: F811
    story = read_story(written(log, START, CASE, CASE, FOUND | {"event": "seen"}, END))
    page = Page(render_page("IndexFuzz", [PLAIN], story))
    assert "2 cases in 9 s" in " ".join(page.text.split())
    assert [tag for tag, _ in page.tags].count("polyline") == 1
    assert "The run did not come to its end." not in page.text
    story.end = None
    assert "The run did not come to its end." in Page(render_page("IndexFuzz", [], story)).text


def test_a_curve_goes_from_nothing_to_all():
    curve = count_over_time([float(i) for i in range(10_000)], 20_000.0)
    points = [tuple(map(float, point.split(","))) for point in curve.points.split()]
    assert (points[0], points[-1]) == ((0.0, HEIGHT), (WIDTH, 0.0))
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    assert len(points) < 400
    assert count_over_time([], 0.0).points == f"0.0,{HEIGHT:.1f} {WIDTH:.1f},{HEIGHT:.1f}"


def test_an_excerpt_is_of_the_blamed_line(tmp_path):
    file = tmp_path / "kernel.py"
    file.write_text("".join(f"line {n}\n" for n in range(1, 31)))
    shown = excerpt(f"{file}:3")
    assert [number for number, _, _ in shown.lines] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [text for _, text, is_blamed in shown.lines if is_blamed] == ["line 3"]
    assert excerpt(f"{file}:0") is None
    assert excerpt(f"{file}:99") is excerpt("") is excerpt("nowhere.py:1") is None
