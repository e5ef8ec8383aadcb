"""Put damaged and hostile corpus files to every command: `python tests/cli/hostile_files_everywhere.py 10000 [SEED]`.

Slow, so it is no test of the suite; test_hostile_files.py takes a sample. Each file lies among good ones, and must cost
one line that names it, and nothing else. Prints what went wrong; the exit code is 1 where anything did.
"""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from indexfuzz.cli import run_command
from indexfuzz.corpus.entry import Entry
from indexfuzz.corpus.store import Corpus
from tests.corpus.hostile_files import good, hostile_file

TOY = ("--impl", "module:toy_gather")


def everything_wrong(count: int, seed: int) -> list[str]:
    """What goes wrong with so many files, in a new folder that becomes the current one."""
    os.chdir(tempfile.mkdtemp(prefix="indexfuzz-hostile-"))
    os.environ["TOY"] = "right"
    said = {"note": "by hand"}
    fixed, guard = (
        good(1).model_copy(update=said | {"status": "fixed"}),
        Entry(case=good(2).case, status="guard", **said),
    )
    kept = [Corpus(Path("kept")).save(entry) for entry in (good(0), fixed, guard)]
    hostile: dict[Path, bytes] = {}
    for number in range(count):
        _, name, content = hostile_file(seed, number)
        hostile[Path("kept") / name] = content
        (Path("kept") / name).write_bytes(content)
    before = {path: path.read_bytes() for path in kept} | hostile
    wrong = list(_each_alone(list(hostile)))
    wrong += _all_at_once(
        "replay kept --no-isolate", hostile, code=2, says=[f"FIXED       {kept[0]}", f"PASSES      {kept[1]}"]
    )
    wrong += _all_at_once("prune kept", hostile, code=2, says=[f"{kept[2]}  stays", "1 guards reach"])
    wrong += _all_at_once(
        "run --no-isolate --workers 1 --cases 3 --seed 1 --corpus kept", hostile, code=0, says=["done: 3 cases"]
    )
    wrong += _all_at_once(
        "merge kept --into new", hostile, code=1, says=[f"{len(kept)} kept cases read", "new: gather/"]
    )
    wrong += _all_at_once("merge new --into kept", hostile, code=2, says=["3 in kept"])
    wrong += _all_at_once("report --corpus kept", hostile, code=0, says=["2 findings in indexfuzz-report.html"])
    wrong += _each_alone(list(hostile))
    wrong += [f"{path} was changed" for path, content in before.items() if path.read_bytes() != content]
    others = {path for path in Path("kept").rglob("*") if path.is_file()} - before.keys()
    return wrong + [f"{path} appeared" for path in others]


def _each_alone(files: list[Path]) -> Iterator[str]:
    """What goes wrong where a command is given one file."""
    for number, path in enumerate(files):
        words = (f"triage {path} --status fixed", f"show {path}", f"merge {path} --into new")[number % 3]
        code, lines, _ = _command(words)
        named = [line for line in lines if str(path) in line]
        is_merge = words.startswith("merge")
        if (code, len(named)) != (2, 1) or len(lines) != 1 + is_merge:
            yield f"{words}: exit code {code}, {lines[:3]}"


def _all_at_once(words: str, hostile: dict[Path, bytes], *, code: int, says: list[str]) -> Iterator[str]:
    """What goes wrong where a command meets all files."""
    needs_impl = words.split(maxsplit=1)[0] in ("replay", "prune", "run")
    got, lines, text = _command(words, *(TOY if needs_impl else ()))
    if got != code:
        yield f"{words}: exit code {got}, not {code}: {lines[-1:]}"
    yield from (f"{words}: does not say {part!r}" for part in says if part not in text)
    places = [path for line in lines for path in (Path(word.rstrip(":")) for word in line.split()) if path in hostile]
    if sorted(places) != sorted(hostile):
        missing = hostile.keys() - set(places)
        yield f"{words}: names {len(places)} of {len(hostile)} files once; not {sorted(missing)[:2]}"
    if "Traceback" in text or "internal error" in text or not text.replace("\n", "").isprintable():
        yield f"{words}: a traceback, or what cannot be printed"


def _command(words: str, *more: str) -> tuple[int, list[str], str]:
    """Exit code, lines and whole text of a command of this process."""
    output = io.StringIO()
    sys.argv = ["indexfuzz", *words.split(), *more]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = run_command()
    return code, output.getvalue().splitlines(), output.getvalue()


def main(count: int, seed: int) -> int:
    """Put so many files to every command; 1 where anything went wrong."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    wrong = everything_wrong(count, seed)
    sys.stdout.writelines(f"{complaint}\n" for complaint in wrong)
    sys.stdout.write(f"{count} files, {len(wrong)} complaints, seed {seed}\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
