"""What a campaign did, counted from its events, in memory that does not grow with it."""

from io import StringIO

from rich.console import Console

from indexfuzz.campaign.events import CaseRun
from indexfuzz.campaign.summary import Summary
from indexfuzz.cli.report import _print_widths
from indexfuzz.core.case import Case
from indexfuzz.core.outcome import Outcome


def test_what_operations_leave_open_is_told_on_average_and_at_most():
    summary, text = Summary(), StringIO()
    for widths in ({"pool": 0.5, "fused_q": 0.0}, {"pool": 0.25}, {}):
        summary.hear(CaseRun(Outcome(Case(), widths=widths)))
    pool = summary.widths["pool"]
    assert (pool.cases, pool.mean, pool.most) == (2, 0.375, 0.5)
    _print_widths(Console(file=text, width=120), summary.widths)
    assert text.getvalue() == "  elements with more than one legal value: pool 37.50% (at most 50.00%)\n"
