"""Validation finds edited, missing and inconsistent records, with one line each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from board_factory import make_answered
from click.testing import CliRunner

from steelyard import tasks
from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import file_hash
from steelyard.harness.records import record
from steelyard.harness.records.record import RECORD, checksum
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import run, tuning
from steelyard.harness.runs.job import Job
from steelyard.leaderboards.loading.collect import collect
from steelyard.leaderboards.validate import sets, validate

Content = dict[str, Any]
VARIANTS = ("food101", "food101@image-blank")


@pytest.fixture(scope="module")
def food(world: Path) -> Corpus:
    return tasks.load("food101", world / "food101")


@pytest.fixture(scope="module")
def honest(food: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, two seeds, as a run leaves them."""
    runs = tmp_path_factory.mktemp("honest") / "runs"
    for method in ("majority", "joint"):
        for seed in (0, 1):
            data = {"revision": food.revision}
            spec = RunSpec(method, "food101", "tiny", "4e9", seed, data=data)
            job = Job(spec, method, VARIANTS)
            run.run(job, {"food101": food}, runs, "cpu", lambda doing, share: None)
    return runs


@pytest.fixture
def runs(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "runs"))


def run_folder(runs: Path, start: str = "joint", seed: int = 0) -> Path:
    (folder,) = runs.glob(f"{start}-*-s{seed}-*")
    return folder


def edit(folder: Path, change: Callable[[Content], object], *, seal: bool = True) -> None:
    """Change a record by hand; ``seal`` makes a new seal as a careful cheater would."""
    content = json.loads((folder / RECORD).read_text())
    change(content)
    if seal:
        content["seal"] = checksum(content)
    (folder / RECORD).write_text(json.dumps(content))


def findings(runs: Path) -> list[str]:
    return [str(finding) for finding in validate(runs).findings]


def test_honest_records_have_no_finding(runs: Path) -> None:
    report = validate(runs)
    assert report.findings == () and len(report.runs) == 4
    assert report.without_checksum == 0 and report.unchecked == ()
    assert validate(runs, against=runs).findings == ()


def test_rules_of_no_number_are_a_finding_and_no_traceback(runs: Path) -> None:
    edit(run_folder(runs), lambda content: content["provenance"].update(rules="x", weights=None))
    assert any("lacks the hash of the weights" in message for message in findings(runs))


def test_an_edited_record_is_named_and_no_board_takes_it(runs: Path) -> None:
    edit(run_folder(runs), lambda content: content["scores"][0].update(value=0.99), seal=False)
    messages = findings(runs)
    assert any("edited: checksum" in message for message in messages)
    assert any("the record says accuracy 0.99, its items give" in message for message in messages)
    with pytest.raises(UserError, match=r"record.json was changed after it was written"):
        collect([runs])


def raised(content: Content) -> None:
    content["scores"][0]["value"] = 0.99


def not_a_number(content: Content) -> None:
    content["scores"][0]["value"] = float("nan")


def undirected(content: Content) -> None:
    content["scores"][0]["higher_is_better"] = None


def turned(content: Content) -> None:
    content["scores"][0]["higher_is_better"] = False


def doubled(content: Content) -> None:
    content["scores"].append(content["scores"][0])


def overspent(content: Content) -> None:
    content["ledger"]["flops"]["backward"] += 4e9


def richer(content: Content) -> None:
    content["ledger"]["limit_flops"] = 8e9


def more_items(content: Content) -> None:
    content["ledger"]["items"] *= 10


def slow(content: Content) -> None:
    content["ledger"]["seconds"]["train"] += 4000


def hidden_work(content: Content) -> None:
    content["ledger"]["unposted"] = 0.4


def tokens(count: int) -> Content:
    """Generation of answers of so many tokens, at 10 FLOPs a token and 1e8 for each next one."""
    prices = {"token_flops": 10.0, "attention_flops": 0.0, "head_flops": 1e8}
    counts = {"prompts": 0, "prompt_tokens": 0, "answer_tokens": count, "attended": 0}
    return {"phase": "backward", **prices, **counts}


def dear_tokens(content: Content) -> None:
    flops = content["ledger"]["flops"]["backward"]
    content["ledger"]["generation"] = [tokens(int(flops / (1e8 + 10))), tokens(1)]


def fewer_than_no_tokens(content: Content) -> None:
    content["ledger"]["generation"] = [tokens(-1)]


