"""Evaluation through lmms-eval: right scores, nothing left behind, and each behaviour relied on."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from steelyard import tasks
from steelyard.harness.backbone import Inputs
from steelyard.harness.compat import import_lmms_eval, needs_operators
from steelyard.harness.data import Corpus, Example
from steelyard.harness.errors import UserError
from steelyard.harness.evaluate import clustered_stderr, evaluate
from steelyard.tasks import images

CLASSES = {
    "food101": ("apple_pie", "bibimbap", "churros", "donuts"),
    "hateful_memes": ("not_hateful", "hateful"),
    "mm_imdb": ("Drama", "Comedy", "War"),
}
Answer = Callable[[Inputs], list[float]]


class Stub(torch.nn.Module):
    """A backbone that answers by a rule; a module, since lmms-eval deletes those."""

    def __init__(self, corpus: Corpus, rule: Answer) -> None:
        super().__init__()
        self.name = "stub"
        self.classes = corpus.classes
        self.rule = rule
        self.batches: list[int] = []

    def answer(self, inputs: Sequence[Inputs], choices: Sequence[str]) -> torch.Tensor:
        self.batches.append(len(inputs))
        return torch.tensor([self.rule(item) for item in inputs])

    def generate(self, inputs: Sequence[Inputs], max_tokens: int) -> list[str]:
        return [self.classes[int(row.argmax())] for row in self.answer(inputs, self.classes)]

    def count_tokens(self, text: str) -> int:
        return 1


def corpus_at(root: Path, task: str = "food101", size: int = 20) -> Corpus:
    """Items whose text and red channel both carry the first label."""
    root.mkdir(parents=True, exist_ok=True)
    classes = CLASSES[task]
    examples = []
    for number in range(size):
        label = number % len(classes)
        path = root / f"{number}.png"
        Image.new("RGB", (6, 6), (label * 40, number, 0)).save(path)
        labels = (label, 2) if task == "mm_imdb" and label == 0 else (label,)
        examples.append(Example(f"{size - number:03}", path, f"{label} words {number}", labels))
    splits = {"train": (), "val": (), "test": tuple(examples)}
    return Corpus(task, root, classes, task == "mm_imdb", splits, "r1")


def peaked(label: int, count: int) -> list[float]:
    return [0.97 if index == label else 0.03 / (count - 1) for index in range(count)]


def reader(corpus: Corpus) -> Stub:
    """Knows the answer from the text; without text it takes the last class."""
    count = len(corpus.classes)

    def rule(item: Inputs) -> list[float]:
        return peaked(int((item.evidence or str(count - 1)).split()[0]), count)

    return Stub(corpus, rule)


def viewer(corpus: Corpus) -> Stub:
    """Knows the answer from the image; without image it takes the last class."""
    count = len(corpus.classes)

    def rule(item: Inputs) -> list[float]:
        seen = item.image.getpixel((0, 0))[0] // 40 if item.image else count
        return peaked(min(seen, count - 1), count)

    return Stub(corpus, rule)


def run(stub: Stub, corpus: Corpus, variant: str = "", **options: Any) -> Any:
    return evaluate(stub, tasks.parse_variant(corpus.name + variant), corpus, **options)


# Scores


def test_knowing_the_answers_scores_one_and_guessing_scores_chance(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    (score,) = run(reader(corpus), corpus).scores
    assert (score.task, score.variant, score.metric) == ("food101", "clean", "accuracy")
    assert (score.value, score.n, score.stderr) == (1.0, 20, 0.0)
    assert score.main
    assert score.higher_is_better
    (blind,) = run(Stub(corpus, lambda item: [0.25] * 4), corpus).scores
    assert (blind.value, blind.stderr) == (0.25, pytest.approx((0.25 * 0.75 / 19) ** 0.5))


@pytest.mark.parametrize("make", [reader, viewer])
def test_a_corruption_hurts_only_who_reads_that_side(
    tmp_path: Path, make: Callable[[Corpus], Stub]
) -> None:
    corpus = corpus_at(tmp_path)
    value = {
        name: run(make(corpus), corpus, f"@{name}").scores[0].value
        for name in ("text-blank", "image-blank", "text-shuffle", "image-shuffle", "image-noise:5")
    }
    own, others = ("text", "image") if make is reader else ("image", "text")
    assert value[f"{own}-blank"] == 0.25
    assert value[f"{own}-shuffle"] < 0.7
    assert value[f"{others}-blank"] == value[f"{others}-shuffle"] == 1.0
    assert (value["image-noise:5"] < 1) == (make is viewer)


def test_binary_scores(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path, "hateful_memes")
    known = {score.metric: score for score in run(reader(corpus), corpus).scores}
    assert {name: score.value for name, score in known.items()} == {
        "auroc": 1.0,
        "accuracy": 1.0,
        "macro_f1": 1.0,
    }
    assert [name for name, score in known.items() if score.main] == ["auroc"]
    assert known["auroc"].stderr is None
    assert known["accuracy"].stderr == 0.0
    assert run(Stub(corpus, lambda item: [0.5, 0.5]), corpus).scores[0].value == 0.5


def test_multi_label_scores(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path, "mm_imdb")

    def rule(item: Inputs) -> list[float]:
        label = int((item.evidence or "").split()[0])
        return [[0.9, 0.1, 0.8], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]][label]

    scores = {score.metric: score for score in run(Stub(corpus, rule), corpus).scores}
    assert {score.value for score in scores.values()} == {1.0}
    # Only samples F1 is a mean over items.
    without = {name for name, score in scores.items() if score.stderr is None}
    assert without == {"macro_f1", "micro_f1", "weighted_f1"}


def test_items_are_sorted_and_complete(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    items = run(reader(corpus), corpus, "@image-noise:2").items
    columns = ["variant", "id", "cluster", "target", "predicted", "score", "confidence"]
    assert list(items.columns) == columns
    assert list(items["id"]) == sorted(example.id for example in corpus.splits["test"])
    assert set(items["variant"]) == {"image-noise:2"}
    labels = {example.id: list(example.labels) for example in corpus.splits["test"]}
    assert list(items["target"]) == [labels[id] for id in items["id"]]
    assert items["confidence"].iloc[0] == pytest.approx(0.97)


def test_standard_errors_by_hand() -> None:
    # Deviations .25 .25 .25 -.75: sum of squares .75, times 4/3 is 1, root 1, over 4 items.
    assert clustered_stderr([1, 1, 1, 0], ["a", "b", "c", "d"]) == pytest.approx(0.25)
    # Cluster sums of deviations 1 and -1: 2 times 2/1 is 4, root 2, over 4 items.
    assert clustered_stderr([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(0.5)
    assert clustered_stderr([1, 0], ["a", "a"]) is None


def test_order_and_batch_size_do_not_matter(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    backwards = dict(corpus.splits, test=corpus.splits["test"][::-1])
    turned = Corpus("food101", corpus.root, corpus.classes, False, backwards, "r1")

    def rule(item: Inputs) -> list[float]:  # sees every damaged pixel
        assert item.image is not None
        means = list(item.image.resize((2, 1)).tobytes()[:4])
        return (torch.tensor(means) / 9).softmax(0).tolist()

    first = run(Stub(corpus, rule), corpus, "@image-noise", batch_size=7)
    for other, size in ((corpus, 64), (turned, 3)):
        again = run(Stub(corpus, rule), other, "@image-noise", batch_size=size)
        assert again.items.equals(first.items)
        assert again.scores == first.scores


def test_batches_are_full(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    stub = reader(corpus)
    run(stub, corpus, batch_size=8)
    assert stub.batches == [8, 8, 4]


def test_images_are_decoded_once_for_all_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_at(tmp_path)
    opened: list[Path] = []
    monkeypatch.setattr(images, "open_image", lambda path: opened.append(path) or Image.open(path))
    for variant in tasks.variants("food101", ["image-noise:1-5", "image-shuffle", "text-blank"]):
        evaluate(reader(corpus), variant, corpus)
    assert len(opened) == len(set(opened)) == 20


# Mistakes and faults


def test_mistakes_are_user_errors(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    foreign = Stub(corpus_at(tmp_path, "hateful_memes"), lambda item: [0.5, 0.5])
    with pytest.raises(UserError, match=r"2 classes .* not the data.s 4"):
        run(foreign, corpus)
    with pytest.raises(UserError, match=r"split of food101 'tst'\. Did you mean 'test'"):
        run(reader(corpus), corpus, split="tst")
    with pytest.raises(UserError, match="limit 0"):
        run(reader(corpus), corpus, limit=0)


@pytest.mark.parametrize("row", [[float("nan")] * 4, [0.9, 0.9, 0.0, 0.0]])
def test_a_bad_answer_fails_at_once_with_its_cause(tmp_path: Path, row: list[float]) -> None:
    corpus = corpus_at(tmp_path)
    start = time.monotonic()
    with pytest.raises(ValueError):
        run(Stub(corpus, lambda item: row), corpus)
    assert time.monotonic() - start < 2  # lmms-eval's own retries take eight seconds


def test_a_bug_in_a_scorer_is_not_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steelyard.tasks import food101

    def broken(doc: Any, results: Any) -> None:
        calls.append(doc)
        raise KeyError("a bug")

    calls: list[Any] = []
    monkeypatch.setattr(food101, "process_results", broken)
    corpus = corpus_at(tmp_path)
    with pytest.raises(KeyError, match="a bug"):
        run(reader(corpus), corpus)
    assert len(calls) == 1


def test_an_answer_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    with pytest.raises(ValueError, match="not \\(20, 4\\)"):
        run(Stub(corpus, lambda item: [0.5, 0.5]), corpus)


# What lmms-eval does to a process, and that none of it is left


LEFT_BEHIND = """
import logging, os, random, socket, sys, warnings
from pathlib import Path
import numpy, torch
from loguru import logger
from PIL import ImageFile
sys.path.insert(0, sys.argv[1])
import test_evaluate as t

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
    call = [sys.executable, "-c", LEFT_BEHIND, str(Path(__file__).parent), str(tmp_path / "data")]
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
    """A custom request type is dispatched by its name, and a sample keeps what scoring returned."""
    from steelyard.harness.lmms_model import Scorer

    evaluator = import_lmms_eval()
    corpus = corpus_at(tmp_path)
    task = tasks.build(tasks.parse_variant("food101@text-blank"), corpus)
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
    assert sample["arguments"][1]["evidence"] is None
    assert json.loads(sample["filtered_resps"][0])[3] == pytest.approx(0.97)
    assert results["results"]["food101@text-blank"]["accuracy,none"] == 0.25
    assert results["versions"]["food101@text-blank"] == tasks.info("food101").version


