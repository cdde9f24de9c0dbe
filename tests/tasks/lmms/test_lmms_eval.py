"""Side effects of lmms-eval on a process are undone; each behaviour that we rely on is tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from PIL import Image
from stubs import CLASSES, corpus_at, reader

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval, needs_operators
from steelyard.tasks import build

# What lmms-eval does to a process, and that none of it is left


LEFT_BEHIND = """
import logging, os, random, socket, sys, warnings
from pathlib import Path
import numpy, torch
from loguru import logger
from PIL import ImageFile
sys.path.insert(0, sys.argv[1])
import stubs as t
from steelyard.harness.data import images  # mutes Pillow's warnings

def refuse(*args): raise AssertionError("the network was used")
socket.socket.connect = refuse
sinks = []
logger.remove(); logger.add(sinks.append, format="{message}")
corpus = t.corpus_at(Path(sys.argv[2]))
def state():
    tensor = torch.get_rng_state().tolist()
    return [random.getstate(), numpy.random.get_state()[1].tolist(), tensor, warnings.filters[:],
            ImageFile.LOAD_TRUNCATED_IMAGES, dict(os.environ)]
before = state()
result = t.run(t.reader(corpus), corpus, "@image-noise")
names = ["random", "numpy", "torch", "warnings", "truncated images", "environment"]
changed = [name for name, a, b in zip(names, before, state()) if a != b]
logger.info("still here")
print(changed, [message.strip() for message in sinks], result.scores[0].value)
"""


def test_nothing_is_printed_and_nothing_left_behind(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LEAKED=1\n")
    call = [
        sys.executable,
        "-c",
        LEFT_BEHIND,
        str(ROOT / "tests" / "fixtures"),
        str(tmp_path / "data"),
    ]
    ran = subprocess.run(call, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert ran.stdout.strip() == "[] ['still here'] 1.0"
    assert ran.stderr == ""


def test_operators_are_declared_only_for_a_mismatched_torchvision() -> None:
    assert needs_operators("2.13.0+cpu", "0.29.2")
    assert not needs_operators("2.13.0+cpu", "0.29.2+cpu")
    assert not needs_operators("2.15.0+cu132", "0.29.2")
    assert not needs_operators("2.15.0", "0.29.2")


# The behaviours of lmms-eval 0.7.3 that the engine stands on


def test_contract_samples(tmp_path: Path) -> None:
    """Dispatch a custom request type by its name, and a sample keeps what scoring returned."""
    from steelyard.harness.evaluation.lmms_model import Scorer

    evaluator = import_lmms_eval()
    corpus = corpus_at(tmp_path)
    task = build(tasks.parse_variant("food101@text-blank"), corpus)
    scorer = Scorer(reader(corpus))
    scorer.task_dict["food101@text-blank"] = task.dataset
    results = evaluator.evaluate(
        scorer,
        {"food101@text-blank": task},
        bootstrap_iters=0,
        process_docs_parallel=1,
        distributed_executor_backend="torchrun",
    )
    assert {instance.request_type for instance in task.instances} == {"score_choices"}
    sample = results["samples"]["food101@text-blank"][0]
    assert {"doc_id", "doc", "target", "arguments", "resps", "item", "accuracy"} <= sample.keys()
    assert sample["arguments"][1]["choices"] == ["apple pie", "bibimbap", "churros", "donuts"]
    assert sample["arguments"][1]["text"] is None
    assert json.loads(sample["filtered_resps"][0])[3] == pytest.approx(0.97)
    assert results["results"]["food101@text-blank"]["accuracy,none"] == 0.25
    assert results["versions"]["food101@text-blank"] == tasks.info("food101").version


def test_contract_a_model_would_be_deleted_without_our_clean(tmp_path: Path) -> None:
    import_lmms_eval()
    from lmms_eval.api.model import lmms

    from steelyard.harness.evaluation.lmms_model import Scorer

    scorer = Scorer(reader(corpus_at(tmp_path)))
    scorer.clean()
    assert "backbone" in vars(scorer)
    lmms.clean(scorer)
    assert "backbone" not in vars(scorer)


def test_contract_simple_evaluate_takes_our_tasks_and_models_too(tmp_path: Path) -> None:
    from steelyard.harness.evaluation.lmms_model import Scorer

    evaluator = import_lmms_eval()
    corpus = corpus_at(tmp_path)
    results = evaluator.simple_evaluate(
        model=Scorer(reader(corpus)),
        tasks=[build(tasks.parse_variant("food101"), corpus)],
        task_manager=evaluator.TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
        process_docs_parallel=1,
    )
    assert results["results"]["food101"]["accuracy,none"] == 1.0


def test_contract_our_yaml_builds_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under the stock command: found by ``include_path``, data from the environment."""
    evaluator = import_lmms_eval()
    root = tmp_path / "food101"
    for split in ("train", "test"):
        rows = []
        for name in CLASSES["food101"]:
            for number in range(20):
                file = root / "images" / split / name / f"{name}_{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (5, 5), (number, 0, 0)).save(file)
                rows.append(f"{file.name},{name} {number},{name}\n")
        (root / "texts").mkdir(exist_ok=True)
        (root / "texts" / f"{split}_titles.csv").write_text("".join(rows))
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))
    folder = str(Path(tasks.__file__).parent)
    manager = evaluator.TaskManager(include_path=folder, include_defaults=False)
    task = manager.load_task_or_group(["steelyard_food101"])["steelyard_food101"]
    assert len(task.dataset["test"]) == 80
    task.build_all_requests(limit=2)
    ctx, question, visual, doc_id, name, split = task.instances[1].args
    assert (doc_id, name, split) == (1, "steelyard_food101", "test")
    assert question["text"] == "apple_pie 1"
    assert question["text"] in ctx
    assert visual(task.dataset["test"][1])[0].size == (5, 5)


def test_contract_the_entry_point_names_our_model() -> None:
    import_lmms_eval()
    from lmms_eval.models import MODEL_REGISTRY_V2

    from steelyard.harness.evaluation.lmms_model import RunScorer

    assert MODEL_REGISTRY_V2.get_model_class("steelyard") is RunScorer


def test_text_is_generated_from_the_prompt(tmp_path: Path) -> None:
    """Answer a task of another package that asks for text: the model names its likeliest class."""
    from steelyard.harness.evaluation.lmms_model import Scorer

    corpus = corpus_at(tmp_path)
    task = build(tasks.parse_variant("food101"), corpus)
    task.build_all_requests(limit=1)
    (request,) = task.instances
    request.arguments = ("2 words", {"max_new_tokens": 4}, *request.arguments[2:])
    scorer = Scorer(reader(corpus))
    scorer.task_dict["food101"] = task.dataset
    (answer,) = scorer.generate_until([request])
    assert answer.text == "churros" and answer.token_counts.output_tokens == 1
    with pytest.raises(NotImplementedError, match="score_choices"):
        scorer.loglikelihood([request])
