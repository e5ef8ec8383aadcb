"""Turn a corpus entry into a standalone script that shows the bug without the fuzzer.

The script holds the inputs of the failing stage as the stages before it (the reference's) leave them, calls the kernel
and compares with what the reference makes of them. It runs on a GPU with nothing but torch, triton and the kernel, or
else in lockstep.
"""

from indexfuzz.core.case import Case
from indexfuzz.core.stage_names import STATEFUL
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.oracles import composition, history, next_step, replay, schedules, streams, tuning
from indexfuzz.stages.base import Stage
from indexfuzz.stages.table import find
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.composition_repro import composition_script
from indexfuzz.triage.launches import (
    Launch,
    ReproError,
    describe_launch,
    find_reached,
    launch_in_step,
    launches_in_session,
)
from indexfuzz.triage.look import Look
from indexfuzz.triage.looking import look_at
from indexfuzz.triage.relation_repro import relation_script
from indexfuzz.triage.relaunch_repro import relaunch_body
from indexfuzz.triage.replay_repro import replay_script
from indexfuzz.triage.repro_check import RAISED, SEEN_BY_LOCKSTEP, Claim, write_check
from indexfuzz.triage.repro_source import kernel_source
from indexfuzz.triage.repro_text import (
    FILLED,
    assemble,
    assign_inputs,
    tell_flags,
    tell_story,
    tell_written,
    write_call,
    write_launches,
)
from indexfuzz.triage.schedule_repro import schedule_script
from indexfuzz.triage.session_keys import key_outputs
from indexfuzz.triage.streams_repro import streams_script
from indexfuzz.triage.tuned_repro import found_otherwise, launched_otherwise
from indexfuzz.triage.twin import shown_alone

RELAUNCHED = ("nondeterministic", history.KIND)
"""Kinds that the same launch shows when it is made again, or after another one."""


def script(entry: Entry, target: UnderTest[InProcess]) -> str:
    """The text of the script.

    Raises ReproError when the entry has no finding, its inputs are too large, or the kernel cannot be had alone.
    """
    if entry.finding is None:
        raise ReproError("this case never showed a finding")
    signature = entry.finding.signature
    if signature.relation:
        return _script_of_several(entry.case, entry.finding, target)
    if signature.kind == "stray-output":
        raise ReproError(f"values do not show {signature}; `indexfuzz replay` does")
    stage = find_reached(signature.stage, signature.output, entry.case)
    source = kernel_source(target, stage.name, entry.case)
    if signature.kind in RELAUNCHED and not entry.case.session.steps:
        body = relaunch_body(stage, entry.case, entry.finding, target.subject.device)
        return assemble(target.subject.facts.name, stage.name, entry.finding, source, body)
    known: dict[str, str] = {}
    before, launch = _before(stage, entry.case, target.subject, known)
    inputs = before + assign_inputs(launch, known)
    finding = _see_again(entry.case, entry.finding, target.subject)
    check = write_check(Claim(stage, finding, launch, write_call(launch)))
    body = f"{FILLED}\n{inputs}\n\n{tell_flags(launch)}{check}"
    return assemble(target.subject.facts.name, stage.name, entry.finding, source, body)


def _script_of_several(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The script for a finding about several launches, by its kind."""
    kind, stage = finding.signature.kind, finding.signature.stage
    if kind == schedules.KIND and stage != schedules.maker_of(case):
        return _script_of_a_relation(case, finding, target)
    return OF_SEVERAL.get(kind, _script_of_a_relation)(case, finding, target)


def _script_of_a_relation(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The script for one of the launches that a relation compares, where that is wrong by itself, or for all."""
    signature = finding.signature
    look = look_at(case, signature, target.subject)
    if not isinstance(look, Look):
        return relation_script(case, finding, target)
    launch = describe_launch(look.stage, look.given)
    check = write_check(Claim(look.stage, Record.of(look.finding), launch, write_call(launch)))
    body = f"{tell_written(launch)}{assign_inputs(launch, {})}\n\n{check}"
    source = kernel_source(target, signature.stage, look.case)
    return assemble(target.subject.facts.name, signature.stage, finding, source, body)


def _script_of_a_choice(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The script for what is wrong where launches are made by the choice of a case, which it makes, too."""
    found = found_otherwise(case, finding, target.subject)
    if found is None:
        raise ReproError(f"{finding.signature} does not show on {target.subject.device.name}")
    choice, shown = found
    return launched_otherwise(script(target.entry(case, shown), target), choice)


def _script_of_schedules(case: Case, finding: Record, target: UnderTest[InProcess]) -> str:
    """The script for both schedules where keys part, else for what is wrong in the other one by itself, as slots."""
    stage = find(finding.signature.stage, finding.signature.output)
    if finding.signature.output not in key_outputs(stage) and (alone := shown_alone(case, target.subject)):
        twin, shown = alone
        return script(target.entry(twin, shown), target)
    return schedule_script(case, finding, target)


def _see_again(case: Case, finding: Record, subject: InProcess) -> Record:
    """The finding as the script's own inputs show it: a stage before may have made others, which are right as well."""
    kind = finding.signature.kind
    if case.session.steps or kind in RAISED or kind in SEEN_BY_LOCKSTEP:
        return finding
    look = look_at(case, finding.signature, subject)
    if not isinstance(look, Look) or (look.finding.kind, look.finding.output) != (kind, finding.signature.output):
        return finding
    return Record.of(look.finding)


def _before(stage: Stage, case: Case, subject: InProcess, known: dict[str, str]) -> tuple[str, Launch]:
    """The launch that shows a finding, and the lines that go before it.

    Of an operation that keeps something from step to step, these are its launches in the steps before, on the same
    state. `known` is what names hold after them.
    """
    if not case.session.steps:
        return "", launch_in_step(stage, case, subject.device)
    *earlier, last = launches_in_session(stage.name, case, subject)
    if stage.name not in STATEFUL:
        return "", last
    text = write_launches(case, earlier, known)
    return text + tell_story(case, last), last


OF_SEVERAL = {
    composition.KIND: composition_script,
    next_step.KIND: composition_script,
    schedules.KIND: _script_of_schedules,
    replay.KIND: replay_script,
    streams.KIND: streams_script,
    tuning.KIND: _script_of_a_choice,
}
"""Kinds about several launches -> what writes their scripts."""
