"""The essentials of the SARIF 2.1.0 schema, and what code scanning makes of it."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from indexfuzz.report.sarif import as_sarif
from indexfuzz.report.story import read_story
from tests.report.test_page import PLAIN
from tests.report.test_story import CASE, END, FOUND, START, log, written  # noqa: F401 - a fixture among them

LOCATED = replace(PLAIN, location="kernels/rope.py:33")
URI = Annotated[str, Field(pattern=r"^([A-Za-z][A-Za-z0-9+.-]*:)?[A-Za-z0-9/%._~:@!$&'()*+,;=-]+$")]
Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class Message(Part):
    text: Text


class Rule(Part):
    id: Text
    short_description: Message
    full_description: Message
    help: Message
    properties: dict


class Driver(Part):
    name: Text
    semantic_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+([.+-]\S+)?$")]
    rules: list[Rule]


class Tool(Part):
    driver: Driver


class ArtifactLocation(Part):
    uri: URI
    uri_base_id: Literal["%SRCROOT%"] | None = None

    @model_validator(mode="after")
    def _is_relative_to_a_base(self):
        assert (self.uri_base_id is None) == (":" in self.uri)
        assert ".." not in self.uri.split("/")
        return self


class Region(Part):
    start_line: Annotated[int, Field(ge=1)]


class PhysicalLocation(Part):
    artifact_location: ArtifactLocation
    region: Region


class Location(Part):
    physical_location: PhysicalLocation


class Result(Part):
    rule_id: Text
    rule_index: Annotated[int, Field(ge=0)]
    level: Literal["none", "note", "warning", "error"]
    message: Message
    locations: Annotated[list[Location], Field(min_length=1)]
    related_locations: list[Location]
    fingerprints: dict[str, Text]
    partial_fingerprints: dict[str, Text]
    work_item_uris: Annotated[list[HttpUrl], Field(strict=False)] = []


class Notification(Part):
    level: Literal["none", "note", "warning", "error"]
    message: Message


class Invocation(Part):
    execution_successful: bool
    tool_execution_notifications: list[Notification]


class Details(Part):
    id: Annotated[str, Field(pattern=r"^[^/]+/([^/]+/)?$")]


class Run(Part):
    tool: Tool
    automation_details: Details
    column_kind: Literal["utf16CodeUnits", "unicodeCodePoints"]
    results: list[Result]
    invocations: list[Invocation] = []

    @model_validator(mode="after")
    def _results_have_their_rules(self):
        ids = [rule.id for rule in self.tool.driver.rules]
        assert len(ids) == len(set(ids))
        assert all(ids[result.rule_index] == result.rule_id for result in self.results)
        prints = [result.partial_fingerprints["primaryLocationLineHash"] for result in self.results]
        assert len(prints) == len(set(prints))
        return self


class Sarif(Part):
    schema_: Annotated[str, Field(alias="$schema", pattern=r"^https://\S+/sarif-schema-2\.1\.0\.json$")]
    version: Literal["2.1.0"]
    runs: Annotated[list[Run], Field(min_length=1)]


@pytest.fixture(autouse=True)
def checkout(tmp_path, monkeypatch):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/rope.py").write_text("")
    monkeypatch.chdir(tmp_path)


def made(*evidence, story=None):
    data = as_sarif(evidence, story)
    Sarif.model_validate(data)
    return data["runs"][0]


def place(location):
    where = location["physicalLocation"]
    return where["artifactLocation"]["uri"], where["region"]["startLine"]


def test_a_finding_is_a_result_at_the_line_of_the_kernel():
    run = made(replace(LOCATED, link="https://example.org/issues/7"))
    (result,), (rule,) = run["results"], run["tool"]["driver"]["rules"]
    assert (result["ruleId"], rule["id"], result["level"]) == ("bound-exceeded", "bound-exceeded", "error")
    assert place(result["locations"][0]) == ("kernels/rope.py", 33)
    assert [place(each) for each in result["relatedLocations"]] == [(PLAIN.file, 1)]
    assert result["fingerprints"] == {"signature/v1": PLAIN.signature}
    assert result["workItemUris"] == ["https://example.org/issues/7"]
    assert "q was not rotated" in result["message"]["text"]


def test_without_a_line_in_the_checkout_it_is_at_its_case():
    for location in ("", "nowhere.py:3", "/usr/lib/wheel.py:3"):
        (result,) = made(replace(PLAIN, location=location, file="corpus/rope/a b#.json"))["results"]
        assert place(result["locations"][0]) == ("corpus/rope/a%20b%23.json", 1)
    outside = str(Path.cwd().parent / "x.json")
    (result,) = made(replace(PLAIN, file=outside))["results"]
    assert place(result["locations"][0]) == (f"file://{outside}", 1)


def test_a_signature_is_one_result_that_stays_the_same_one():
    first, moved = LOCATED, replace(LOCATED, location="kernels/rope.py:40", file="corpus/rope/ffffffffffffffff.json")
    other = replace(LOCATED, signature="rope/metamorphic/rows/q")
    one, two = made(first, moved, other)["results"]
    assert len(one["relatedLocations"]) == 2
    (later,) = made(moved)["results"]
    assert later["partialFingerprints"] == one["partialFingerprints"] != two["partialFingerprints"]


@pytest.mark.parametrize(
    ("status", "now", "level"),
    [
        ("open", "", "error"),
        ("unconfirmed", "", "warning"),
        ("unconfirmed", "STILL FAILS", "error"),
        ("guard", "CHANGED", "error"),
        ("fixed", "", None),
        ("guard", "", None),
        ("open", "FIXED", None),
    ],
)
def test_what_passes_is_no_result(status, now, level):
    results = made(replace(PLAIN, status=status, now=now))["results"]
    assert [result["level"] for result in results] == ([level] if level else [])


def test_what_a_run_has_found_is_a_result_whatever_its_status(log):  # noqa: F811
    story = read_story(written(log, START, FOUND | {"signature": PLAIN.signature}, END))
    guard = replace(PLAIN, status="guard")
    assert [result["level"] for result in made(guard, story=story)["results"]] == ["error"]
    assert not made(replace(guard, now="PASSES"), story=story)["results"]


def test_a_run_says_whether_it_came_to_its_end(log):  # noqa: F811
    died = {"event": "died", "message": "SIGSEGV", "file": "x.json"}
    start = START | {"implementation": "toy/of mine 1.0"}
    (invocation,) = made(story=read_story(written(log, start, died, END)))["invocations"]
    assert invocation["executionSuccessful"]
    assert [each["message"]["text"] for each in invocation["toolExecutionNotifications"]] == ["SIGSEGV"]
    run = made(story=read_story(written(log, start, CASE)))
    assert not run["invocations"][0]["executionSuccessful"]
    assert run["automationDetails"] == {"id": "indexfuzz/toy-of mine 1.0/"}


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run["results"][0].pop("message"),
        lambda run: run["results"][0].update(ruleIndex=1),
        lambda run: run["results"][0]["locations"].clear(),
        lambda run: run["results"][0]["locations"][0]["physicalLocation"]["region"].update(startLine=0),
        lambda run: run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"].update(uri="../a.py"),
        lambda run: run["results"].append(run["results"][0]),
        lambda run: run["tool"]["driver"].update(version=1),
    ],
)
def test_the_essentials_refuse_what_is_no_sarif(change):
    data = as_sarif([LOCATED])
    change(data["runs"][0])
    with pytest.raises((ValidationError, IndexError)):
        Sarif.model_validate(data)
