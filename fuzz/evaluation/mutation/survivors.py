"""What is known about mutants that survive: equivalent ones, and gaps."""

import tomllib
from functools import cache
from importlib.resources import files


@cache
def equivalent() -> dict[str, str]:
    """Mutant id -> why no legal input tells it from the kernels."""
    return _read_list("equivalent", "reason")


@cache
def gaps() -> dict[str, str]:
    """Mutant id -> what it would take to find it."""
    return _read_list("gap", "needs")


def _read_list(key: str, word: str) -> dict[str, str]:
    name = {"equivalent": "equivalent.toml", "gap": "gaps.toml"}[key]
    data = tomllib.loads((files(__package__) / name).read_text(encoding="utf-8"))
    return {mutant: group[word] for group in data[key] for mutant in group["mutants"]}
