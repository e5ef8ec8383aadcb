"""Where this IndexFuzz was installed from, as far as pip has noted it (PEP 610)."""

from importlib.metadata import PackageNotFoundError, distribution
from typing import Literal

from pydantic import BaseModel, ValidationError

NAME = "indexfuzz"


class _Commit(BaseModel):
    """What of a repository was installed."""

    vcs: Literal["git", "hg", "bzr", "svn"]
    commit_id: str


class _Origin(BaseModel):
    """The file direct_url.json, which is there unless a package index had the package."""

    url: str
    vcs_info: _Commit | None = None


def requirement() -> str | None:
    """What pip takes to install the same again anywhere; None where that only exists on this machine."""
    try:
        text = distribution(NAME).read_text("direct_url.json")
        origin = _Origin.model_validate_json(text) if text else None
    except (PackageNotFoundError, ValidationError):
        return None
    if origin is None:
        return NAME
    if origin.url.startswith("file:"):
        return None
    commit = origin.vcs_info
    return f"{NAME} @ {commit.vcs}+{origin.url}@{commit.commit_id}" if commit else f"{NAME} @ {origin.url}"
