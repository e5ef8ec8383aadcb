"""Help that reads well at any width: options in groups, each above its explanation; examples a line each."""

import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

from typer import Context
from typer.core import TyperCommand, TyperGroup

from indexfuzz.cli.loading import load_libraries

WIDEST = 100
EXAMPLE = re.compile(r"`(indexfuzz [^`]+)`\s*([^`]*)")
OTHERS = "Other options"
LIGHT = frozenset({"bench", "new-ci", "new-impl", "presets", "triage"})
"""Commands that need neither torch nor Triton, or only when they know what for."""


def width() -> int:
    """Columns of the terminal, up to what is pleasant to read."""
    return min(shutil.get_terminal_size((80, 24)).columns, WIDEST)


def wrap(text: str, indent: int, hanging: int = 0) -> str:
    """A paragraph with an indent; words stay whole, however long."""
    return textwrap.fill(
        " ".join(text.split()),
        max(width(), indent + hanging + 20),
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )


class Command(TyperCommand):
    """A command whose help is ours, and which loads torch and Triton once its options are known to be right."""

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        if self.name not in LIGHT:
            load_libraries()
        return super().invoke(ctx)

    def format_help(self, ctx: Context, formatter: Any) -> None:  # type: ignore[override]
        """Write what it does, how it is called, its options by group."""
        formatter.write("\n".join((*_explained(self, ctx), *_options(self, ctx))) + "\n")


class Group(TyperGroup):
    """The command that has all others."""

    def format_help(self, ctx: Context, formatter: Any) -> None:  # type: ignore[override]
        """Write what it does, and its commands by group."""
        formatter.write("\n".join((*_explained(self, ctx), *_commands(self, ctx), *_options(self, ctx))) + "\n")


def _explained(command: Any, ctx: Context) -> Iterator[str]:
    pieces = " ".join(command.collect_usage_pieces(ctx))
    yield wrap(f"Usage: {ctx.command_path} {pieces}", 0, 7)
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.lstrip().startswith("Example"):
            yield "\nExamples:"
            yield from _examples(paragraph)
        elif paragraph.strip():
            yield "\n" + wrap(paragraph.replace("`", ""), 2)


def _options(command: Any, ctx: Context) -> Iterator[str]:
    groups: dict[str, list[Any]] = {}
    for parameter in command.get_params(ctx):
        groups.setdefault(_group_of(parameter), []).append(parameter)
    for heading, parameters in sorted(groups.items(), key=lambda group: group[0] == OTHERS):
        yield f"\n{heading}:"
        for parameter in parameters:
            yield from _parameter(parameter, ctx)


def _examples(paragraph: str) -> Iterator[str]:
    """Each command of a paragraph, and what is said about it behind."""
    for example, about in EXAMPLE.findall(paragraph):
        yield f"  {example}"
        words = " ".join(about.split()).strip(",. ")
        if words and words != "then":
            yield wrap(words, 6)


def _group_of(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or OTHERS


def _parameter(parameter: Any, ctx: Context) -> Iterator[str]:
    metavar = parameter.metavar or ("" if getattr(parameter, "is_flag", False) else str(parameter.name).upper())
    if parameter.param_type_name == "argument":
        yield f"  {metavar}"
    else:
        names = " / ".join((", ".join(parameter.opts), *parameter.secondary_opts))
        yield f"  {names} {metavar}".rstrip()
    text = f"{getattr(parameter, 'help', None) or ''} {_default(parameter, ctx)}".replace("`", "")
    yield wrap(text, 6)


def _default(parameter: Any, ctx: Context) -> str:
    """What holds where an option is not given: said in words, or what the project's settings say."""
    said, usual = getattr(parameter, "show_default", False), parameter.default
    of_project = ctx.lookup_default(parameter.name) if ctx.default_map else None
    if of_project and of_project != usual:
        shown = ", ".join(of_project) if isinstance(of_project, list) else of_project
        return f"[default: {shown}, of the project]"
    if isinstance(said, str):
        return f"[default: {said}]"
    plain = isinstance(usual, str | int | float) and not isinstance(usual, bool)
    return f"[default: {usual}]" if said and plain and usual != "" else ""


def _commands(group: Any, ctx: Context) -> Iterator[str]:
    panels: dict[str, list[str]] = {}
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        panels.setdefault(command.rich_help_panel, []).append(name)
    for heading, names in panels.items():
        yield f"\n{heading}:"
        for name in names:
            first = (group.get_command(ctx, name).help or "").split("\n\n")[0]
            yield from (f"  {name}", wrap(first.replace("`", ""), 6))
