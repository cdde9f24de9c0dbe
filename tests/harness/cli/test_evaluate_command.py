"""``steelyard evaluate`` on a model that nobody trained here: a record like any other."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import scripted_vlm
import stock_data
from safetensors.torch import load_file, save_file
from stock_data import write

from steelyard import tasks
from steelyard.harness.cli.evaluate import EvaluateOptions, score_model
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Inputs
from steelyard.harness.models import registry, vlm
from steelyard.harness.records import record
from steelyard.harness.records.record import Record
from steelyard.harness.runs.attempt import PARTS
from steelyard.leaderboards.publish import publish

GENERATE = vlm.Vlm.generate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny model of real layout that answers in words."""
    return scripted_vlm.scripted(tmp_path_factory.mktemp("models") / "tiny-llava", ["yes"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our POPE on generated scenes, and a hub copy as lmms-eval's has it."""
    from steelyard.tasks.world import build

    root = tmp_path_factory.mktemp("data")
    build.write(build.WorldSpec("pope", train=16, test=16), root / "ours")
    write(root / "theirs", stock_data.pope(12))
    return root


@pytest.fixture
def ask(model: Path, data: Path, tmp_path: Path) -> Callable[..., Record]:
    """Ask the model these variants; the record that is then in ``runs``."""

    def evaluate(*variants: str, source: Path = model, **changed: Any) -> Record:
        folders = {"pope": data / "ours", "stock/pope": data / "theirs"}
        names = {variant.partition("@")[0] for variant in variants}
        roots = tuple(f"{task}={root}" for task, root in folders.items() if task in names)
        values = {"out": tmp_path / "runs", "data_root": roots, "device": "cpu", **changed}
        score_model(str(source), variants, EvaluateOptions(**values))
        newest = max(record.find(tmp_path / "runs"), key=lambda path: path.stat().st_mtime_ns)
        return record.read(newest)

    return evaluate


def variants(result: Record) -> list[str]:
    return list(dict.fromkeys(f"{score.task}@{score.variant}" for score in result.scores))


def counted(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[int]:
    """Count the items that each call of the model answers; fail at one call."""
    calls: list[int] = []

    def counting(self: vlm.Vlm, inputs: Sequence[Inputs], *rest: Any, **named: Any) -> list[str]:
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        calls.append(len(inputs))
        return GENERATE(self, inputs, *rest, **named)

    monkeypatch.setattr(vlm.Vlm, "generate", counting)
    return calls


def test_a_model_gets_a_record_like_any_run(
    ask: Callable[..., Record], model: Path, data: Path, tmp_path: Path
) -> None:
    result = ask("pope", "pope@image-blank", "stock/pope@image-shuffle")
    assert variants(result) == ["pope@clean", "pope@image-blank", "stock/pope@image-shuffle"]
    assert (result.label, result.status, result.spec.task) == ("tiny-llava", "done", tasks.NOTHING)
    assert (result.ledger.total_flops, result.ledger.steps) == (0, 0)
    provenance = result.provenance
    assert provenance["weights"] == registry.revision(str(model), {})
    assert set(provenance["scored"]) == {"pope", "stock/pope"}
    stock = provenance["scored"]["stock/pope"]
    corpus = tasks.load("stock/pope", data / "theirs")
    assert stock["data"]["revision"] == corpus.revision
    assert stock["data"]["notes"]["split"] == "test" and stock["data"]["sizes"] == {"test": 12}
    assert stock["data"]["items"] and stock["task"] != provenance["scored"]["pope"]["task"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "items-pope.parquet", "items-stock-pope.parquet", "record.json",
    ]  # fmt: skip
    assert len(pd.read_parquet(folder / "items-stock-pope.parquet")) == 12


def test_what_is_scored_is_not_scored_again(
    ask: Callable[..., Record], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("pope", "stock/pope")
    calls = counted(monkeypatch)
    assert variants(ask("pope")) == ["pope@clean", "stock/pope@clean"]
    assert calls == []
    more = ask("stock/pope@image-blank", data_root=(f"pope={data / 'theirs'}",))
    # The data of the other task is not needed, and what is known of it stays.
    assert sum(calls) == 12
    assert set(more.provenance["scored"]) == {"pope", "stock/pope"}
    assert len(variants(more)) == 3


def test_an_interrupted_command_goes_on_and_loses_nothing(
    ask: Callable[..., Record], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ask("stock/pope")
    counted(monkeypatch, fail_at=1)
    with pytest.raises(KeyboardInterrupt):
        ask("stock/pope@image-blank", "stock/pope@image-noise:1")
    (folder,) = (tmp_path / "runs").iterdir()
    assert variants(record.read(folder)) == ["stock/pope@clean"]  # still whole
    calls = counted(monkeypatch)
    result = ask("stock/pope@image-blank", "stock/pope@image-noise:1")
    assert calls == [12] and len(variants(result)) == 3
    assert not (folder / PARTS).exists()


def test_some_items_have_a_record_of_their_own(ask: Callable[..., Record], tmp_path: Path) -> None:
    full, some = ask("stock/pope"), ask("stock/pope", limit=6)
    assert full.id != some.id and some.spec.data == {"limit": "6"}
    assert {score.n for score in some.scores} == {6}
    assert {score.n for score in full.scores} == {12}
    with pytest.raises(UserError, match="data revisions"):
        publish([tmp_path / "runs"], tmp_path / "board")


def test_models_stand_beside_each_other_on_a_board(
    ask: Callable[..., Record], tmp_path: Path, model: Path
) -> None:
    second = tmp_path / "second"
    shutil.copytree(model, second)
    for source in (model, second):
        ask("pope", "pope@image-blank", "stock/pope", source=source)
    published = publish([tmp_path / "runs"], tmp_path / "board")
    (profile,) = published.boards
    assert {row.label for row in profile.rows} == {"tiny-llava", "second"}
    columns = [column.name for column in profile.clean]
    assert "stock/pope pope_accuracy" in columns and "pope f1" in columns
    text = (tmp_path / "board" / "board.md").read_text()
    assert "Models as they are, models trained elsewhere and answers from files" in text
    assert "second (as it is)" in text
    text += (tmp_path / "board" / "profile-none.md").read_text()
    assert "nothing trained" in text and "(control)" not in text and "0.00e+00" not in text


def test_models_trained_elsewhere_are_named_apart_with_a_declared_cost(
    ask: Callable[..., Record], tmp_path: Path, model: Path
) -> None:
    for name, scale in (("one", 1.0), ("two", 0.5)):
        copy = tmp_path / name / "final"
        shutil.copytree(model, copy)
        weights = load_file(copy / "model.safetensors")
        save_file({k: scale * w for k, w in weights.items()}, copy / "model.safetensors",
                  metadata={"format": "pt"})  # fmt: skip
    first = ask("pope", source=tmp_path / "one" / "final", cost="3e17")
    second = ask("pope", source=tmp_path / "two" / "final", cost="unknown")
    base = ask("pope")
    assert [r.origin for r in (first, second, base)] == [*["trained elsewhere"] * 2, "as it is"]
    assert (first.declared_flops, second.declared_flops) == (3e17, None)
    assert base.ledger.limit_flops is None and "XS" not in base.id
    (board,) = publish([tmp_path / "runs"], tmp_path / "board").boards
    assert {row.label: str(row.cost) for row in board.rows} == {
        "one/final": "3.00e+17 declared", "two/final": "unknown", "tiny-llava": "nothing trained",
    }  # fmt: skip
    named = ask("pope", source=tmp_path / "two" / "final", label="my DPO")
    assert (named.label, named.id, named.declared_flops) == ("my DPO", second.id, None)
    declared = ask("pope", source=tmp_path / "two" / "final", cost="2e16")
    assert (declared.label, declared.declared_flops) == ("my DPO", 2e16)
    with pytest.raises(UserError, match="give the FLOPs of training, such as 3e17, or unknown"):
        ask("pope", cost="0")


def test_a_task_without_an_interval_is_left_off_the_board_and_named(
    ask: Callable[..., Record], tmp_path: Path
) -> None:
    write(tmp_path / "mme", stock_data.mme())
    ask("stock/mme", data_root=(f"stock/mme={tmp_path / 'mme'}",))
    with pytest.raises(UserError, match="Nothing on stock/mme is a mean over items"):
        publish([tmp_path / "runs"], tmp_path / "board")
    ask("pope")
    (profile,) = publish([tmp_path / "runs"], tmp_path / "board").boards
    assert {column.task for column in profile.clean} == {"pope"}
    assert any(note.startswith("stock/mme is not shown") for note in profile.notes)
    assert "mme_perception_score" in (tmp_path / "board" / "scores.csv").read_text()


def test_other_weights_or_data_than_the_records_are_refused(
    ask: Callable[..., Record], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    ask("stock/pope", source=copy)
    write(tmp_path / "fewer", stock_data.pope(9))
    with pytest.raises(
        UserError, match=r"fewer does not match the record of .* Give another --out"
    ):
        ask("stock/pope@image-blank", source=copy, data_root=(f"pope={tmp_path / 'fewer'}",))
    monkeypatch.setattr(registry, "revision", lambda *model: "of another day")  # as on the hub
    with pytest.raises(UserError, match=r"has other weights .* give another --out"):
        ask("stock/pope@image-blank", source=copy)


def test_a_folder_is_called_by_its_content_and_not_by_where_it_is(
    ask: Callable[..., Record], model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy" / model.name
    shutil.copytree(model, copy)
    first = ask("pope")
    assert ask("pope", source=copy).id == first.id
    config = copy / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    assert ask("pope", source=copy).id != first.id
    publish([tmp_path / "runs"], tmp_path / "board", html=True)
    for path in (tmp_path / "board").rglob("*.*"):
        assert str(tmp_path) not in path.read_text(errors="ignore"), path


def test_mistakes(ask: Callable[..., Record], tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match=r"Say what to score .*tiny-llava on, for example: pope"):
        ask()
    with pytest.raises(UserError, match=r"Nothing at .*nowhere: give the folder of a run"):
        ask("pope", source=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"Did you mean 'precision'"):
        ask("pope", backbone_set=("precison=bf16",))
    with pytest.raises(UserError, match=r"'image-noize'\. Did you mean 'image-noise'"):
        ask("stock/pope@image-noize")
    result = ask("stock/pope")
    folder = tmp_path / "runs" / result.id
    with pytest.raises(UserError, match=r"--out goes with a model; .* is a run"):
        ask("pope", source=folder)
    with pytest.raises(UserError, match=r"Say what to score"):
        score_model(str(folder), (), EvaluateOptions(device="cpu"))
    (folder / "record.json").unlink()
    (folder / "training.json").write_text("{}")
    with pytest.raises(UserError, match="No record at"):
        score_model(str(folder), ("pope",), EvaluateOptions(device="cpu"))


def test_the_folder_of_its_record_stands_for_the_model(
    ask: Callable[..., Record], data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / ask("stock/pope").id
    roots = (f"pope={data / 'theirs'}",)
    options = EvaluateOptions(data_root=roots, device="cpu")
    score_model(str(folder), ("stock/pope@image-noise:1-2",), options)
    assert variants(record.read(folder))[-1] == "stock/pope@clean"
    assert len(variants(record.read(folder))) == 3
