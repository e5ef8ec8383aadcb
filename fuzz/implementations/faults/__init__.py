"""Planted bugs: known faults of real indexers, put into the built-in kernels to see whether they are found.

A fault is data, one TOML file each: which text of which kernel file becomes which. Planting edits copies of the
source while they are imported under a package name of their own; no file is changed, and the kernels proper stay.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, ValidationError

from indexfuzz.core.finding import Finding, split_step
from indexfuzz.core.part import Part, first_error
from indexfuzz.core.stage_names import require_stage
from indexfuzz.core.words import suggestion
from indexfuzz.implementations.faults.planting import FaultError, edited_kernels

if TYPE_CHECKING:  # imports torch, and listing faults must not
    from indexfuzz.implementations.base import Implementation

__all__ = ["Edit", "Fault", "FaultError", "load_faults", "plant"]


StageName = Annotated[str, AfterValidator(require_stage)]


class Edit(Part):
    """`old`, which occurs exactly once in `file` (such as kernels/cache.py), becomes `new`."""

    file: Annotated[str, Field(pattern=r"^kernels/[a-z_]+\.py$")]
    old: Annotated[str, Field(min_length=1)]
    new: str


class Fault(Part):
    """One planted bug.

    `kind` is its class, such as layout or aliasing; `trigger` says which samples show it; `source` where it comes
    from; `stage` which stage must be blamed, or one of `also` when they have the mistake too, and `node` which of the
    nodes that such an operation covers, where that shows. `first_sight` is what the bench showed when it was first run
    over a fault that was written down before anybody looked for it; empty for the faults by which the generator was
    tuned.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    title: str
    kind: str = Field(alias="class")
    trigger: str
    source: str
    stage: StageName
    also: tuple[StageName, ...] = ()
    node: str = ""
    first_sight: str = ""
    edits: tuple[Edit, ...] = Field(min_length=1)

    def is_blamed_by(self, finding: Finding) -> bool:
        """Whether a finding names the stage that has the mistake, and of an operation of several the node.

        One that died or hung has come to no node.
        """
        _, words = split_step(finding.detail)
        is_node = self.node in words.partition(":")[0] or finding.kind in ("crash", "hang")
        return finding.stage in (self.stage, *self.also) and is_node


@cache
def load_faults() -> dict[str, Fault]:
    """Every fault by id, in order of id.

    Raises FaultError that names the file and the field when one is malformed.
    """
    found = {}
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".toml"):
            continue
        try:
            data = tomllib.loads(file.read_text(encoding="utf-8"))
            fault = Fault.model_validate(data, strict=False)
        except ValidationError as error:
            raise FaultError(f"fuzz/implementations/faults/{file.name}: {first_error(error)}") from None
        except ValueError as error:
            raise FaultError(f"fuzz/implementations/faults/{file.name}: {error}") from None
        if file.name != f"{fault.id}.toml":
            raise FaultError(f"fuzz/implementations/faults/{file.name}: the id {fault.id} belongs in {fault.id}.toml")
        found[fault.id] = fault
    return found


def plant(ids: tuple[str, ...]) -> "Implementation":
    """The built-in kernels with faults in them, as an implementation named builtin+ID+ID.

    Raises FaultError when there is no such fault or the kernels no longer have the text that it replaces.
    """
    from indexfuzz.implementations.builtin import builtin

    faults = load_faults()
    for name in ids:
        if name not in faults:
            raise FaultError(f"no fault {name!r}; {suggestion(name, faults, 'indexfuzz faults')}")
    chosen = tuple(sorted(set(ids)))
    edits = [(name, edit.file, edit.old, edit.new) for name in chosen for edit in faults[name].edits]
    return builtin(edited_kernels("+".join(chosen), edits), "+".join(("builtin", *chosen)))
