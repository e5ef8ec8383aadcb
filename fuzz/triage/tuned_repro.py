"""What a script begins with whose launches are made otherwise than launchers say: by other warps or entries."""

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.corpus.entry import Record
from indexfuzz.devices.base import Tuning
from indexfuzz.devices.tuning import Choice
from indexfuzz.oracles import tuning
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.repro_text import RUN

OTHERWISE = '''
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

WARPS = {warps!r}
ENTRIES = {entries!r}
launch_kernel = JITFunction.run


def launch_with_warps(self, *args, **options):
    """Launch a kernel with the warps of WARPS."""
    if self.__name__ in WARPS:
        options["num_warps"] = WARPS[self.__name__]
    return launch_kernel(self, *args, **options)


def take_entry(self, *args, **options):
    """Launch a kernel with the entry of ENTRIES, or the first one, and measure none."""
    named = [entry for entry in self.configs if str(entry) == ENTRIES.get(self.base_fn.__name__)]
    return self.fn.run(*args, **options, **(named or self.configs)[0].all_kwargs())


JITFunction.run, Autotuner.run = launch_with_warps, take_entry
if DEVICE == "cpu":
    print("kernels have warps on an NVIDIA GPU alone: run this script where there is one")
    raise SystemExit(0)
'''


def found_otherwise(case: Case, finding: Record, subject: InProcess) -> tuple[Choice, Finding] | None:
    """The choice that a finding comes of, and what is wrong then, as any other finding; None where it does not show."""
    signature = finding.signature
    if not isinstance(subject.device, Tuning):
        return None
    only = frozenset({signature.stage})
    choice, judged = tuning.judge_otherwise(case, subject.implementation, subject.device, only)
    found = [one for one in judged.findings if (one.stage, one.output) == (signature.stage, signature.output)]
    return (choice, found[0]) if found else None


def launched_otherwise(text: str, choice: Choice) -> str:
    """A script for what is wrong then, with launches made by a choice."""
    warps = {kernel: otherwise.warps for kernel, otherwise in choice.changed.items() if otherwise.warps}
    entries = {kernel: otherwise.entry for kernel, otherwise in choice.changed.items() if otherwise.entry}
    return text.replace(RUN, OTHERWISE.format(warps=warps, entries=entries) + RUN)
