"""``steelyard evaluate --engine``: lmms-eval's model of an engine answers, a stand-in for vLLM."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_vlms
import vlm_toys
from engine_model import ChatModel

from steelyard.harness.cli.evaluate import EvaluateOptions, score_model
from steelyard.harness.core.errors import UserError
from steelyard.harness.evaluation import engines
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.records import record
from steelyard.harness.records.record import Record
from steelyard.leaderboards.loading.collect import collect
from steelyard.tasks.world import build

Ask = Callable[..., tuple[Record, pd.DataFrame]]
ITEMS = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("engines")
    tiny_vlms.make("llava", root / "model")  # its random answers depend on image and words
    build.write(build.WorldSpec("pope", train=16, test=ITEMS), root / "data")
    return root


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the stand-in where lmms-eval has its model for vLLM."""
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.models.registry_v2 import ModelManifest

    path = f"{ChatModel.__module__}.{ChatModel.__name__}"
    manifest = ModelManifest("vllm", chat_class_path=path)
    monkeypatch.setitem(MODEL_REGISTRY_V2._manifests, "vllm", manifest)
    monkeypatch.setattr(engines.metadata, "version", lambda name: "0.31.0")


@pytest.fixture
def ask(root: Path, tmp_path: Path) -> Ask:
    def asked(
        *variants: str, out: str = "runs", source: str = "model", **options: Any
    ) -> tuple[Record, pd.DataFrame]:
        values = {"out": tmp_path / out, "data_root": (f"pope={root / 'data'}",), "device": "cpu"}
        score_model(str(root / source), variants, EvaluateOptions(**{**values, **options}))
        (folder,) = record.find(tmp_path / out)
        result = record.read(folder)
        return result, pd.read_parquet(folder / record.items_file("pope", result.spec.task))

    return asked


def test_an_engine_gives_the_answers_of_the_model(
    ask: Ask, registered: None, tmp_path: Path
) -> None:
    names = ("pope", "pope@image-blank", "pope@text-typo:3")
    first, expected = ask(*names)
    before = ChatModel.questions
    second, items = ask(*names, out="vllm", engine="vllm")
    assert ChatModel.questions - before == 3 * first.scores[0].n
    pd.testing.assert_frame_equal(items, expected)
    assert items["answer"].nunique() > 8
    assert second.scores == first.scores and "engine" not in first.provenance
    assert second.provenance["engine"] == {"name": "vllm", "version": "0.31.0"}
    assert second.provenance["weights"] == first.provenance["weights"]
    with pytest.raises(UserError, match=r"2 engines that answered, 'transformers' and 'vllm 0.31"):
        collect([tmp_path / "runs", tmp_path / "vllm"])
    assert len(collect([tmp_path / "vllm"]).runs) == 1


def test_a_record_has_one_engine_and_keeps_it(ask: Ask, registered: None) -> None:
    ask("pope", engine="vllm")
    with pytest.raises(UserError, match="answers by vllm, not by transformers: give another --out"):
        ask("pope@image-blank")
    again, _ = ask("pope@image-blank", engine="vllm")
    assert again.provenance["engine"]["name"] == "vllm"
    assert {score.variant for score in again.scores} == {"clean", "image-blank"}


def test_what_an_engine_cannot_do_is_one_line(
    ask: Ask, root: Path, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="adversarial:2 needs probabilities or gradients, and vllm"):
        ask("pope@image-adversarial:2", engine="vllm")
    model = vlm_toys.build("llava", root)
    with pytest.raises(UserError, match="food101 needs probabilities or gradients, and sglang"):
        engines.checked("sglang", ["food101"], model)
    monkeypatch.setattr(model, "extension", object())
    with pytest.raises(UserError, match="its method added modules"):
        engines.checked("vllm", ["pope"], model)
    monkeypatch.undo()
    for engine, package in (("vllm", r"'steelyard\[vllm\]'"), ("sglang", "sglang")):
        with pytest.raises(UserError, match=f"not installed here: pip install {package}"):
            ask("pope", engine=engine)


def test_an_engine_gets_the_adapter_and_the_tokens_that_end_an_answer(
    root: Path, tmp_path: Path
) -> None:
    model = vlm_toys.build("llava", root, tune="lora")
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.5)
    inputs = [turn.inputs for turn in vlm_toys.turns(3)]
    expected = model.generate(inputs, 4)
    engines.write_checkpoint(model, tmp_path / "merged")
    plain = vlm_toys.build("llava", root, tune="lora")
    folder = str(tmp_path / "merged")
    config = vlm_config.configure(folder, {"tune": "full"})
    merged = vlm_build.build(folder, config, seed=None, device="cpu")
    assert merged.generate(inputs, 4) == expected != plain.generate(inputs, 4)
    assert merged.base.generation_config.eos_token_id == model.eos_ids
