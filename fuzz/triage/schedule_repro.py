"""A script for keys that depend on the schedule: the same tokens in two, each on a state of its own, side by side."""

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import inserts
from indexfuzz.corpus.entry import Record
from indexfuzz.oracles import schedules, sessions
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.launches import Launch, ReproError, all_launches
from indexfuzz.triage.repro_source import kernel_source
from indexfuzz.triage.repro_text import assemble, tell_written, write_launches

COMPARE = """for name in [name for name in ONE if name in OTHER]:
    one, other = ONE[name], OTHER[name]
    wrong = (raw(one) != raw(other)).nonzero().flatten().tolist()
    if wrong:
        dim = wrong[0] // one.itemsize
        print(f"key {name[1]} of request {name[0]}, dim {dim} is {one[dim].item()} in one schedule, "
              f"{other[dim].item()} in the other")
        raise SystemExit(1)
print("both schedules leave the same keys")
"""


def schedule_script(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The text of the script; it ends with 1 where the schedules leave other bytes in a key.

    Raises ReproError where its inputs are too large, and where the operation hands no keys on: it inserts them itself.
    """
    subject, node = target.subject, case.session.node
    if inserts(node):
        raise ReproError(f"{node} inserts its keys, which a script does not compare; `indexfuzz replay` does")
    tokens = schedules.same_tokens(sessions.end_of(case, subject.device, subject.implementation))
    twin = schedules.twin_of(case)
    one, other = all_launches(case, subject), all_launches(twin, subject, tokens)
    first = write_launches(case, one, {}, lambda launch: _keep("ONE", launch))
    second = write_launches(twin, other, {}, lambda launch: _keep("OTHER", launch))
    body = (
        f"{tell_written(one[0])}# Keys by request and number: those of rejected drafts give way to what comes later.\n"
        f"ONE, OTHER = {{}}, {{}}\n\n# The first schedule.\n{first}# The same tokens in other steps.\n{second}{COMPARE}"
    )
    return assemble(subject.facts.name, node, finding, kernel_source(target, node, case), body)


def _keep(name: str, launch: Launch) -> str:
    """A statement that keeps the keys of a launch."""
    if not launch.due:
        return ""
    return f"{name} |= {{{', '.join(f'{key}: keys[{row}].clone()' for row, key in launch.due.items())}}}\n"
