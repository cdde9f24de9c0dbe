"""Tasks answered in words, run by lmms-eval with a model that answers from a table."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.examples import Corpus, Example
from steelyard.tasks import build
from steelyard.tasks.corruptions import CORRUPTIONS
from steelyard.tasks.metrics import ratio

QUESTIONS = {"pope": "Is there a thing {} in it?", "prior_conflict": "what color is thing {}?"}
SHORT = "Answer the question using a single word or phrase."
Asked = tuple[str, dict[str, Any], list[Image.Image]]


def corpus_at(root: Path, task: str = "pope", size: int = 12) -> Corpus:
    """Two questions an image; every red channel and every text tells the item."""
    examples = []
    for number in range(size):
        path = root / f"{number // 2}.png"
        image = Image.new("RGB", (6, 5), (10 * (number // 2), 50, 90))
        image.putpixel((4, 3), (255, 255, 255))  # or nothing could be blurred or turned
        image.save(path)
        examples.append(
            Example(
                f"{number:02}",
                path,
                QUESTIONS[task].format(number),
                (),
                answers=(("yes", "no")[number % 2],),
                choices=("yes", "no"),
                subset=("random", "popular", "adversarial")[number % 3],
                cluster=path.name,
                facts={"prior": ("yes",)},
            )
        )
    return Corpus(task, root, (), False, {"test": tuple(examples)}, "r1")


def scored(task: Any, answer: Callable[[Any, Asked], str]) -> tuple[dict[str, Any], list[Any]]:
    """Metric values and samples of a model that sees what any of lmms-eval's simple ones sees."""
    evaluator = import_lmms_eval()
    from lmms_eval.api.model import lmms

    class Table(lmms):  # type: ignore[misc]
        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            replies = []
            for request in requests:
                ctx, settings, visual, doc_id, name, split = request.args
                doc = self.task_dict[name][split][doc_id]
                replies.append(answer(doc, (ctx, settings, visual(doc))))
            return replies

        def loglikelihood(self, requests: Any) -> Any:
            raise AssertionError("not asked for")

        generate_until_multi_round = loglikelihood

    model = Table()
    model.task_dict[task.task_name] = task.dataset
    results = evaluator.evaluate(
        model,
        {task.task_name: task},
        bootstrap_iters=0,
        process_docs_parallel=1,
        distributed_executor_backend="torchrun",
    )
    return results["results"][task.task_name], results["samples"][task.task_name]


