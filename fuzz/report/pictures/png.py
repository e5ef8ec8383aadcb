"""A picture as PNG, for places that show no SVG: Pillow draws it, with the font that it brings, so none is needed."""

import io
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from indexfuzz.report.pictures.grid import Picture
from indexfuzz.report.pictures.shapes import MARGIN, WHITE, Box, Words, lay_out

SCALE = 2
"""Pixels of the file for each of the drawing: enough for screens with small pixels, and for slides."""


def render_png(picture: Picture) -> bytes:
    """The PNG file of a picture."""
    drawing = lay_out(picture)
    size = (SCALE * (drawing.width + 2 * MARGIN), SCALE * (drawing.height + 2 * MARGIN))
    image = Image.new("RGB", size, WHITE)
    canvas = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        if isinstance(shape, Box):
            _draw_box(canvas, shape)
        else:
            _draw_words(canvas, shape)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _draw_box(canvas: ImageDraw.ImageDraw, box: Box) -> None:
    """Pillow draws an edge inside the corners."""
    half = box.border / 2
    edges = (box.x - half, box.y - half, box.x + box.size + half, box.y + box.size + half)
    corners = [SCALE * (edge + MARGIN) for edge in edges]
    fill = None if box.fill == "none" else box.fill
    canvas.rectangle(corners, fill=fill, outline=box.edge, width=max(1, round(SCALE * box.border)))


def _draw_words(canvas: ImageDraw.ImageDraw, words: Words) -> None:
    """The font has one weight: bold letters get an edge."""
    canvas.text(
        (SCALE * (words.x + MARGIN), SCALE * (words.y + MARGIN)),
        words.text,
        fill=words.ink,
        font=_font(words.size),
        anchor="ms" if words.centred else "ls",
        stroke_width=0.5 if words.bold else 0,
    )


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(SCALE * size)
