"""Plans: what is written is read back, and what does not fit the code or the data is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from command import Command

from steelyard.harness.cli.run import suites_from
from steelyard.harness.core.errors import UserError
from steelyard.harness.models import registry
from steelyard.harness.runs import plan as plans
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import OpenSuite, open_suite
from steelyard.harness.runs.plan import Needs, Plan, select

SUITE = """
methods:
  - joint
  - {method: modality_dropout, options: {rate: 0.2}, label: dropped}
tasks: [food101, hateful_memes]
seeds: [0, 1]
budget: 1e9
limit: 8
corruptions: [image-blank]
"""
METHOD = '''
"""Method of a test."""
from dataclasses import dataclass
from steelyard.methods import About

ABOUT = About(title="Idle", kind="control", summary="Does nothing.")

@dataclass(frozen=True, slots=True)
class Config:
    pass

def train(backbone, data, meter, config, seed):
    pass
'''


@pytest.fixture
def opened(world: Path, tmp_path: Path) -> OpenSuite:
    (tmp_path / "suite.yaml").write_text(SUITE)
    roots = tuple(f"{name}={world / name}" for name in ("food101", "hateful_memes"))
    options = RunOptions(data_root=roots)
    return open_suite(suites_from(str(tmp_path / "suite.yaml"), options)[0], options)


@pytest.fixture
def plan(opened: OpenSuite, world: Path) -> Plan:
    roots = tuple(f"{name}={world / name}" for name in ("food101", "hateful_memes"))
    return plans.make([opened], RunOptions(data_root=roots), card="cpu")


def test_a_plan_is_read_as_it_was_written(plan: Plan, tmp_path: Path) -> None:
    needs = Needs(hours=2.5, memory_gb=11.0)
    tuning = {"hash": "0123", "trials": 4}
    first, *rest = plan.cells
    plan = replace(plan, cells=(replace(first, needs=needs, tuning=tuning), *rest))
    plan.write(tmp_path / "plan.json")
    assert plans.read(tmp_path / "plan.json") == plan


def test_the_jobs_of_a_plan_are_those_of_the_suite(opened: OpenSuite, plan: Plan) -> None:
    assert len(plan.cells) == 8
    assert [plan.job(index) for index in range(8)] == list(opened.jobs)


def test_estimates_belong_to_all_seeds(world: Path, steelyard: Command, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    words = ("joint", "--budget", "1e9", "--seeds", "0,1", "--data-root", str(world / "food101"))
    done = steelyard("plan", *words, "--card", "H100", "-o", str(file), "--device", "cpu",
                     "--runs", str(tmp_path / "runs"))  # fmt: skip
    assert done.code == 0 and f"2 runs in {file}" in done.stdout
    plan = plans.read(file)
    (needs,) = {cell.needs for cell in plan.cells}
    assert needs is not None and needs.hours > 0 and 0.01 < needs.memory_gb < 100
    assert plan.card == "H100"


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "schema": (lambda plan: plan.update(schema=2), "schema 2, this version reads"),
    "no plan": (lambda plan: plan.clear(), "schema None"),
    "code": (lambda plan: plan.update(source="0" * 16), "made with other code"),
    "key": (lambda plan: plan.update(partition="gpu"), "partition"),
    "cell's key": (lambda plan: plan["cells"][1].update(node="a"), "node"),
    "spec's key": (lambda plan: plan["cells"][1]["spec"].update(epochs=2), "epochs"),
    "absent": (lambda plan: plan["cells"][1].pop("split"), "split"),
    "type": (lambda plan: plan["cells"][1].update(limit="8"), "Cell.limit is '8'"),
    "seed": (lambda plan: plan["cells"][1]["spec"].update(seed="x"), "RunSpec.seed"),
    "data": (lambda plan: plan["cells"][1].update(data=1), "data is missing"),
    "time": (lambda plan: plan.update(created="today"), "today"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_no_plan_of_this_code_is_refused(plan: Plan, tmp_path: Path, name: str) -> None:
    path = tmp_path / "plan.json"
    plan.write(path)
    content = json.loads(path.read_text())
    change, message = CHANGES[name]
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        plans.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("count", "shares"), [(20, 8), (3, 5), (7, 1)])
def test_shares_cover_each_cell_once(count: int, shares: int) -> None:
    parts = [select(count, None, f"{k}/{shares}") for k in range(1, shares + 1)]
    assert sorted(chain(*parts)) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_cells_are_chosen_by_number() -> None:
    assert select(10, "3,7-9", None) == [3, 7, 8, 9]
    assert select(10, "3,2-4", None) == [3, 2, 4]
    assert select(3, None, None) == [0, 1, 2]


@pytest.mark.parametrize(
    ("cells", "share", "message"),
    [
        ("3", "1/2", "give one of them"),
        ("10", None, "there is no cell 10, only 0-9"),
        ("a", None, "write 3,7-9"),
        ("3-", None, "write 3,7-9"),
        (None, "0/8", "K from 1 to N"),
        (None, "9/8", "K from 1 to N"),
        (None, "2", "such as 2/8"),
    ],
)
def test_a_wrong_choice_of_cells_is_refused(
    cells: str | None, share: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        select(10, cells, share)


def test_data_of_another_revision_is_refused(plan: Plan) -> None:
    data = plan.data[0]
    other = replace(data.tasks["food101"], revision="0" * 16)
    changed = replace(data, tasks={**data.tasks, "food101": other})
    assert plans.open_data(plan, 0).keys() == data.tasks.keys()
    with pytest.raises(UserError, match=r"food101 at .* has revision"):
        plans.open_data(replace(plan, data=(changed,)), 0)


def test_a_method_whose_file_changed_is_refused(world: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    options = RunOptions(data_root=(str(world / "food101"),))
    (suite,) = suites_from(str(file), options)
    spec = plans.make([open_suite(suite, options)], options).cells[0].spec
    plans.check_method(spec)
    file.write_text(METHOD + "\n")
    with pytest.raises(UserError, match="has changed since the plan was made"):
        plans.check_method(spec)


@pytest.mark.parametrize(
    ("backbone", "options", "fetched"),
    [
        ("tiny", {}, []),
        ("tiny-vlm", {}, []),
        ("org/image+org/text", {}, ["org/image", "org/text"]),
        ("org/vlm", {"adapter": "org/adapter"}, ["org/vlm", "org/adapter"]),
        ("FOLDER", {}, []),
    ],
)
def test_models_of_the_hub_are_fetched_before_workers_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backbone: str,
    options: dict[str, str],
    fetched: list[str],
) -> None:
    names: list[str] = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, ignore_patterns: names.append(name)
    )
    registry.fetch(backbone.replace("FOLDER", str(tmp_path)), options)
    assert names == fetched


def test_a_model_that_the_hub_does_not_give_is_one_line() -> None:
    """Tests have no network."""
    with pytest.raises(UserError, match="Could not download model 'org/absent'"):
        registry.fetch("org/absent", {})
