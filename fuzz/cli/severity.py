"""The command `severity`: what a bug costs the model."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from indexfuzz.cli.cases import seen_elsewhere
from indexfuzz.cli.common import InputError, console, each_known, find_one, in_this_process, with_finding
from indexfuzz.cli.options import AsJson, CaseFile, CorpusFolder, KernelOptions, expand_options
from indexfuzz.core.stage_names import OPERATION_NAMES


@expand_options
def severity(
    file: CaseFile,
    *,
    kernels: KernelOptions,
    stage: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            default_factory=list,
            show_default="all that the implementation has",
            help="Take only this stage from the implementation; repeat for several. With more than one bug in "
            "it, this tells what each costs.",
        ),
    ],
    corpus: CorpusFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say what the bug of a case costs the model: how many of the true top-k keys the indexer still selects.

    The case is grown to hundreds of keys and the heads of DeepSeek-V3.2; what triggers the bug stays. Then the whole
    indexer runs, each stage on what the one before it made, and its selection is compared with the reference's.
    A session happens as it is, in requests of hundreds of keys: drawn queries choose among those that it leaves.

    Example: `indexfuzz severity corpus/gather/0123456789abcdef.json --impl vllm:vllm-0.22.0.whl`
    """
    path, entry = find_one(file, corpus)
    signature, only = with_finding(path, entry), each_known("--stage", stage, OPERATION_NAMES)
    target = in_this_process(kernels.setup())
    from indexfuzz.triage.recall import SeverityError
    from indexfuzz.triage.session_severity import keys_at_end
    from indexfuzz.triage.severity import grow, recall

    try:
        case = grow(entry.case, signature.stage)
        found = recall(case, target.subject.implementation, target.subject.device, frozenset(only))
    except SeverityError as error:
        raise InputError(f"{path}: {error}") from error
    subject = target.subject
    elsewhere = seen_elsewhere(entry, subject.facts.name)
    if elsewhere and all(finding.signature != signature for finding in subject.ask(entry.case, signature).findings):
        console(err=True).print(f"{path}: {subject.facts.name} does not show {signature}{elsewhere}")
    if as_json:
        data = asdict(found) | {"case": case.model_dump(mode="json"), "id": case.id}
        typer.echo(json.dumps(data, indent=1))
        return
    out = console()
    worst, blind = f"{found.worst:.3f} in the worst row", f"blind choice gives {found.blind:.3f}"
    digits = 3 if found.mean == 1 or found.mean < 0.9995 else 5
    out.print(f"top-k recall {found.mean:.{digits}f}, {worst}; {blind}")
    keys = ", ".join(map(str, case.lengths or keys_at_end(case).values()))
    taken = f", {', '.join(only)} alone" if only else ""
    out.print(
        f"  {found.rows} rows, the best {case.model.index_topk} of up to {keys} keys, {case.model.num_heads} heads of "
        f"{case.model.head_dim}, block_size {case.cache.block_size}, on {target.subject.facts.name}{taken}"
    )
    if found.failed:
        out.print(f"  nothing is selected: the step raises {found.failed}")
