"""The version of a git checkout from its plain text files.

Git itself does not run: a checkout comes with a configuration of its own, which may name programs for git to start.
"""

import re
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_ABBREVIATED = 12


def git_version(checkout: Path) -> str | None:
    """Return the tag at HEAD without its leading "v", else "git-" and the short commit; None outside git."""
    git = _git_folder(checkout)
    if git is None:
        return None
    common = _common_folder(git)
    head = _text(git / "HEAD")
    packed = _packed_refs(common)
    commit = head
    if head.startswith("ref: "):
        ref = head.removeprefix("ref: ")
        commit = _text(git / ref) or _text(common / ref) or packed.get(ref, "")
    if not _COMMIT.fullmatch(commit):
        return None
    tags = sorted(_tags_at(commit, common, packed))
    return tags[-1].removeprefix("v") if tags else f"git-{commit[:_ABBREVIATED]}"


def _git_folder(checkout: Path) -> Path | None:
    git = checkout / ".git"
    if git.is_file():  # a worktree or submodule: one line that names the real folder
        return checkout / _text(git).removeprefix("gitdir: ")
    return git if git.is_dir() else None


def _common_folder(git: Path) -> Path:
    common = _text(git / "commondir")
    return git / common if common else git


def _tags_at(commit: str, common: Path, packed: dict[str, str]) -> list[str]:
    loose = {f"refs/tags/{file.name}": _text(file) for file in (common / "refs" / "tags").glob("*") if file.is_file()}
    return [
        ref.removeprefix("refs/tags/")
        for ref, at in {**packed, **loose}.items()
        if at == commit and ref.startswith("refs/tags/")
    ]


def _packed_refs(common: Path) -> dict[str, str]:
    """Refs of the packed-refs file; a "^" line gives the commit that the annotated tag above it points at."""
    refs: dict[str, str] = {}
    last = ""
    for line in _text(common / "packed-refs").splitlines():
        if line.startswith("^"):
            refs[last] = line[1:]
        elif not line.startswith("#") and " " in line:
            commit, last = line.split(" ", 1)
            refs[last] = commit
    return refs


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
