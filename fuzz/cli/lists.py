"""Commands that list what there is: impls, faults, presets, and the benchmarks."""

import importlib
import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from indexfuzz.cli.common import InputError, console
from indexfuzz.cli.options import AsJson, DeviceName, Impl
from indexfuzz.core.setup import DEFAULT_DEVICE, DEFAULT_IMPLEMENTATION
from indexfuzz.evaluation.bench import BENCHES


def _print(rows: list[dict[str, Any]], columns: dict[str, str], *, as_json: bool) -> None:
    """Rows as JSON, or the columns `field -> heading` of them as a table."""
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for number, heading in enumerate(columns.values()):
        table.add_column(heading, no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(str(row[field])) for field in columns))
    console().print(table)


def impls(
    spec: Annotated[
        str | None, typer.Argument(metavar="NAME[:PATH]", help="Which to look into; leave out to list them.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List what can be put under test with --impl, or one of them: its stages, its contract, what it runs with.

    The contract is what its own project promises, each clause with the place where that stands. Cases outside are
    left alone unless --beyond-contract asks for them.

    Example: `indexfuzz impls`, then `indexfuzz impls vllm:vllm-0.33.0.whl`
    """
    if spec is not None:
        from indexfuzz.cli.implementation import describe

        describe(spec, as_json=as_json)
        return
    from indexfuzz.implementations import available

    rows = [{"name": name, "description": description} for name, description in available()]
    _print(rows, {"name": "--impl", "description": "what it is"}, as_json=as_json)


def faults(*, as_json: AsJson = False) -> None:
    """List the bugs that can be planted in the built-in kernels with --fault.

    Example: `indexfuzz faults`, then `indexfuzz run --fault rope-result-discarded`
    """
    from indexfuzz.implementations.faults import load_faults

    rows = [
        {"id": f.id, "title": f.title, "class": f.kind, "stage": f.stage, "trigger": f.trigger, "source": f.source}
        for f in load_faults().values()
    ]
    columns = {"id": "--fault", "stage": "stage", "title": "what is wrong", "source": "where it comes from"}
    _print(rows, columns, as_json=as_json)


def presets(*, as_json: AsJson = False) -> None:
    """List the published models whose indexer --preset takes the shape of.

    Example: `indexfuzz presets`, then `indexfuzz run --preset glm-5`
    """
    from indexfuzz.core.presets import PRESETS

    rows = [
        {
            "name": name,
            "title": p.title,
            "model": p.model.model_dump(mode="json"),
            "style": p.style,
            "placement": p.placement,
            "block_sizes": p.block_sizes,
            "source": p.source,
            "shape": f"{p.model.num_heads} heads of {p.model.head_dim}, "
            f"rope {p.model.rope_dim} {p.style} {p.placement}, top {p.model.index_topk}",
        }
        for name, p in PRESETS.items()
    ]
    _print(rows, {"name": "--preset", "title": "model", "shape": "shape", "source": "source"}, as_json=as_json)


def bench(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which benchmark; leave out to list them.")] = None,
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH",
            help="conformance: a checkout of Triton; its wheel has no tests. suite: a project's tests, file or folder.",
        ),
    ] = None,
    *,
    impl: Impl = DEFAULT_IMPLEMENTATION,
    every: Annotated[int, typer.Option(metavar="N", min=1, help="conformance, suite: run every Nth item.")] = 1,
    against: Annotated[
        str | None, typer.Option(metavar="PATH", help="throughput: a checkout of another release, to compare with.")
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar="N,...",
            help="throughput: measure campaigns with so many processes, too. conformance, suite: so many share them.",
        ),
    ] = "",
    faults: Annotated[
        str,
        typer.Option(metavar="ID,...", help="detection, findings: measure these again, not those without a result."),
    ] = "",
    device: DeviceName = DEFAULT_DEVICE,
    as_json: AsJson = False,
) -> None:
    """Measure IndexFuzz itself.

    Example: `indexfuzz bench lockstep --impl vllm:vllm-0.33.0.whl`
    """
    if name is None:
        rows = [
            {"name": bench, "description": about.what, "--impl": "yes" if about.takes_impl else ""}
            for bench, about in BENCHES.items()
        ]
        _print(rows, {"name": "NAME", "description": "what it measures", "--impl": "takes --impl"}, as_json=as_json)
        return
    if name not in BENCHES:
        raise InputError(f"no benchmark {name!r}; choose one of {', '.join(BENCHES)}")
    chosen = BENCHES[name]
    if impl != DEFAULT_IMPLEMENTATION and not chosen.takes_impl:
        raise InputError(f"bench {name} measures the built-in kernels only; leave out --impl")
    if chosen.takes_path is (path is None) or (every != 1 and not chosen.takes_path):
        raise InputError(f"bench {name} takes {'a PATH' if chosen.takes_path else 'neither PATH nor --every'}")
    if against and not chosen.compares:
        raise InputError(f"bench {name} takes no --against")
    if workers and not chosen.takes_workers:
        raise InputError(f"bench {name} takes no --workers")
    if faults and not chosen.takes_faults:
        raise InputError(f"bench {name} takes no --faults")
    if device != DEFAULT_DEVICE and not chosen.takes_device:
        raise InputError(f"bench {name} takes no --device")
    options: dict[str, Any] = {"impl": impl} if chosen.takes_impl else {}
    options |= {"path": path, "every": every} if chosen.takes_path else {}
    options |= {"against": against} if chosen.compares else {}
    options |= {"workers": _numbers(workers)} if chosen.takes_workers else {}
    options |= {"faults": _known_faults(faults)} if chosen.takes_faults else {}
    options |= {"device": device} if chosen.takes_device else {}
    raise typer.Exit(importlib.import_module(chosen.module).main(as_json=as_json, **options))


def _numbers(text: str) -> list[int]:
    """The numbers of processes in --workers."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"--workers {text}: give numbers of processes, such as 1,2,4")
    return [int(word) for word in words]


def _known_faults(text: str) -> list[str]:
    """The faults of --faults."""
    from indexfuzz.implementations.faults import load_faults

    words = [word.strip() for word in text.split(",") if word.strip()]
    if unknown := [word for word in words if word not in load_faults()]:
        raise InputError(f"--faults: no fault {unknown[0]!r}; `indexfuzz faults` lists them")
    return words