def test_metrics_reach_lmms_eval_and_items_are_kept(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    requests: dict[str, Asked] = {}

    def right_but_for_one(doc: Any, arguments: Asked) -> str:
        requests[doc["id"]] = arguments
        return "Yes, there is." if doc["id"] == "03" else f"{doc['answers'][0]}."

    values, samples = scored(build(tasks.parse_variant("pope"), corpus), right_but_for_one)
    assert values["accuracy,none"] == pytest.approx(11 / 12)
    assert values["f1,none"] == pytest.approx(12 / 13)  # tp 6, fp 1
    assert values["yes_rate,none"] == pytest.approx(7 / 12)
    items = {sample["item"]["id"]: sample for sample in samples}
    assert items["03"]["item"] == {
        "id": "03",
        "cluster": "1.png",
        "subset": "random",
        "answer": "Yes, there is.",
    }
    assert items["03"]["precision"] == (False, True)
    ctx, settings, images = requests["03"]
    assert ctx == f"Is there a thing 3 in it?\n{SHORT}"
    assert settings == {"max_new_tokens": 16, "do_sample": False, "until": []}
    assert images[0].getpixel((0, 0)) == (10, 50, 90)


@pytest.mark.parametrize("corruption", [n for n, c in CORRUPTIONS.items() if c.apply])
@pytest.mark.parametrize("task", QUESTIONS)
def test_corruptions_reach_their_modality_and_never_the_instruction(
    tmp_path: Path, task: str, corruption: str
) -> None:
    corpus = corpus_at(tmp_path, task)
    clean = build(tasks.parse_variant(task), corpus)
    corrupted = build(tasks.parse_variant(f"{task}@{corruption}"), corpus)
    changed = {"image": 0, "text": 0}
    for before, after in zip(clean.dataset["test"], corrupted.dataset["test"], strict=True):
        prompt = corrupted.doc_to_text(after)
        assert prompt.endswith(SHORT)
        assert before["answers"] == after["answers"]
        changed["text"] += prompt != clean.doc_to_text(before)
        pixels = [image.tobytes() for image in clean.doc_to_visual(before)]
        changed["image"] += [image.tobytes() for image in corrupted.doc_to_visual(after)] != pixels
        if corruption == "text-blank":
            assert prompt == SHORT
        if corruption == "image-blank":
            assert corrupted.doc_to_visual(after) == []
    modality = CORRUPTIONS[corruption].modality
    second = {"image": "text", "text": "image"}[modality]
    assert changed[second] == 0
    assert (
        changed[modality] == 12
        if corruption.endswith(("blank", "-shuffle"))
        else changed[modality] > 6
    )


@pytest.mark.parametrize("task", ["pope", "prior_conflict", "vqa", "chair", "instruct"])
def test_the_right_answers_to_the_generated_set_are_right(world: Path, task: str) -> None:
    corpus = tasks.load(task, world / task)
    assert corpus.skipped == () and {"val", "test"} <= set(corpus.splits)
    module: Any = tasks.module(task)
    docs: list[Any] = [tasks.document(corpus, "test", e, e.text) for e in corpus.splits["test"]]
    results = [module.process_results(doc, [tasks.target(task, doc)]) for doc in docs]
    about = tasks.info(task)
    result = {metric: ratio([row[metric] for row in results]) for metric in about.metrics}
    best = {metric: float(higher) for metric, higher in about.metrics.items() if higher is not None}
    assert {metric: result[metric] for metric in best} == best
    subsets = {doc["subset"] for doc in docs}
    columns = [column.rpartition(".")[0] for column in about.columns]
    assert {subset for subset in columns if subset} <= subsets


def test_every_declared_column_exists() -> None:
    for name in tasks.names():
        about = tasks.info(name)
        assert about.main in about.metrics
        for column in about.columns:
            subset, _, metric = column.rpartition(".")
            assert metric in about.metrics, column
            assert about.subsets or not subset, column
        assert (about.max_tokens > 0) == about.generative
        assert [path.name for path in tasks.files(name)] == [f"{name}.yaml", f"{name}.py"]
    directions = {name: tasks.info(name).metrics for name in tasks.names()}
    assert directions["pope"]["yes_rate"] is None
    assert directions["prior_conflict"]["prior_following"] is False
    assert directions["chair"]["chair_i"] is False


def test_the_same_task_by_its_yaml_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under the stock command: found by ``include_path``, data from the environment."""
    root = tmp_path / "prior_conflict"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (7, 7)).save(root / "images" / "a.png")
    line = {"id": 1, "image": "images/a.png", "question": "which?", "answer": "red", "prior": "red"}
    row = {**line, "subset": "in_prior", "choices": ["red", "blue"]}
    (root / "questions.jsonl").write_text(json.dumps(row))
    monkeypatch.setenv("STEELYARD_DATA", str(tmp_path))
    evaluator = import_lmms_eval()
    folder = str(Path(tasks.__file__).parent)
    manager = evaluator.TaskManager(include_path=folder, include_defaults=False)
    name = "steelyard_prior_conflict"
    task = manager.load_task_or_group([name])[name]
    values, _ = scored(task, lambda doc, questions: "red" if questions[2][0].size == (7, 7) else "")
    assert (values["in_prior,none"], values["invalid,none"]) == (1.0, 0.0)
    assert values["counter_prior,none"] == 0.0  # no such item


@pytest.mark.parametrize(
    ("task", "classes", "labels", "answer", "choices"),
    [
        ("food101", ("apple_pie", "ramen"), (0,), "apple pie", ("apple pie", "ramen")),
        ("hateful_memes", ("not_hateful", "hateful"), (1,), "yes", ("no", "yes")),
        ("mm_imdb", ("Drama", "Comedy", "War"), (0, 2), "Drama, War", ()),
    ],
)
def test_turns_of_classification(
    task: str, classes: tuple[str, ...], labels: tuple[int, ...], answer: str, choices: Any
) -> None:
    example = Example("a", None, "some words", labels)
    corpus = Corpus(task, Path(), classes, task == "mm_imdb", {"train": (example,)}, "r1")
    image = Image.new("RGB", (4, 4))
    turn = tasks.training_turn(task, corpus, example, image)
    assert (turn.answer, turn.choices) == (answer, choices)
    assert (turn.inputs.image, turn.inputs.text) == (image, "some words")
    assert "some words" in turn.inputs.prompt and turn.inputs.prompt.endswith(".")
    bare = tasks.training_turn(task, corpus, Example("a", None, None, labels), None)
    assert bare.inputs.prompt == turn.inputs.prompt.partition("\n")[2]


def test_turns_and_names_need_no_heavy_import() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from steelyard import tasks\n"
        "from steelyard.harness.core.examples import Corpus, Example\n"
        "e = Example('a', None, 'why?', (), answers=('so',)); c = Corpus('vqa', Path(), (), False, "
        "{}, 'r'); tasks.training_turn('vqa', c, e, None)\n"
        "[tasks.info(name) for name in tasks.names()]\n"
        "print({'torch', 'lmms_eval', 'pandas', 'transformers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
