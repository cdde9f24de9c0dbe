"""Stock lmms-eval on our tasks: it finds and scores each, and its command gives our own scores."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.seeds import seed_for
from steelyard.tasks.world import build

import_lmms_eval()

from lmms_eval.api.instance import Instance  # noqa: E402  (imported so that nothing is left behind)
from lmms_eval.api.model import lmms  # noqa: E402


class Guesser(lmms):
    """Model written for lmms-eval alone, without steelyard."""

    def __init__(self, documents: dict[str, Any]) -> None:
        super().__init__()
        self.documents, self.shown = documents, 0

    def _look(self, requests: Sequence[Instance]) -> Iterator[Any]:
        for request in requests:
            _, questions, visual, index, _, split = request.args
            assert all(image.size for image in visual(self.documents[split][index]))
            self.shown += 1
            yield questions

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        return ["yes" for _ in self._look(requests)]

    def score_choices(self, requests: Sequence[Instance]) -> list[str]:
        sizes = [len(questions["choices"]) for questions in self._look(requests)]
        return [json.dumps([1 / size] * size) for size in sizes]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Any]:
        raise NotImplementedError

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError


def write_food101(root: Path) -> None:
    """Three classes in the layout of UPMC Food-101, with noise for photos."""
    rng = np.random.default_rng(seed_for("stock cli"))
    (root / "texts").mkdir(parents=True)
    for split, count in (("train", 20), ("test", 7)):
        rows = []
        for name in ("apple_pie", "bibimbap", "churros"):
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                file = f"{name}_{number}.png"
                pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / file)
                rows.append(f"{file},{name} recipe {number},{name}\n")
        (root / "texts" / f"{split}_titles.csv").write_text("".join(rows))


@pytest.fixture(scope="module")
def manager() -> Any:
    """Index of ``lmms-eval --include_path tasks``."""
    import_lmms_eval()
    from lmms_eval.tasks import TaskManager

    folder = str(Path(tasks.__file__).parent)
    return TaskManager(include_path=folder, include_defaults=False)


def test_the_stock_manager_finds_every_definition_of_ours(manager: Any) -> None:
    files = sorted(Path(tasks.__file__).parent.glob("*.yaml"))
    assert manager.all_tasks == [tasks.PREFIX + path.stem for path in files]


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in Path(tasks.__file__).parent.glob("*.yaml"))
)
def test_every_task_is_built_asked_and_scored_by_stock_lmms_eval(
    name: str,
    manager: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short_validation: None,
) -> None:
    from lmms_eval.evaluator import evaluate

    build.write(build.WorldSpec(name, train=120, test=16), tmp_path / name)
    monkeypatch.setenv(tasks.DATA_VARIABLE, str(tmp_path))
    built = manager.load_task_or_group([tasks.PREFIX + name])
    (task,) = built.values()
    model = Guesser(dict(task.dataset))
    results = evaluate(
        model,
        built,
        bootstrap_iters=0,
        process_docs_parallel=1,
        distributed_executor_backend="torchrun",
    )
    declared = tasks.info(name)
    scores = results["results"][tasks.PREFIX + name]
    assert f"{declared.main},none" in scores
    assert model.shown == len(results["samples"][tasks.PREFIX + name]) > 0


@pytest.mark.slow
def test_the_stock_command_scores_a_run_as_we_do(tmp_path: Path) -> None:
    from steelyard.harness.evaluation.evaluate import evaluate
    from steelyard.harness.models import classifier
    from steelyard.harness.models.classifier_config import configure

    write_food101(tmp_path / "data" / "food101")
    corpus = tasks.load("food101", tmp_path / "data" / "food101")
    texts = [example.text for example in corpus.splits["train"] if example.text]
    model = classifier.build("tiny", configure("tiny", {}), corpus.classes, False, texts, 0)
    classifier.save(model, tmp_path / "run" / "weights")
    ours = evaluate(model, tasks.parse_variant("food101"), corpus)

    command = [
        *(str(Path(sys.executable).parent / "lmms-eval"), "--model", "steelyard"),
        *("--model_args", f"run={tmp_path / 'run'}", "--batch_size", "8"),
        *("--include_path", str(Path(tasks.__file__).parent), "--tasks", "steelyard_food101"),
        *("--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **offline, "STEELYARD_DATA": str(tmp_path / "data")}
    ran = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    # The command exits with 0 whatever happens: only its files tell.
    result = list((tmp_path / "out").rglob("*_results.json"))
    assert len(result) == 1, ran.stdout[-2000:] + ran.stderr[-2000:]
    theirs = json.loads(result[0].read_text())["results"]["steelyard_food101"]
    assert theirs["accuracy,none"] == ours.scores[0].value
    (log,) = (tmp_path / "out").rglob("*_samples_steelyard_food101.jsonl")
    items = [json.loads(line)["item"] for line in log.read_text().splitlines()]
    confidence = {item["id"]: item["confidence"] for item in items}
    # Another batch size may change the last digits of a sum.
    assert confidence == pytest.approx(ours.items.set_index("id")["confidence"].to_dict(), 1e-5)
