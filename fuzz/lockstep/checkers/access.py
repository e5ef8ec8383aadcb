"""Every check that one load, store or atomic goes through."""

from functools import cache
from math import prod

import numpy as np

from indexfuzz.lockstep.checkers.bounds import check_bounds
from indexfuzz.lockstep.checkers.overflow import check_overflow
from indexfuzz.lockstep.checkers.undefined import check_defined
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.tracking.run import Run
from indexfuzz.lockstep.tracking.sites import current_site
from indexfuzz.lockstep.values.arrays import Mask
from indexfuzz.lockstep.values.dtypes import ScalarType
from indexfuzz.lockstep.values.value import Value


@cache
def every_lane(axes: int) -> Mask:
    """The mask of an access without one."""
    made = np.ones((1,) * axes, np.bool_)
    made.flags.writeable = False
    return made


def begin_access(run: Run, kind: str, pointer: Value, mask: Value | None, *values: Value) -> Access:
    """Check one access with everything that is switched on; the access with the lanes that may go on.

    kind is "load", "store" or "atomic", values are what is stored. Raises TypeError for a pointer from no argument.
    """
    allocation, element = pointer.allocation, pointer.ty.element
    if allocation is None or not isinstance(element, ScalarType):
        raise TypeError("an access needs a pointer that comes from a tensor argument")
    dims = pointer.dims
    every = every_lane(len(dims))
    wanted = every if mask is None else mask.data
    usable = wanted
    if run.checks.undefined:
        usable = check_defined(run, kind, pointer, mask, wanted, values)
    if run.checks.overflow and pointer.wrapped is not None:
        check_overflow(run, kind, pointer, usable)
    access = Access(
        kind,
        pointer,
        allocation,
        run.programs,
        element.itemsize,
        usable,
        wanted,
        run.atomics,
        run.barriers,
        prod(dims),
    )
    if mask is not None:
        count = int(np.count_nonzero(usable))
        if usable is not wanted or count < usable.size:
            access.narrow(usable, count)
    if access.everywhere:
        access.find_runs(every)
    inside = check_bounds(run, access)
    if inside is not None:
        access.keep(inside)
    if usable is not wanted or inside is not None:
        access.failed = wanted & ~access.lanes
    if allocation.buffers and kind != "store":
        access.uninitialised = access.find_unwritten()
        run.launch.is_closed &= access.uninitialised is None
    recorder = run.launch.recorder
    if recorder is not None and recorder.wants_accesses():
        run.keep_moment(pointer, access=access, stored=values)
    if (run.checks.races or run.checks.order) and kind != "atomic" and access.count:
        access.site = current_site()
        run.accesses.append(access)
    return access
