"""A picture as SVG: one file that needs nothing else, or a part of a page.

Colours are those of Okabe and Ito ("Color Universal Design", 2008), which people with any kind of colour blindness can
tell apart, on light ground in every theme; each cell also shows its letter.
"""

from html import escape

from indexfuzz.report.pictures.grid import Panel, Picture, Tone

MOST_COLUMNS = 128
"""Cells in a row, at most."""

CELL, LABEL, GAP, LINE = 12, 110, 22, 16
LETTER = 7
"""Pixels that a letter of a label or a note takes at most; LABEL is the least that is left for labels."""

FILL: dict[Tone, str] = {
    "ground": "#ffffff",
    "quiet": "#e4e7eb",
    "right": "#9ad0f0",
    "near": "#f0e442",
    "wrong": "#d55e00",
    "missing": "#000000",
    "extra": "#cc79a7",
    "one": "#9ad0f0",
    "two": "#8fd9bf",
    "three": "#f3d08a",
    "four": "#d5c4e8",
}
DARK: frozenset[Tone] = frozenset({"wrong", "missing"})
"""Tones that letters are white on."""


def render_svg(picture: Picture, name: str = "picture") -> str:
    """The SVG of a picture; `name` makes its ids differ from those of others on a page."""
    picture = picture.fitted(MOST_COLUMNS)
    lines, y = [], 20
    left = max([LABEL, *(LETTER * len(label) + 4 for panel in picture.panels for label in panel.labels)])
    for panel in picture.panels:
        lines += _panel(panel, picture, left, y)
        y += GAP + CELL * len(panel.cells) + GAP
    for shade in picture.used_legend():
        lines += [_cell(0, y, shade.letter, shade.tone), _text(CELL + 8, y + 10, shade.label)]
        y += LINE + 2
    for note in picture.notes:
        lines.append(_text(0, y + 12, note))
        y += LINE
    lengths = [*map(len, picture.notes), *(len(_heading(panel, picture)) for panel in picture.panels)]
    width = max(left + CELL * max(panel.columns for panel in picture.panels) + 8, LETTER * max(lengths), 320)
    told = " ".join((*picture.notes, *(f"{s.letter}: {s.label}." for s in picture.used_legend())))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + 8}" width="{width}" height="{y + 8}" '
        f'role="img" aria-labelledby="{name}-title {name}-desc" font-family="ui-monospace, monospace" font-size="11">'
        f'<title id="{name}-title">{escape(picture.title)}</title><desc id="{name}-desc">{escape(told)}</desc>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(lines)}</svg>'
    )


def _heading(panel: Panel, picture: Picture) -> str:
    return f"{picture.title}: {panel.title}"


def _panel(panel: Panel, picture: Picture, left: int, y: int) -> list[str]:
    tones = {shade.letter: shade.tone for shade in picture.legend}
    lines = [_text(0, y, _heading(panel, picture), bold=True)]
    top = y + 8
    for number, (label, cells) in enumerate(zip(panel.labels, panel.cells, strict=True)):
        place = top + CELL * number
        lines.append(_text(0, place + 10, label))
        lines += [_cell(left + CELL * at, place, letter, tones[letter]) for at, letter in enumerate(cells)]
    if picture.mark and picture.mark[0] < len(panel.cells):
        row, column = picture.mark
        lines.append(
            f'<rect x="{left + CELL * column - 1}" y="{top + CELL * row - 1}" width="{CELL + 2}" height="{CELL + 2}" '
            'fill="none" stroke="#000000" stroke-width="2.5"/>'
        )
    return lines


def _cell(x: int, y: int, letter: str, tone: Tone) -> str:
    ink = "#ffffff" if tone in DARK else "#000000"
    return (
        f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{FILL[tone]}" stroke="#8a929b" '
        f'stroke-width=".4"/><text x="{x + CELL / 2:g}" y="{y + 9.5:g}" text-anchor="middle" font-size="9" '
        f'fill="{ink}">{escape(letter)}</text>'
    )


def _text(x: int, y: int, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" fill="#000000"{weight}>{escape(text)}</text>'
