"""The builder that Triton's semantic layer writes to: it computes instead of building IR."""

from typing import Any

from indexfuzz.lockstep.operations.assembly import AssemblyOps
from indexfuzz.lockstep.operations.constants import ConstantOps
from indexfuzz.lockstep.operations.control import ControlOps
from indexfuzz.lockstep.operations.descriptors import DescriptorOps
from indexfuzz.lockstep.operations.hints import HintOps
from indexfuzz.lockstep.operations.integers import IntegerOps
from indexfuzz.lockstep.operations.libdevice import DeviceLibraryOps
from indexfuzz.lockstep.operations.scaled_dot import ScaledDotOps
from indexfuzz.lockstep.operations.scans import ScanOps
from indexfuzz.lockstep.operations.shapes import ShapeOps
from indexfuzz.lockstep.operations.types import TypeOps
from indexfuzz.lockstep.triton_api.types import OPTIONS


class Builder(
    TypeOps,
    ConstantOps,
    AssemblyOps,
    ShapeOps,
    DescriptorOps,
    IntegerOps,
    ScanOps,
    ScaledDotOps,
    ControlOps,
    HintOps,
    DeviceLibraryOps,
):
    """Everything that the language can ask for; what it cannot find here raises UnsupportedFeature."""

    options = OPTIONS
    codegen_fns: dict[str, Any]

    def __init__(self) -> None:
        self.codegen_fns = {"min_dot_size": lambda *_: (1, 1, 1), "convert_custom_types": self._refuse_fp8e4b15}

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("create_", "get_")):
            raise self.unsupported(name.removeprefix("create_").removeprefix("get_"))
        raise AttributeError(name)

    def get_cache_policy(self, *_: Any) -> None:
        """Caches do not change results."""

    def _refuse_fp8e4b15(self, *_: Any, **__: Any) -> Any:
        raise self.unsupported("fp8e4b15")
