"""The report as one HTML page that holds everything: no script, no network, light and dark, on paper and on a phone."""

from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from indexfuzz.core.kinds import meaning_of
from indexfuzz.core.signature import Signature
from indexfuzz.report.chart import HEIGHT, WIDTH, count_over_time
from indexfuzz.report.evidence import Evidence
from indexfuzz.report.pictures.svg import render_svg
from indexfuzz.report.story import Story

TEMPLATE = "page.html"


def render_page(title: str, evidence: Sequence[Evidence], story: Story | None = None) -> str:
    """The page. Whatever a file or a kernel says is text in it: nothing of that becomes markup."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("indexfuzz.report") / TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        title=title,
        evidence=evidence,
        render_svg=lambda picture, name: Markup(render_svg(picture, name)),  # noqa: S704 - it escapes what it is given
        meanings={each.signature: meaning_of(Signature.parse(each.signature).kind) for each in evidence},
        story=story,
        curve=count_over_time(story.cases, story.seconds) if story else None,
        findings_at=[time / max(story.seconds, 1e-9) * WIDTH for time in story.findings] if story else [],
        width=WIDTH,
        height=HEIGHT,
    )