def other_options(content: Content) -> None:
    content["spec"]["learning_rate"] = 0.01


def other_data(content: Content) -> None:
    content["provenance"]["data"]["splits"]["test"] = "another"


def other_rules(content: Content) -> None:
    content["provenance"]["rules"] = 1


def other_torch(content: Content) -> None:
    content["provenance"]["packages"]["torch"] = "1.0"


def weightless(content: Content) -> None:
    content["provenance"]["weights"] = None


def invisible(content: Content) -> None:
    content["label"] = "joint\u202e\x1b[31m"


def from_validation(content: Content) -> None:
    content["provenance"]["data"]["split"] = "val"


def with_few_classes(content: Content) -> None:
    content["provenance"]["data"]["classes"] = 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (with_few_classes, "and their record counts 1 classes"),
        (raised, "food101 clean: the record says accuracy 0.99, its items give"),
        (not_a_number, "NaN is no number of JSON"),
        (undirected, "is the main metric and has no direction"),
        (weightless, "lacks the hash of the weights"),
        (turned, "higher is better is False, the task says True"),
        (doubled, "occurs twice"),
        (overspent, "FLOPs used of 4e+09"),
        (richer, "the budget gives limits"),
        (more_items, "steps of at most 32"),
        (slow, "was work not counted?"),
        (hidden_work, "40% of the audited FLOPs were not counted by the meter"),
        (dear_tokens, "the tokens of backward cost"),
        (fewer_than_no_tokens, "the tokens of backward have a number that is negative"),
        (other_options, "the spec gives joint-food101-tiny-4e9-s0-"),
        (other_data, "2 data revisions among the runs"),
        (other_rules, "runs under 2 versions of the rules: 1, 3"),
        (other_torch, "runs under 2 versions of torch"),
        (invisible, r"control characters in label"),
        (from_validation, "scored on validation items"),
    ],
)
def test_what_does_not_fit_is_found_under_a_fresh_seal(
    runs: Path, change: Callable[[Content], object], expected: str
) -> None:
    edit(run_folder(runs), change)
    assert any(expected in message for message in findings(runs)), findings(runs)


def test_a_finding_is_one_line_without_what_moves_a_cursor(runs: Path) -> None:
    edit(run_folder(runs), invisible)
    assert not any(letter in message for message in findings(runs) for letter in "\x1b\u202e\n")


def test_edited_items_are_found_by_their_hash_and_by_themselves(runs: Path) -> None:
    path = run_folder(runs) / "items.parquet"
    items = pd.read_parquet(path)
    clean = items["variant"] == "clean"
    wrong = items.index[clean & (items["score"] == 0)][:5]
    items.loc[wrong, "score"] = 1.0
    items.to_parquet(path, index=False)
    value = float(items[clean]["score"].mean())

    def follows(content: Content) -> None:
        (score,) = (s for s in content["scores"] if s["variant"] == "clean")
        score["value"] = value

    edit(run_folder(runs), follows)
    messages = findings(runs)
    assert any("items.parquet was changed: its hash is" in message for message in messages)
    assert any("5 items have another score than their target and prediction give" in message
               for message in messages)  # fmt: skip


def test_missing_items_other_items_and_items_twice_are_found(runs: Path) -> None:
    folders = [run_folder(runs, seed=seed) for seed in (0, 1)]
    (folders[0] / "items.parquet").unlink()
    path = folders[1] / "items.parquet"
    items = pd.read_parquet(path)
    items["id"] = items["id"].where(items.index != 0, items["id"].iloc[1])
    items.to_parquet(path, index=False)
    messages = findings(runs)
    assert any("items.parquet is missing" in message for message in messages)
    assert any("an item is scored twice" in message for message in messages)
    assert any("were scored on different items of food101" in message for message in messages)


def test_left_out_seeds_and_doubled_runs_are_found(runs: Path) -> None:
    shutil.rmtree(run_folder(runs, seed=0))
    assert any("joint has no run of seed 0" in message for message in findings(runs))
    twin = run_folder(runs, "majority", 1)
    edit(twin, lambda content: content["spec"].update(learning_rate=0.01))
    edit(twin, lambda content: content.update(id=record.parse(content, twin).spec.id))
    shutil.copytree(run_folder(runs, "majority", 0), runs / "copy")
    messages = findings(runs)
    assert any("the folder is called copy" in message for message in messages)
    assert any("majority has two runs of seed 0" in message for message in messages)


