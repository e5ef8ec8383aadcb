"""The settings of the user's project: the table [tool.indexfuzz] of the nearest pyproject.toml.

```toml
[tool.indexfuzz]
impl = "module:my_kernels"      # what to test, as after --impl
corpus = "corpus"               # where cases are kept; relative to this file
device = "lockstep"             # where kernels run, as after --device
timeout = 120                   # seconds that an isolated case may take
values = ["normal", "ties"]     # the kinds of values to draw
```

The command line and pytest read the same table, so they find and keep cases in the same place. Without a table it is
`corpus/` of the current folder. An option that is given wins.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from indexfuzz.core.case_parts import Regime
from indexfuzz.core.part import first_error
from indexfuzz.core.setup import DEFAULT_DEVICE, DEFAULT_IMPLEMENTATION, SetupError
from indexfuzz.core.words import path_from_here, suggestion

FILE = "pyproject.toml"
TABLE = "tool.indexfuzz"
PLANTED = Path(".indexfuzz") / "planted"
"""The corpus of findings that planted bugs showed, unless another one is named."""

WITH_MODULE = "module:"


class Table(BaseModel):
    """What may stand in the table, and what holds where it does not."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, title="[tool.indexfuzz] of pyproject.toml")

    impl: Annotated[str, Field(min_length=1, description="What to test, as after --impl.")] = DEFAULT_IMPLEMENTATION
    corpus: Annotated[str, Field(min_length=1, description="The folder of kept cases, relative to this file.")] = (
        "corpus"
    )
    device: Annotated[str, Field(min_length=1, description="Where kernels run, as after --device.")] = DEFAULT_DEVICE
    timeout: Annotated[float | None, Field(ge=0.1, description="Seconds that an isolated case may take.")] = None
    values: Annotated[list[Regime], Field(description="Draw only values of these kinds.")] = []


class Project:
    """The settings that hold in a folder.

    `root` is the folder of the pyproject.toml that has the table, or the folder itself where there is none.
    """

    def __init__(self, folder: Path) -> None:
        """Read the nearest pyproject.toml, the folder's own or that of the next folder above it that has one.

        Raises SetupError when that file cannot be read or has an unknown setting.
        """
        file = next((above / FILE for above in (folder, *folder.parents) if (above / FILE).is_file()), None)
        data = _read(file) if file else None
        self.file = file if data is not None else None
        self.root = file.parent if file and data is not None else folder
        self.table = _parse(data, file) if file and data is not None else Table()

    @classmethod
    def here(cls) -> "Project":
        """The settings that hold in the current folder.

        Raises SetupError.
        """
        try:
            folder = Path.cwd()
        except FileNotFoundError:
            raise SetupError("the current folder does not exist any more; change to another one") from None
        return cls(folder)

    @property
    def impl(self) -> str:
        """What to test. A path in it is relative to the root, and comes out as typed in the current folder."""
        scheme, colon, rest = self.table.impl.partition(":")
        if not rest or f"{scheme}:" == WITH_MODULE:
            return self.table.impl
        return f"{scheme}{colon}{path_from_here(self.root / rest)}"

    @property
    def corpus(self) -> Path:
        """The folder of kept cases, as typed in the current folder."""
        return path_from_here(self.root / self.table.corpus)

    def corpus_for(self, faults: Iterable[str]) -> Path:
        """The corpus, or where what planted bugs show is kept apart from it."""
        return PLANTED if list(faults) else self.corpus


def _read(file: Path) -> Any:
    """The table of a file; None where it has none."""
    try:
        tools = tomllib.loads(file.read_text("utf-8")).get("tool", {})
    except (OSError, ValueError) as error:
        raise SetupError(f"{path_from_here(file)} cannot be read: {error}") from None
    return tools.get("indexfuzz") if isinstance(tools, dict) else None


def _parse(data: Any, file: Path) -> Table:
    where = f"{path_from_here(file)}: {TABLE}"
    if not isinstance(data, dict):
        raise SetupError(f"{where} must be a table")
    for name in data:
        if name not in Table.model_fields:
            raise SetupError(f"{where} has no setting {name!r}; {suggestion(name, Table.model_fields)}")
    try:
        return Table.model_validate(data)
    except ValidationError as error:
        raise SetupError(f"{where}.{first_error(error)}") from None
