"""A picture as SVG: one file that needs nothing else, or a part of a page."""

from html import escape

from indexfuzz.report.pictures.grid import Picture
from indexfuzz.report.pictures.shapes import BLACK, WHITE, Box, Words, lay_out


def render_svg(picture: Picture, name: str = "picture") -> str:
    """The SVG of a picture; `name` makes its ids differ from those of others on a page."""
    drawing = lay_out(picture)
    width, height = drawing.width, drawing.height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-labelledby="{name}-title {name}-desc" font-family="ui-monospace, monospace" font-size="11">'
        f'<title id="{name}-title">{escape(drawing.title)}</title><desc id="{name}-desc">{escape(drawing.told)}</desc>'
        f'<rect width="100%" height="100%" fill="{WHITE}"/>{"".join(map(_element, drawing.shapes))}</svg>'
    )


def _element(shape: Box | Words) -> str:
    if isinstance(shape, Box):
        border = f"{shape.border:g}".removeprefix("0")
        return (
            f'<rect x="{shape.x}" y="{shape.y}" width="{shape.size}" height="{shape.size}" fill="{shape.fill}" '
            f'stroke="{shape.edge}" stroke-width="{border}"/>'
        )
    centred = ' text-anchor="middle"' if shape.centred else ""
    size = f' font-size="{shape.size}"' if shape.size != Words.size else ""
    weight = ' font-weight="bold"' if shape.bold else ""
    ink = f' fill="{shape.ink}"' if shape.ink != BLACK else ""
    return f'<text x="{shape.x:g}" y="{shape.y:g}"{centred}{size}{weight}{ink}>{escape(shape.text)}</text>'
