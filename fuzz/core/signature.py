"""Signatures: two findings with the same one are the same bug."""

import re
from dataclasses import dataclass
from typing import Self

from indexfuzz.core.kinds import METAMORPHIC, check_kind

BEYOND = "beyond-contract"
"""Last part of the text of a signature where the case breaks the contract: it never hides a finding within it."""

STAGE = re.compile(r"[a-z0-9_]+")
PART = re.compile(r"[^/\n\t]+")


@dataclass(frozen=True, order=True)
class Signature:
    """What a finding is about; as text stage/kind/output, a feature where there is one, and BEYOND.

    `kind` is one of `kinds.KINDS`, or metamorphic/<relation>. `output` names an output, or how a stage ended: an
    exception, a signal. `feature` tells two bugs in one output apart. Raises ValueError where a part cannot be told
    from others in the text.
    """

    stage: str
    kind: str
    output: str = ""
    feature: str = ""
    beyond: bool = False

    def __post_init__(self) -> None:
        check_kind(self.kind)
        named = [part for part in (self.output, self.feature) if part]
        if (self.stage and not STAGE.fullmatch(self.stage)) or not all(PART.fullmatch(part) for part in named):
            raise ValueError(f"{str(self)!r} is no signature: a part holds a slash, a tab or a line break")
        if BEYOND in named or (self.feature and not self.output):
            raise ValueError(f"{str(self)!r} is no signature: it would read as another one")

    def __str__(self) -> str:
        parts = (self.stage, self.kind, self.output, self.feature, BEYOND if self.beyond else "")
        return "/".join(part for part in parts if part)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The signature that a text stands for.

        Raises ValueError that says what is wrong with it.
        """
        stage, *rest = text.split("/")
        beyond = bool(rest) and rest[-1] == BEYOND
        if beyond:
            rest.pop()
        kinds = 2 if rest and rest[0] == METAMORPHIC else 1
        if not stage or not rest or len(rest) > kinds + 2 or not all(rest):
            raise ValueError(f"{text!r} is no signature: it reads stage/kind/output")
        output, feature = [*rest[kinds:], "", ""][:2]
        return cls(stage, "/".join(rest[:kinds]), output, feature, beyond)

    @property
    def relation(self) -> str:
        """The relation that is broken, or empty."""
        first, _, relation = self.kind.partition("/")
        return relation if first == METAMORPHIC else ""

    @property
    def type_name(self) -> str:
        """The text in the form that names of types have."""
        return "".join(word.capitalize() for word in re.split("[-_/]", str(self)))
