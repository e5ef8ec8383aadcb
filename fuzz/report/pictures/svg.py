"""A picture as SVG: one file that needs nothing else, or a part of a page."""

from html import escape

from indexfuzz.report.pictures.grid import Picture
from indexfuzz.report.pictures.shapes import BLACK, MARGIN, WHITE, Box, Words, lay_out


def render_svg(picture: Picture, name: str = "picture") -> str:
    """The SVG of a picture; `name` makes its ids differ from those of others on a page."""
    drawing = lay_out(picture)
    width, height = drawing.width + 2 * MARGIN, drawing.height + 2 * MARGIN
    ground = f'<rect x="{-MARGIN}" y="{-MARGIN}" width="{width}" height="{height}" fill="{WHITE}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-MARGIN} {-MARGIN} {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-labelledby="{name}-title {name}-desc" '
        f'font-family="ui-monospace, monospace" font-size="11">'
        f'<title id="{name}-title">{escape(drawing.title)}</title><desc id="{name}-desc">{escape(drawing.told)}</desc>'
        f"{ground}{''.join(map(_element, drawing.shapes))}</svg>"
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
