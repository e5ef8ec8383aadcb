"""What a kernel became for a target: instructions, registers, and memory, read from assembly and its assembler's log.

NVIDIA: PTX, and what ptxas -v says. AMD: the assembly of LLVM, whose metadata are those of the ELF notes.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from indexfuzz.compiling.dots import CONVERSION
from indexfuzz.compiling.specialisation import Compiled
from indexfuzz.devices.assembly import MATRIX

MATRICES: Mapping[str, re.Pattern[str]] = {
    "ptx": MATRIX,
    "amdgcn": re.compile(r"^\s*(v_s?w?mfma(?:c)?_\w+|v_wmma_\w+)", re.MULTILINE),
}
"""Form of assembly -> a matrix instruction in it."""

MULTIPLIES_FP8 = re.compile(r"\.e[45]m[23]\.e[45]m[23]|f8f6f4|_(?:fp8|bf8)_(?:fp8|bf8)")
"""In the opcode of a matrix instruction that takes FP8."""

CONVERSIONS: Mapping[str, re.Pattern[str]] = {
    "ptx": re.compile(r"^\s*(?:@\S+\s+)?(cvt\.\S*e[45]m[23]\S*)", re.MULTILINE),
    "amdgcn": re.compile(r"^\s*(v_cvt_\w*(?:fp8|bf8)\w*)", re.MULTILINE),
}
"""Form of assembly -> an instruction that converts from or to FP8."""

REGISTERS = {"ptx": r"Used (\d+) registers", "amdgcn": r"\.vgpr_count:\s+(\d+)"}
SPILLED = {"ptx": r"(\d+) bytes spill stores", "amdgcn": r"\.private_segment_fixed_size:\s+(\d+)"}

SOFTWARE = "software"
"""FP8 is converted by operations on integers."""


@dataclass(frozen=True)
class MachineCode:
    """A compiled kernel.

    `matrices` are the opcodes of its matrix instructions, the most frequent first; `conversions` those that convert
    from or to FP8, SOFTWARE where it converts without one. `registers` of a thread, and the bytes that it `spilled`: of
    AMD those of its scratch memory. Both are None where no assembler ran. `shared` in bytes.
    """

    matrices: tuple[str, ...] = ()
    conversions: tuple[str, ...] = ()
    registers: int | None = None
    spilled: int | None = None
    shared: int = 0

    @property
    def wide_matrices(self) -> tuple[str, ...]:
        """Matrix instructions that take no FP8."""
        return tuple(opcode for opcode in self.matrices if not MULTIPLIES_FP8.search(opcode))


def read_machine_code(form: str, compiled: Compiled) -> MachineCode:
    """Read what a kernel became; `form` is "ptx" or "amdgcn"."""
    counts = Counter(MATRICES[form].findall(compiled.text))
    conversions = tuple(sorted(set(CONVERSIONS[form].findall(compiled.text))))
    if not conversions and CONVERSION.search(compiled.ttir):
        conversions = (SOFTWARE,)
    told = compiled.log if form == "ptx" else compiled.text
    return MachineCode(
        tuple(opcode for opcode, _ in counts.most_common()),
        conversions,
        _largest(REGISTERS[form], told),
        _largest(SPILLED[form], told),
        compiled.shared,
    )


def _largest(pattern: str, text: str) -> int | None:
    return max((int(number) for number in re.findall(pattern, text)), default=None)
