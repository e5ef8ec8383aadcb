"""A picture of a finding on a terminal: letters on colours where there are any, letters alone where not."""

from rich.console import Console
from rich.text import Text

from indexfuzz.report.pictures.grid import Panel, Picture, Tone

STYLES: dict[Tone, str] = {
    "ground": "dim",
    "quiet": "black on grey85",
    "right": "black on #9ad0f0",
    "near": "black on #f0e442",
    "wrong": "bold white on #d55e00",
    "missing": "white on black",
    "extra": "black on #cc79a7",
    "one": "black on #9ad0f0",
    "two": "black on #8fd9bf",
    "three": "black on #f3d08a",
    "four": "black on #d5c4e8",
}
"""Colours that colour-blind people can tell apart; `rich` leaves them out for NO_COLOR and where no terminal is."""

POINTER = "  <- cell "
NARROWEST = 40
WIDEST = 160


def print_picture(picture: Picture, console: Console) -> None:
    """Print the panels below each other, the legend, and the numbers of the first difference."""
    width = min(max(console.width, NARROWEST), WIDEST)
    label = max(len(text) for panel in picture.panels for text in panel.labels)
    picture = picture.fitted(width - label - len(POINTER) - 8)
    for panel in picture.panels:
        console.print(Text(f"\n  {picture.title}: {panel.title}", style="bold"))
        for row, text in enumerate(panel.labels):
            console.print(_row(picture, panel, row, f"  {text:<{label}}  "), no_wrap=True, crop=True)
    for shade in picture.used_legend():
        console.print(Text("  ").append(shade.letter, STYLES[shade.tone]).append(f" {shade.label}"))
    for note in picture.notes:
        console.print(Text(f"  {note}"))


def _row(picture: Picture, panel: Panel, row: int, label: str) -> Text:
    """One row; the first difference is pointed at where its row is."""
    tones = {shade.letter: shade.tone for shade in picture.legend}
    line = Text(label)
    for letter in panel.cells[row]:
        line.append(letter, STYLES[tones[letter]])
    if picture.mark and picture.mark[0] == row:
        line.append(f"{POINTER}{picture.mark[1]}")
    return line
