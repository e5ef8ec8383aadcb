"""What the contracts of third-party projects share."""


def first_reason(*clauses: tuple[bool, str]) -> str | None:
    """Return the reason of the first clause that holds, None where none does."""
    return next((reason for holds, reason in clauses if holds), None)