def test_a_score_that_jumped_from_the_published_one_is_found(runs: Path, tmp_path: Path) -> None:
    published = shutil.copytree(runs, tmp_path / "published")
    edit(run_folder(published), lambda content: content["scores"][0].update(value=0.9))
    (finding,) = validate(runs, against=published).findings
    assert (
        "food101 clean accuracy is" in finding.message
        and "the same run has 0.9000" in finding.message
    )


def test_records_of_the_first_schema_are_read_and_counted_and_of_later_ones_refused(
    runs: Path,
) -> None:
    def aged(content: Content) -> None:
        for name in ("seal", "kind"):
            del content[name]
        for name in ("track", "wall", "tuning"):
            del content["spec"][name]
        for name in ("audited", "unposted", "limit_items", "generation"):
            del content["ledger"][name]
        for name in ("rules", "tables"):
            del content["provenance"][name]
        content["schema"] = 1

    before = record.read(run_folder(runs))
    for folder in record.find(runs):
        edit(folder, aged, seal=False)
    old = record.read(run_folder(runs))
    assert (old.id, old.spec, old.scores) == (before.id, before.spec, before.scores)
    report = validate(runs)
    assert report.findings == () and report.without_checksum == 4
    edit(run_folder(runs), lambda content: content.update(schema=9))
    with pytest.raises(UserError, match=r"schema 9, this version reads 1 and 2"):
        record.read(run_folder(runs))
    assert any("schema 9, this version reads 1 and 2" in message for message in findings(runs))


def test_answers_in_words_are_computed_again_with_their_subsets(tmp_path: Path) -> None:
    answers = {"pool": {"clean": [(True, True), (True, False), (False, True), (False, False)]}}
    make_answered(tmp_path, "sft", answers)
    (folder,) = record.find(tmp_path)
    messages = [message for message in findings(tmp_path) if "its items give" in message]
    assert messages == []

    def raise_even(content: Content) -> None:
        (score,) = (s for s in content["scores"] if s["subset"] == "even" and s["metric"] == "f1")
        score["value"] = 0.9  # of hits 1, yes 1 + 2: 2 / 3

    edit(folder, raise_even)
    assert any("pool clean even: the record says f1 0.9, its items give 0.666667" in message
               for message in findings(tmp_path))  # fmt: skip


def test_the_command_prints_a_line_a_finding_and_exits_by_them(runs: Path) -> None:
    fine = CliRunner().invoke(cli, ["validate", str(runs)])
    assert fine.exit_code == 0 and fine.output == "4 records checked, 0 findings\n"
    edit(run_folder(runs), raised)
    bad = CliRunner().invoke(cli, ["validate", str(runs)])
    assert bad.exit_code == 1
    assert bad.output.splitlines()[-1] == "4 records checked, 1 findings"
    with pytest.raises(UserError, match="No record under"):
        validate(runs / "nowhere")


def test_items_files_are_hashed_when_they_are_written(runs: Path) -> None:
    found = record.read(run_folder(runs))
    path = run_folder(runs) / "items.parquet"
    assert found.provenance["tables"] == {"items.parquet": file_hash(path)}


@pytest.mark.parametrize(
    ("noun", "spent"), [("FLOPs", {"flops": {"tune": 5.0}}), ("items", {"items": 9})]
)
def test_tuning_beyond_its_limits_is_found(noun: str, spent: dict[str, Any]) -> None:
    names = ("rule", "seed", "split", "limit", "tasks", "evaluate", "backbone", "backbone_options",
             "budget", "track", "wall")  # fmt: skip
    content = {**dict.fromkeys(names), "trials": 1}
    ledger = {"flops": {"tune": 4.0}, "items": 8, "steps": 2, "limit_flops": 4, "limit_items": 8}
    trial = {"options": {}, "learning_rate": None, "score": 0.5}
    entry = {"label": "a", "method": "joint", "source": "", "trials": [trial], "chosen": 0,
             "oracle": None, "ledger": ledger}  # fmt: skip
    content["entries"] = [entry]
    entry["hash"] = tuning.entry_hash(content, entry)
    assert [*sets._tuning(content)] == []
    ledger |= spent
    (message,) = sets._tuning(content)
    assert message.startswith("a: tuning used") and noun in message
