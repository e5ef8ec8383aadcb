"""Values that the program never defined, where they decide something: an address, a mask, a branch, a stored lane.

Values do not remember where they came from. A report lists what the program has loaded so far that nothing defined:
seldom more than one load, and it is among them.
"""

from typing import Final

import numpy as np

from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.run import Run
from indexfuzz.lockstep.tracking.sites import current_site
from indexfuzz.lockstep.values.arrays import Mask
from indexfuzz.lockstep.values.value import Value

MOST_REASONS: Final = 3
"""Loads that a report lists."""


def check_defined(
    run: Run, kind: str, pointer: Value, mask: Value | None, wanted: Mask, values: tuple[Value, ...]
) -> Mask:
    """Report undefined masks, addresses and stored lanes; the lanes that may go on."""
    usable = wanted
    if mask is not None and mask.undefined is not None and mask.undefined.any():
        report_undefined(run, pointer, mask.undefined, f"the mask of a {kind} is undefined")
        usable = usable & ~mask.undefined
    if pointer.undefined is not None:
        bad = pointer.undefined & usable
        if bad.any():
            report_undefined(run, pointer, bad, f"the address of a {kind} is undefined")
            usable = usable & ~pointer.undefined
    for value in values:
        if value.undefined is not None:
            bad = value.undefined & usable
            if bad.any():
                report_undefined(run, pointer, bad, f"a {kind} writes an undefined value")
    return usable


def report_undefined(run: Run, value: Value, lanes: Mask, message: str) -> None:
    """Report that something undefined is used in these lanes, and which loads of the program may be the reason."""
    if run.has_reported("uninitialised", value, current_site()):
        return
    program = int(np.argmax(lanes.reshape(lanes.shape[0], -1).any(1)))
    loads = [(reason, access) for access in run.undefined if (reason := _find_reason(access, program))]
    reasons = list(dict.fromkeys(reason for reason, _ in loads))
    if len(reasons) > MOST_REASONS:
        reasons[MOST_REASONS - 1 :] = [f"{len(reasons) - MOST_REASONS + 1} other loads"]
    sentence = ": ".join([message, " or ".join(reasons)] if reasons else [message])
    run.report("uninitialised", value, lanes, sentence, loads[0][1].pointer if loads else value)


def _find_reason(access: Access, program: int) -> str:
    """What a load left undefined in a program; empty when it left nothing so."""
    if access.undefined is None or access.site is None:
        return ""
    pointer = access.pointer
    shape = np.broadcast_shapes(access.undefined.shape, access.wanted.shape, pointer.data.shape)
    row = program if shape[0] > 1 else 0
    marks, wanted, offsets = (np.broadcast_to(a, shape)[row] for a in (access.undefined, access.wanted, pointer.data))
    if not marks.any():
        return ""
    line = f"line {access.site.line} loads {pointer.argument}"
    unwritten = marks & wanted
    if unwritten.any():
        byte = int(offsets.flat[int(np.argmax(unwritten))]) - pointer.base
        return f"{line} at byte {byte}, where nobody wrote"
    lane = tuple(int(i) for i in np.unravel_index(int(np.argmax(marks)), marks.shape))
    return f"{line}, lane {lane} masked off without `other`" if lane else f"{line}, masked off without `other`"
