"""Why the case of a finding is not known to show it again, in words that go into its note."""

import re

UNSTABLE = "the same case did not show it again in the same process"
ALONE = "the case did not show it in a process that had run nothing else"
UNTRIED = "there was no time to try the case in a process that had run nothing else"
NO_PROCESS = "no process could be had to try the case alone"
DEATH = "while the case was made smaller"
"""The end of a doubt that begins with how a process died."""


def describe_doubt(doubt: str) -> str:
    """A doubt as a sentence of a note."""
    return f"{doubt[0].upper()}{doubt[1:]}."


OWN_SENTENCES = re.compile(
    "|".join(
        (
            r"Found with [a-z0-9, -]+ planted\.",
            *(re.escape(describe_doubt(doubt)) for doubt in (UNSTABLE, ALONE, UNTRIED, NO_PROCESS)),
            rf"The process [^\n]+ {DEATH}\.",
        )
    )
)
"""What campaigns write into notes."""


def is_own_note(note: str) -> bool:
    """Whether nobody but campaigns has written a note, or there is none."""
    return not OWN_SENTENCES.sub("", note).strip()
