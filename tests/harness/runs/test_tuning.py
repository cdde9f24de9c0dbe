"""Tuning: the same trials everywhere, chosen by validation items only, paid and written down."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.files import write_json
from steelyard.harness.records import record
from steelyard.harness.records.record import Ledger, Record, Score
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import suite, tuning
from steelyard.harness.runs.suite import Suite, SuiteEntry
from steelyard.harness.runs.tuning import TuningPlan
from steelyard.leaderboards.validate import validate

BUDGET = 4e9
SUITE = {
    "tasks": ["food101"],
    "seeds": [0],
    "backbone": "tiny",
    "budget": "4e9",
    "limit": 40,
    "corruptions": ["image-blank", "text-blank"],
    "methods": [
        "majority",
        "joint",
        {"method": "mcr", "options": {"mipd": 0.0}, "label": "plain mcr"},
    ],
}


@pytest.fixture
def mine(tmp_path: Path) -> Suite:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SUITE))
    return suite.load(str(tmp_path / "mine.yaml"))[0]


def test_trial_zero_is_the_entry_and_what_it_fixes_stays_fixed(mine: Suite) -> None:
    entry = SuiteEntry("mcr", {"mipd": 0.0}, "plain mcr", learning_rate=1e-3)
    trials = tuning.trials_of(entry, mine, TuningPlan(trials=6))
    assert (trials[0].options, trials[0].learning_rate) == ({"mipd": 0.0}, 1e-3)
    assert all(trial.options["mipd"] == 0.0 for trial in trials)
    drawn_trials = trials[1:]
    assert all(set(trial.options) == {"mipd", "unimodal", "contrastive"} for trial in drawn_trials)
    assert all(5e-4 <= (trial.learning_rate or 0) <= 8e-3 for trial in drawn_trials)  # of 2e-3
    assert len({(trial.learning_rate, trial.options["unimodal"]) for trial in drawn_trials}) == 5
    sampled = SuiteEntry("grpo", {}, "grpo")  # its rates lie around its own default, 4e-5
    on_vlm = replace(mine, backbone="tiny-vlm", backbone_options={})
    rates = [t.learning_rate or 0 for t in tuning.trials_of(sampled, on_vlm, TuningPlan(trials=9))]
    assert all(1e-5 <= rate <= 1.6e-4 for rate in rates[1:])
    assert trials == tuning.trials_of(entry, mine, TuningPlan(trials=6))
    assert trials[:4] == tuning.trials_of(entry, mine, TuningPlan(trials=4))
    assert drawn_trials != tuning.trials_of(entry, mine, TuningPlan(trials=6, seed=1))[1:]


def test_trials_see_validation_items_and_a_seed_of_their_own(mine: Suite) -> None:
    trials = tuning.trial_suite(mine, TuningPlan(trials=3), [1, 2], ["joint"])
    assert trials.split == "val" and trials.seeds == (100,) and trials.corruptions == ()
    assert [entry.label for entry in trials.entries] == ["joint trial 1", "joint trial 2"]
    assert {entry.kind for entry in trials.entries} == {"trial"}
    corrupted = tuning.trial_suite(mine, TuningPlan(trials=3, rule="best-balanced"), [1], ["joint"])
    assert corrupted.corruptions == ("image-blank", "text-blank")


def scored(*rows: tuple[str, str, str, float, bool | None, bool]) -> Record:
    """Return a record of scores: task, variant, metric, value, higher is better, main."""
    scores = tuple(
        Score(task, variant, metric, value, 10, None, main, higher, shown=True)
        for task, variant, metric, value, higher, main in rows
    )
    ledger = Ledger({}, {}, 1, 32, 0, "cpu", None, None, "budget")
    spec = RunSpec("joint", "a", "tiny", "S", 100)
    return Record(spec.id, "joint", spec, "done", "", ledger, scores, {})


def test_rules_by_hand() -> None:
    result = scored(
        ("a", "clean", "accuracy", 0.8, True, True),
        ("a", "image-blank", "accuracy", 0.2, True, True),
        ("a", "text-blank", "accuracy", 0.4, True, True),
        ("a", "clean", "wrong", 0.4, False, False),
        ("b", "clean", "f1", 0.3, True, True),
        ("b", "clean", "yes_rate", 0.9, None, False),
    )
    # Of a: 0.8 and 1 - 0.4; of b: 0.3; what has no direction stays out.
    assert tuning.composite(result) == pytest.approx((0.7 + 0.3) / 2)
    assert tuning.main_metric(result) == 0.8
    assert tuning.balanced(result) == pytest.approx((0.8 + (0.2 + 0.4) / 2) / 2)


@pytest.mark.parametrize(
    ("scores", "best"),
    [([0.2, 0.5, 0.5], 1), ([0.5, 0.5], 0), ([None, 0.1, None], 1), ([None, None], None)],
)
def test_the_first_of_the_best_is_chosen(scores: Sequence[float | None], best: int) -> None:
    assert tuning.best(scores) == best


@pytest.fixture(scope="module")
def tuned(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tune a suite by the command; return the folder."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "mine.yaml").write_text(yaml.safe_dump(SUITE))
    done = command(folder, world, "tune", "--trials", "3", "--oracle")
    assert done.exit_code == 0, done.output
    return folder


def command(folder: Path, world: Path, name: str, *words: str) -> Any:
    arguments = [
        "--data-root",
        str(world / "food101"),
        "--runs",
        str(folder / "runs"),
        "--jobs",
        "0",
    ]
    return CliRunner().invoke(cli, [name, str(folder / "mine.yaml"), *arguments, *words])


def file_of(folder: Path) -> Path:
    (path,) = (folder / "runs").glob(f"tuning-mine-*-4e9/{tuning.FILE}")
    return path


def test_the_file_says_what_was_tried_and_what_it_cost(tuned: Path) -> None:
    content = tuning.read(file_of(tuned))
    entries = {entry["label"]: entry for entry in content["entries"]}
    assert len(entries["majority"]["trials"]) == 1  # trains nothing, so there is nothing to try
    for label in ("joint", "plain mcr"):
        entry = entries[label]
        assert len(entry["trials"]) == 3
        scores = [trial["score"] for trial in entry["trials"]]
        assert entry["chosen"] == scores.index(max(scores))
        ledger = entry["ledger"]
        assert ledger["limit_flops"] == 3 * BUDGET  # the same cap for all
        assert list(ledger["flops"]) == ["tune"] and ledger["flops"]["tune"] > 2.5 * BUDGET
        assert ledger["flops"]["tune"] == sum(trial["flops"] for trial in entry["trials"])
        assert ledger["flops"]["tune"] <= 3 * BUDGET
    trials = [record.read(path) for path in record.find(file_of(tuned).parent)]
    assert {result.kind for result in trials} == {"trial"}
    splits = {result.provenance["data"]["split"] for result in trials}
    assert splits == {"val", "test"}  # test only because an oracle was asked for
    assert {result.spec.seed for result in trials} == {100}


def test_tuning_again_runs_nothing_and_chooses_the_same(
    tuned: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steelyard.harness.runs import run

    before = file_of(tuned).read_bytes()
    monkeypatch.setattr(run, "train", None)
    done = command(tuned, world, "tune", "--trials", "3", "--oracle")
    assert done.exit_code == 0, done.output
    assert file_of(tuned).read_bytes() == before


@pytest.mark.usefixtures("blank_figures")
def test_chosen_settings_run_beside_the_defaults_and_are_accounted_for(
    tuned: Path, world: Path
) -> None:
    words = ("--tuned", str(file_of(tuned)), "--oracle")
    done = command(tuned, world, "run", *words)
    assert done.exit_code == 0, done.output
    runs = tuned / "runs"
    results = [record.read(path) for path in record.find(runs) if path.parent == runs]
    assert {result.label for result in results} == {
        "majority", "joint", "joint tuned", "joint oracle",
        "plain mcr", "plain mcr tuned", "plain mcr oracle",
    }  # fmt: skip
    assert {result.label for result in results if result.kind == "oracle"} == {
        "joint oracle", "plain mcr oracle",
    }  # fmt: skip
    entries = {entry["label"]: entry for entry in tuning.read(file_of(tuned))["entries"]}
    for result in results:
        if not result.label.endswith(" tuned"):
            continue
        entry = entries[result.label.removesuffix(" tuned")]
        about = result.provenance["tuning"]
        assert result.spec.tuning == about["hash"] == entry["hash"]
        assert (about["trials"], about["rule"]) == (3, "best-composite")
        assert about["flops"] == entry["ledger"]["flops"]["tune"]
        trial = entry["trials"][entry["chosen"]]
        assert dict(result.spec.options) == trial["options"]
    assert validate(runs).findings == ()
    printed = CliRunner().invoke(
        cli, ["leaderboard", str(runs), "--out", str(tuned / "board")], catch_exceptions=False
    )
    assert printed.exit_code == 0, printed.output
    board = json.loads((tuned / "board" / "board-food101.json").read_text())
    costs = {entry["label"]: entry["cost"] for entry in board["rows"]}
    assert set(costs) == {"majority", "joint", "joint tuned", "plain mcr", "plain mcr tuned"}
    assert costs["joint tuned"]["tuning"] > 0 == costs["joint"]["tuning"]
    assert "joint oracle" in (tuned / "board" / "oracle.csv").read_text()


def test_validation_finds_a_trial_that_was_not_the_best(tuned: Path, tmp_path: Path) -> None:
    content = json.loads(file_of(tuned).read_text())
    entry = content["entries"][1]
    entry["chosen"] = (entry["chosen"] + 1) % 3
    entry["hash"] = tuning.entry_hash(content, entry)
    runs = tuned / "runs"
    content_bytes = file_of(tuned).read_bytes()
    try:
        write_json(file_of(tuned), {**content, "seal": record.checksum(content)})
        findings = [finding.message for finding in validate(runs).findings]
        assert any("was chosen, but is not the best" in finding for finding in findings)
        content["entries"][1]["trials"].pop()
        file_of(tuned).write_text(json.dumps(content))
        findings = [finding.message for finding in validate(runs).findings]
        assert any("was changed after it was written" in finding for finding in findings)
    finally:
        file_of(tuned).write_bytes(content_bytes)


def test_other_boards_may_have_other_numbers_of_trials(
    tuned: Path, world: Path, tmp_path: Path
) -> None:
    done = command(tuned, world, "run", "--tuned", str(file_of(tuned)))
    assert done.exit_code == 0, done.output
    for name in ("one", "other"):
        shutil.copytree(tuned / "runs", tmp_path / name)

    def unequal(folder: str, changed: int) -> list[str]:
        """Return the findings when so many tuned runs of a folder claim one more trial."""
        paths = [path for path in record.find(tmp_path / folder) if path.parent.name == folder]
        tried = [path for path in paths if record.read(path).spec.tuning]
        for path in tried[:changed]:
            content = json.loads((path / record.RECORD).read_text())
            content["provenance"]["tuning"]["trials"] = 4
            content["seal"] = record.checksum(content)
            (path / record.RECORD).write_text(json.dumps(content))
        findings = [finding.message for finding in validate(tmp_path).findings]
        return [finding for finding in findings if "different numbers of trials" in finding]

    assert unequal("one", changed=100) == []
    assert len(unequal("other", changed=1)) >= 2


def test_bad_input_is_one_line(tuned: Path, world: Path, tmp_path: Path) -> None:
    def message(*words: str) -> str:
        done = command(tuned, world, *words)
        assert isinstance(done.exception, UserError), done.output
        return str(done.exception)

    assert "Did you mean 'best-main'" in message("tune", "--rule", "best-mian")
    assert "give at least 1" in message("tune", "--trials", "0")
    assert "trials are trained with seed 100" in message("tune", "--seeds", "0-4")
    assert "--oracle goes with --tuned" in message("run", "--oracle")
    foreign = tmp_path / "foreign.json"
    foreign.write_text("{}")
    assert "is not a tuning file" in message("run", "--tuned", str(foreign))
    words = ("run", "--tuned", str(file_of(tuned)), "--backbone", "tiny-additive")
    assert "no such entry is run here" in message(*words)


def test_chosen_settings_of_other_data_are_not_taken(tuned: Path, mine: Suite) -> None:
    content = tuning.read(file_of(tuned))
    same = mine
    assert [entry.label for entry in tuning.chosen_entries(content, same, oracle=False)] == [
        "joint tuned", "plain mcr tuned",
    ]  # fmt: skip
    foreign = replace(same, tasks=("mm_imdb",))
    assert tuning.chosen_entries(content, foreign, oracle=True) == []
