"""``steelyard diagnose`` and ``steelyard factors`` as a user types them, on tiny models."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from answer_rows import rows
from click.testing import CliRunner

from steelyard.harness.cli import factors
from steelyard.harness.cli.factors import LEVELS, FactorLevel
from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import run_suite
from steelyard.harness.runs.suite import Suite, SuiteEntry
from steelyard.leaderboards.factor_effects import numbers as bias
from steelyard.leaderboards.factor_effects import tables as bias_files
from steelyard.leaderboards.factor_effects.numbers import LevelAnswers
from steelyard.leaderboards.output.style import render


def invoke(*words: str) -> str:
    """Return what a command prints; raise a user's mistake."""
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a classifier for a few steps; return its folder."""
    runs = tmp_path_factory.mktemp("runs")
    suite = Suite("run", (SuiteEntry("joint"),), ("hateful_memes",), budget="2e9")
    roots = (f"hateful_memes={world / 'hateful_memes'}",)
    options = RunOptions(runs=runs, data_root=roots, jobs=0)
    (record,) = run_suite(suite, options, evaluate=False)
    return runs / record.id


def test_a_run_is_diagnosed_on_its_own_task(run: Path, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("diagnose", str(run), "--data-root", str(world / "hateful_memes"), "--limit", "40",
             "--draws", "2", "--out", str(out))  # fmt: skip
    output = invoke(*words)
    assert "hateful memes" in output and "begin with" in output
    names = {path.name for path in out.iterdir() if path.is_file()}
    assert names == {f"diagnosis.{end}" for end in ("md", "csv", "json", "png", "svg")}
    assert (out / "asked" / "items-hateful_memes.parquet").is_file()
    content = json.loads((out / "diagnosis.json").read_text())
    numbers = content["parts"][0]["numbers"]
    # Each side alone of the memes is at chance by construction, whatever the model learnt.
    assert numbers["score.text.blank"]["mean"] == pytest.approx(0.5, abs=0.2)
    assert {"additive.gap", "information.image", "conflict.text"} <= numbers.keys()
    assert content["model"] == "joint (seed 0)"
    before = {name: (out / name).read_bytes() for name in names}
    assert invoke(*words)
    assert {name: (out / name).read_bytes() for name in names} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", "hateful_meme"), "Unknown task 'hateful_meme'. Did you mean 'hateful_memes'"),
        (("--tasks", "food101"), "was trained on hateful_memes, it cannot answer food101"),
        (("--draws", "0"), "--draws 0: replace a modality once or more"),
        (("--limit", "0"), "--limit 0: score one or more items"),
        (("--split", "dev"), "Unknown split of hateful_memes 'dev'"),
        (("--data-root", "pope=."), "Unknown task of --data-root 'pope'"),
        (("--data-root", "nowhere"), "--data-root: no folder at nowhere"),
    ],
)
def test_mistakes(
    run: Path, world: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    root = ("--data-root", str(world / "hateful_memes"))
    arguments = words if "--data-root" in words else (*root, *words)
    with pytest.raises(UserError) as error:
        invoke("diagnose", str(run), *arguments, "--out", str(tmp_path / "out"))
    assert message in str(error.value)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="untrained classifier: give the folder of a run"):
        invoke("diagnose", "tiny", "--tasks", "pope", "--out", str(tmp_path))
    with pytest.raises(UserError, match=r"Nothing at .*: give the folder of a run or checkpoint"):
        invoke("diagnose", str(tmp_path / "absent"), "--out", str(tmp_path))
    with pytest.raises(UserError, match=r"--data-set a: with several tasks write TASK\.a="):
        invoke("diagnose", "tiny-vlm", "--data-set", "a=b", "--out", str(tmp_path))


def answers(right: int, blind: int, shift: int = 0) -> pd.DataFrame:
    """Forty items: so many right in full and, of the same, without the image."""

    def scores(count: int) -> list[float]:
        return [1.0] * count + [0.0] * (40 - count)

    def words(count: int) -> str:
        return "a" * count + "b" * (40 - count)

    records = [*rows("full", "", scores(right + shift), words(right + shift))]
    for way in ("blank", "shuffled"):
        for view, count in (("text", blind), ("image", 10), ("neither", 5)):
            records += rows(view, way, scores(count), words(count))
    return pd.DataFrame(records)


def factor() -> bias.Factor:
    usual = LevelAnswers(
        "toy", "size", "how large", "1", True, {0: answers(30, 10), 1: answers(30, 10)}
    )
    large = LevelAnswers("toy", "size", "how large", "2", False,
                  {1: answers(30, 20, 4), 0: answers(30, 20, 2)})  # fmt: skip
    return bias.build("data", [usual, large], {"seeds": "0, 1"})


def test_a_level_is_compared_with_the_usual_one_seed_by_seed() -> None:
    (curve,) = factor().curves
    usual, large = curve.levels
    assert usual.reference and not usual.effects
    assert usual.numbers["gain.image.blank"].mean == 0.5
    assert large.numbers["score.full"].values == (0.8, 0.85)  # in seed order
    assert large.effects["score.full"].values == pytest.approx((0.05, 0.1))
    assert large.effects["gain.image.blank"].mean == pytest.approx(-0.175)
    assert curve.seeds == (0, 1) and curve.items == 40


def test_factor_files() -> None:
    effects = factor()
    page = bias_files.report(effects).markdown()
    assert "| 1 (reference) | 75.0 ± " in page and "| 2 | +7.5 ± " in page
    assert "One seed" not in page
    lines = bias_files.report(effects).csv().splitlines()
    assert any(line.startswith("toy,size,2,false,score.full,0.825,") for line in lines)
    assert json.loads(bias_files.report(effects).json())["curves"][0]["levels"][1]["value"] == "2"
    figures = bias_files.report(effects).all_figures
    assert render(figures) == render(figures) and render(figures)["data.svg"].count(b"<svg") == 1


def test_every_parameter_has_one_usual_level_and_changes_one_thing() -> None:
    for levels in LEVELS.values():
        for parameter in {level.parameter for level in levels}:
            group = [level for level in levels if level.parameter == parameter]
            assert sum(level.reference for level in group) == 1
            for level in group:
                assert set(level.changes) == (set() if level.reference else {parameter})
                assert parameter in factors.PARAMETERS


def test_factors_trains_each_level_and_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(factors.tasks, "WORLD_TRAIN", 96)
    monkeypatch.setattr(factors.tasks, "WORLD_TEST", 48)
    two = (
        FactorLevel("p_named", "0.75", reference=True),
        FactorLevel("p_named", "1", {"p_named": 1.0}),
    )
    monkeypatch.setitem(LEVELS, ("data", "classifier"), two)
    words = ("factors", "data", "--quick", "--budget", "2e9", "--limit", "30", "--out",
             str(tmp_path / "out"))  # fmt: skip
    output = invoke(*words)
    assert "0.75 (reference)" in output and "Minus the reference level" in output
    runs = sorted((tmp_path / "out" / "data" / "runs").glob("*/record.json"))
    assert len(runs) == 2
    stamps = [path.stat().st_mtime_ns for path in runs]
    page = (tmp_path / "out" / "data.md").read_bytes()
    invoke(*words)
    assert [path.stat().st_mtime_ns for path in runs] == stamps
    assert (tmp_path / "out" / "data.md").read_bytes() == page
    revisions = {json.loads(path.read_text())["spec"]["data"]["revision"] for path in runs}
    assert len(revisions) == 2  # trained on other data, asked about the same
    tables = [pd.read_parquet(path) for path in (tmp_path / "out").rglob("items-*.parquet")]
    assert len(tables) == 2 and tables[0]["id"].equals(tables[1]["id"])


def test_mistakes_of_factors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Unknown factor 'date'\. Did you mean 'data'"):
        invoke("factors", "date", "--out", str(tmp_path))
    with pytest.raises(UserError, match="Seeds 'a': write 0,1,2 or 0-4"):
        invoke("factors", "data", "--seeds", "a", "--out", str(tmp_path))
    with pytest.raises(UserError, match="--limit 0: evaluate on one or more items"):
        invoke("factors", "data", "--limit", "0", "--out", str(tmp_path))
