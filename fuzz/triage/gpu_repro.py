"""What scripts have in common that need a GPU: they say so where there is none."""

from indexfuzz.corpus.entry import Record
from indexfuzz.implementations.base import KernelSource
from indexfuzz.triage.literals import helpers_for
from indexfuzz.triage.repro_text import imports_for, tell_finding

OPEN = """DEVICE = "cuda"
if not torch.cuda.is_available():
    print("nothing {what} without an NVIDIA GPU: run this script where there is one")
    raise SystemExit(0)
"""

RUN = '''

def run(**arguments):
    """The kernel."""
    return kernel(**arguments)


def like(tensor):
    """A copy with the same strides."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return copy.copy_(tensor)
'''


def assemble_for_gpu(name: str, stage: str, finding: Record, source: KernelSource, body: str, what: str) -> str:
    """A script about a finding of a stage of an implementation of that name; `what` is never done without a GPU."""
    return (
        f'"""{name}, stage {stage}.\n\n{tell_finding(finding)}\n\n'
        f"Needs torch, triton, {source.needs} and an NVIDIA GPU.\n"
        f'"""\n\n{imports_for(body + source.code)}\n{OPEN.format(what=what)}{source.code}{RUN}{helpers_for(body)}'
        f"\n\n{body}"
    )
