"""Programs, and decisions that all of them have to agree on."""

import numpy as np

from indexfuzz.lockstep.checkers.undefined import report_undefined
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.tracking.divergence import Divergence, split_by
from indexfuzz.lockstep.values.arrays import Array, Mask
from indexfuzz.lockstep.values.dtypes import I32
from indexfuzz.lockstep.values.value import Value


class ControlOps(Context):
    """Program ids and branch conditions."""

    def create_get_program_id(self, axis: int) -> Value:
        """Which program this is, along an axis of the grid."""
        known = self.run.ids.get(axis)
        if known is None:
            known = self.run.ids[axis] = self._number_programs(axis)
        return known

    def _number_programs(self, axis: int) -> Value:
        launch, programs = self.run.launch, self.run.programs
        length = launch.grid[axis]
        data: Array
        if length == 1:
            return self._integer(0, I32)
        if length == launch.total:
            data, low, high = programs.astype(np.int32), int(programs[0]), int(programs[-1])
        else:
            divisor = (1, launch.grid[0], launch.grid[0] * launch.grid[1])[axis]
            data = (programs // divisor % length).astype(np.int32)
            low, high = int(data.min()), int(data.max())
        return Value(data[:1] if low == high else data, I32, low=low, high=high)

    def create_get_num_programs(self, axis: int) -> Value:
        """How many programs the grid has along an axis."""
        return self._integer(self.run.launch.grid[axis], I32)

    def decide(self, condition: Value) -> bool:
        """A condition's value where all programs agree on it; raises Divergence where they do not.

        An undefined one is false, so that no loop goes on for its sake.
        """
        self.check_used(condition, "a branch condition")
        data = condition.data if condition.undefined is None else condition.data & ~condition.undefined
        self.run.note_mask("branch", data)
        if data.shape[0] == 1 or (data == data[0]).all():
            return bool(data[0])
        raise Divergence(split_by(data))

    def check_used(self, value: Value, what: str) -> None:
        """Report a value that decides about control flow and that nothing defined."""
        if value.undefined is not None and self.run.checks.undefined and value.undefined.any():
            report_undefined(self.run, value, value.undefined, f"{what} is undefined")

    def note_mask(self, kind: str, mask: Mask | None) -> None:
        """Note a mask for the coverage, None for an operation without one."""
        self.run.note_mask(kind, mask)
