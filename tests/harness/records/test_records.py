"""Specs and records: ids and checksums that stay, and published records that are read back."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from steelyard.harness.core.environment import code
from steelyard.harness.core.errors import UserError
from steelyard.harness.records import record
from steelyard.harness.records.record import Ledger, Record, Score
from steelyard.harness.records.spec import LATER, RunSpec

SPEC = RunSpec("joint", "food101", "tiny", "S", 0)


def failed(**provenance: object) -> Record:
    ledger = Ledger({}, {}, 0, 0, 0, "cpu", None, None, "finished")
    return Record(SPEC.id, "joint", SPEC, "failed", "no", ledger, (), provenance)


def test_specs_differ_by_content() -> None:
    assert SPEC.id == RunSpec("joint", "food101", "tiny", "S", 0).id
    changed = [
        replace(SPEC, seed=1),
        replace(SPEC, budget="M"),
        replace(SPEC, options={"a": 1}),
        replace(SPEC, data={"revision": "x"}),
        replace(SPEC, source="y"),
    ]
    assert len({spec.id for spec in [SPEC, *changed]}) == 6
    # Methods of one seed share initial weights and data order; seeds do not.
    assert SPEC.seed_for("weights") == replace(SPEC, method="mcr").seed_for("weights")
    assert SPEC.seed_for("weights") != replace(SPEC, seed=1).seed_for("weights")


def test_artefacts_are_charged_in_full_or_shared_by_several_runs() -> None:
    ledger = Ledger(
        flops={"forward": 60.0, "mine": 30.0, "teacher": 10.0}, seconds={}, steps=1, items=1,
        peak_bytes=0, device="cpu", limit_flops=None, limit_seconds=None, stopped="finished",
    )  # fmt: skip
    assert (ledger.total_flops, ledger.artefact_flops) == (100.0, 40.0)
    assert ledger.amortised_flops(1) == 100.0
    assert ledger.amortised_flops(4) == 70.0


def test_a_record_has_a_checksum_and_an_edit_is_refused(tmp_path: Path) -> None:
    written = record.write(failed(), tmp_path)
    assert written.seal and record.read(tmp_path) == written
    assert record.write(written, tmp_path).seal == written.seal  # not of itself
    path = tmp_path / record.RECORD
    path.write_text(json.dumps(json.loads(path.read_text())))  # spacing does not count
    assert record.read(tmp_path) == written
    path.write_text(path.read_text().replace('"failed"', '"done"'))
    with pytest.raises(UserError, match="was changed after it was written: its checksum is"):
        record.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No record at"),
        ("{", r"record\.json:1: not valid JSON"),
        ('{"schema": 99}', "schema 99, this version reads 1 and 2"),
        ('{"schema": 1, "spec": {}}', "is not a steelyard record"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / record.RECORD).write_text(content)
    with pytest.raises(UserError, match=message):
        record.read(tmp_path)


def test_a_record_says_by_which_source_layout_it_was_made(tmp_path: Path) -> None:
    source = code()
    assert source["layout"] == 2 and len(source["source"]) == 16
    assert record.write(failed(code=source), tmp_path).layout == 2
    assert record.read(tmp_path).layout == 2
    before = {key: value for key, value in source.items() if key != "layout"}
    assert failed(code=before).layout == failed().layout == 1


def test_all_published_records_are_read_back() -> None:
    folders = record.find(ROOT / "leaderboards" / "records")
    assert len(folders) > 800
    schemas = set()
    for folder in folders:
        result = record.read(folder)  # verifies the checksum
        assert result.id == result.spec.id == folder.name
        content = json.loads((folder / record.RECORD).read_text())
        again = json.loads(json.dumps(asdict(result)))
        ledger = content.pop("ledger")
        assert again.pop("ledger").items() >= ledger.items()  # answers are counted since
        content["spec"] = {**LATER, **content["spec"]}
        assert content.items() <= again.items() or result.schema == 1
        assert again["scores"][0].keys() >= content["scores"][0].keys()
        schemas.add((result.schema, result.layout))
    assert schemas >= {(1, 1), (2, 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(scores=5), "not iterable"),
        (lambda c: c["scores"][0].update(value="abc"), "Score.value is 'abc'"),
        (lambda c: c["scores"][0].update(value=None), "Score.value is None"),
        (lambda c: c["scores"][0].update(n=True), "Score.n is True"),
        (lambda c: c["spec"].update(task=None), "RunSpec.task is None"),
        (lambda c: c["spec"].update(seed="1"), "RunSpec.seed is '1'"),
        (lambda c: c["ledger"].update(flops={"forward": "many"}), "Ledger.flops is"),
        (lambda c: c.update(ledger=[]), "must be a mapping"),
        (lambda c: c.update(label=["a"]), "Record.label is"),
        (lambda c: c.update(status="perhaps"), "Record.status is 'perhaps'"),
        (lambda c: c.update(provenance=[]), "Record.provenance is"),
        (lambda c: c["provenance"].update(data=5), "provenance has no object data"),
        (lambda c: c.update(schema=[2]), r"schema \[2\], this version reads"),
        (lambda c: c.update(label="half \ud83d"), "was changed after it was written"),
    ],
)
def test_values_of_other_types_are_refused_whatever_the_checksum(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    score = Score("food101", "clean", "accuracy", 0.5, 2, None, True, True)
    content = asdict(replace(failed(), scores=(score,)))
    change(content)
    content["seal"] = record.checksum(content)
    (tmp_path / record.RECORD).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        record.read(tmp_path)
