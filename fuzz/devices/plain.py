"""Sessions of devices that run kernels as Triton itself does, and see nothing of what they do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees, Promises


@dataclass(frozen=True)
class PlainSession:
    """A session that notices nothing by itself: guards and poison have to. `judge_by` gives its guarantees."""

    judge_by: Callable[[Promises], Guarantees]

    @property
    def sees_unwritten(self) -> bool:
        """Nothing is seen."""
        return False

    def declare(self, name: str, tensor: Tensor, initialised: Tensor | bool) -> None:  # noqa: FBT001
        """Nothing to track."""

    def bring(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Kernels run where the tensors are."""
        return dict(tensors)

    def take_back(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing to take back."""
        return dict(outputs)

    def violations(self, views: Mapping[int, str]) -> list[Finding]:  # noqa: ARG002
        """Nothing noticed."""
        return []

    def guarantees(self, promises: Promises) -> Guarantees:
        """What the results of this session may be judged by."""
        return self.judge_by(promises)
