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
    subdirectory: str = ""


def requirement() -> str | None:
    """What pip takes to install the same again anywhere; None where that only exists on this machine."""
    try:
        found = distribution(NAME)
        text = found.read_text("direct_url.json")
        origin = _Origin.model_validate_json(text) if text else None
    except (PackageNotFoundError, ValidationError):
        return None
    if origin is None:  # a checkout that Python happens to look into has no record of what was installed
        return NAME if found.read_text("RECORD") is not None else None
    if origin.url.startswith("file:"):
        return None
    commit, part = origin.vcs_info, f"#subdirectory={origin.subdirectory}" if origin.subdirectory else ""
    return f"{NAME} @ {commit.vcs}+{origin.url}@{commit.commit_id}{part}" if commit else f"{NAME} @ {origin.url}{part}"
