"""One implementation in a form that reads well on a terminal: stages, contract, notes, replaced imports."""

import json
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from indexfuzz.cli.common import console
from indexfuzz.core.contract import Clauses, forms_of
from indexfuzz.core.stage_names import COVERS
from indexfuzz.implementations import load
from indexfuzz.implementations.base import Implementation
from indexfuzz.implementations.plans import describe_plan, plans


def describe(spec: str, *, as_json: bool) -> None:
    """Load an implementation and print what there is to know about it.

    Raises ImplementationError when it is not to be had.
    """
    implementation = load(spec)
    data = facts(implementation)
    if as_json:
        typer.echo(json.dumps(data, indent=1))
    else:
        _print(data, stated=isinstance(implementation.contract, Clauses), out=console())


def facts(implementation: Implementation) -> dict[str, Any]:
    """Name, stages, plans, notes, the clauses about these stages, and the replaced imports, as plain JSON data."""
    contract, stages = implementation.contract, list(implementation.stages)
    clauses = contract.clauses if isinstance(contract, Clauses) else ()
    return {
        "name": implementation.name,
        "stages": stages,
        "plans": [describe_plan(plan) for plan in plans(stages)],
        "notes": list(implementation.notes),
        "contract": [
            {"stages": about, "promise": clause.sentence, "place": clause.place}
            for clause in clauses
            if (about := [stage for stage in stages if stage in clause.stages])
        ],
        "forms": {stage: [form.sentence for form in forms_of(implementation.contract, stage)] for stage in stages},
        "replaced": sorted(implementation.replaced),
    }


def _print(data: dict[str, Any], *, stated: bool, out: Console) -> None:
    out.print(data["name"], style="bold")
    for note in data["notes"]:
        out.print(f"  {note}")
    out.print(f"  stages: {', '.join(data['stages'])}")
    for plan in data["plans"] if COVERS.keys() & data["stages"] else ():
        out.print(f"  plan: {plan}")
    if not stated:
        out.print("  its contract is no list of clauses")
    for stage in data["stages"]:
        clauses = [clause for clause in data["contract"] if stage in clause["stages"]]
        out.print(Text(f"\n{stage} promises to handle" + (" cases in which" if clauses else " every case"), "bold"))
        for clause in clauses:
            out.print(f"  {clause['promise']}  ({clause['place']})")
        if forms := data["forms"][stage]:
            out.print(f"  is asked only where {'; '.join(forms)}")
    if data["replaced"]:
        out.print(Text("\nimports that got something else than the real thing", "bold"))
        for name in data["replaced"]:
            out.print(f"  {name}")