def test_contract_a_model_would_be_deleted_without_our_clean(tmp_path: Path) -> None:
    import_lmms_eval()
    from lmms_eval.api.model import lmms

    from steelyard.harness.lmms_model import Scorer

    scorer = Scorer(reader(corpus_at(tmp_path)))
    scorer.clean()
    assert "backbone" in vars(scorer)
    lmms.clean(scorer)
    assert "backbone" not in vars(scorer)


def test_contract_simple_evaluate_takes_our_tasks_and_models_too(tmp_path: Path) -> None:
    from steelyard.harness.lmms_model import Scorer

    evaluator = import_lmms_eval()
    corpus = corpus_at(tmp_path)
    results = evaluator.simple_evaluate(
        model=Scorer(reader(corpus)),
        tasks=[tasks.build(tasks.parse_variant("food101"), corpus)],
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
    assert question["evidence"] == "apple_pie 1"
    assert question["evidence"] in ctx
    assert visual(task.dataset["test"][1])[0].size == (5, 5)


def test_contract_the_entry_point_names_our_model() -> None:
    import_lmms_eval()
    from lmms_eval.models import MODEL_REGISTRY_V2

    from steelyard.harness.lmms_model import RunScorer

    assert MODEL_REGISTRY_V2.get_model_class("steelyard") is RunScorer


def test_text_is_generated_from_the_prompt(tmp_path: Path) -> None:
    """A task of another package asks for text: the model names its likeliest class."""
    from steelyard.harness.lmms_model import Scorer

    corpus = corpus_at(tmp_path)
    task = tasks.build(tasks.parse_variant("food101"), corpus)
    task.build_all_requests(limit=1)
    (request,) = task.instances
    request.arguments = ("2 words", {"max_new_tokens": 4}, *request.arguments[2:])
    scorer = Scorer(reader(corpus))
    scorer.task_dict["food101"] = task.dataset
    (answer,) = scorer.generate_until([request])
    assert answer.text == "churros" and answer.token_counts.output_tokens == 1
    with pytest.raises(NotImplementedError, match="score_choices"):
        scorer.loglikelihood([request])
