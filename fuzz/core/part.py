"""Parts of a case: frozen, strict pieces of data from strangers, and what is said of those that are malformed."""

from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from indexfuzz.core.words import printable


class CaseError(ValueError):
    """A case that is malformed or contradicts itself. The message names the field and is one sentence."""


class Part(BaseModel):
    """A frozen piece of a case that rejects unknown fields and never converts types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    added: ClassVar[frozenset[str]] = frozenset()
    """Fields that are younger than some cases. Their defaults are not written, so that older cases keep their ids."""

    @model_serializer(mode="wrap")
    def _without_younger_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = dump(self)
        for name, default in _younger_defaults(type(self)):
            if getattr(self, name) == default:
                data.pop(name, None)
        return data


@cache
def _younger_defaults(kind: type[Part]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind.model_fields[name].default) for name in kind.added)


def first_error(error: ValidationError) -> str:
    """The first complaint of pydantic as one sentence that names the field."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "case"
    return printable(f"{where}: {first['msg'].removeprefix('Value error, ')}")
