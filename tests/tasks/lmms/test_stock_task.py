"""lmms-eval tasks of a user under our corruptions: parquet, dict metrics, own metrics."""

import hashlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stock_data import Talker, picture, write

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.evaluation.scores import Evaluation
from steelyard.tasks._lmms import stock

YAML = """
task: colours
dataset_path: nowhere/none
test_split: test
doc_to_visual: !function fns.visual
doc_to_text: "<image>{{question}}"
doc_to_target: answer
generation_kwargs: {max_new_tokens: 4, do_sample: false}
process_results: !function fns.score
metric_list:
  - {metric: by_kind, aggregation: !function fns.by_kind, higher_is_better: true}
  - {metric: hit, aggregation: mean, higher_is_better: true}
  - {metric: f1, aggregation: !function fns.f1, higher_is_better: true}
  - {metric: length, aggregation: mean, higher_is_better: false}
  - {metric: submission, aggregation: !function fns.submit, higher_is_better: true}
"""
FUNCTIONS = """
from collections import defaultdict
from pathlib import Path
from loguru import logger

def visual(doc):
    return [doc["image"]] if doc["image"] is not None else []

def score(doc, results):
    hit = float(results[0] == doc["answer"])
    print("noise on standard output")
    found = {"hit": hit, "length": len(results[0]), "submission": {"said": results[0]}}
    if doc["kind"] != "none":
        found["by_kind"] = {"score": hit, "kind": doc["kind"]}
        found["f1"] = {"score": hit, "said": results[0], "label": doc["answer"]}
    return found

def by_kind(items):
    groups = defaultdict(list)
    for item in items:
        groups[item["kind"]].append(item["score"])
    logger.warning("noise on standard error")
    return sum(sum(group) / len(group) for group in groups.values()) / len(groups)

def f1(items):
    hits = sum(i["said"] == i["label"] == "red" for i in items)
    return 2 * hits / sum((i["said"] == "red") + (i["label"] == "red") for i in items)

def submit(items, args):
    (Path(args.output_path) / "answers.json").write_text("[]")
"""
KINDS = ("a", "a", "a", "b", "none")


def rows(count: int = 15) -> list[dict[str, Any]]:
    """Three documents an image; every fifth has no part in the metric by kind."""
    return [
        {
            "uid": f"q{number}",
            "question": f"Which colour {number}?",
            "answer": ("red", "blue")[number % 2],
            "kind": KINDS[number % 5],
            "image": picture(number // 3),
        }
        for number in range(count)
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder with the task's files, and its data in ``data``."""
    path = tmp_path / "own"
    path.mkdir()
    (path / "colours.yaml").write_text(YAML)
    (path / "fns.py").write_text(FUNCTIONS)
    write(tmp_path / "data", rows())
    monkeypatch.setenv(stock.FOLDERS_VARIABLE, str(path))
    stock.index.cache_clear()
    yield tmp_path
    stock.index.cache_clear()


def corpus_of(folder: Path, data: str = "data") -> Corpus:
    return tasks.load("stock/colours", folder / data)


def run(corpus: Corpus, talker: Talker, corruption: str = "", **options: Any) -> Evaluation:
    variant = tasks.parse_variant("stock/colours" + (f"@{corruption}" if corruption else ""))
    return evaluate(talker, variant, corpus, **options)


def reds() -> Talker:
    return Talker(lambda item: "red")


def pixels(image: Image.Image | None) -> str:
    return "none" if image is None else hashlib.sha256(image.tobytes()).hexdigest()


# --- reading -----------------------------------------------------------------------------------


def test_documents_become_items_named_by_task_and_column(folder: Path) -> None:
    corpus = corpus_of(folder)
    items = corpus.splits["test"]
    assert [item.id for item in items[:2]] == ["colours/q0", "colours/q1"]
    assert len({item.cluster for item in items}) == 5  # images
    assert items[0].cluster == items[2].cluster != items[3].cluster
    assert corpus.notes["ids"] == "uid" and corpus.notes["split"] == "test"


def test_without_a_column_that_tells_them_apart_documents_are_numbered(folder: Path) -> None:
    write(folder / "twice", [{**row, "uid": "same"} for row in rows()])
    corpus = corpus_of(folder, "twice")
    assert corpus.splits["test"][14].id == "colours/14"
    assert corpus.notes["ids"] == "row number"


def test_the_revision_is_of_the_content(folder: Path) -> None:
    write(folder / "copy", rows())
    changed = rows()
    changed[3]["answer"] = "green"
    write(folder / "answer", changed)
    repainted = rows()
    repainted[3]["image"] = picture("another")
    write(folder / "image", repainted)
    names = ("data", "copy", "answer", "image")
    data, copy, answer, image = (corpus_of(folder, name).revision for name in names)
    assert data == copy
    assert len({data, answer, image}) == 3


def test_saved_data_sets_are_read_too(folder: Path) -> None:
    import datasets

    read = datasets.load_dataset(
        "parquet",
        data_files={"test": str(folder / "data" / "*.parquet")},
        cache_dir=str(folder / "cache"),
    )
    read.save_to_disk(str(folder / "saved"))
    assert corpus_of(folder, "saved").revision == corpus_of(folder).revision


def test_splits_are_found_by_the_card_or_by_the_files_names(folder: Path) -> None:
    path = folder / "own" / "colours.yaml"
    path.write_text(YAML.replace("test_split: test", "test_split: val\ndataset_name: main"))
    write(folder / "plain", rows(), "val")
    assert corpus_of(folder, "plain").notes["split"] == "validation"
    write(folder / "card", rows(), "some_file")
    (folder / "card" / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: val\n"
        "    path: some_file-*\n---\n"
    )
    corpus = corpus_of(folder, "card")
    assert (corpus.notes["split"], corpus.notes["subset"]) == ("val", "main")
    assert corpus.revision == corpus_of(folder, "plain").revision


# --- scores ------------------------------------------------------------------------------------


def test_scores_are_the_tasks_own_with_errors_where_there_can_be_one(folder: Path) -> None:
    result = run(corpus_of(folder), reds())
    scores = {score.metric: score for score in result.scores}
    assert set(scores) == {"by_kind", "hit", "f1", "length"}  # a submission is no number
    # Red is right for 8 of 15; of kind a for 5 of 9, of kind b for 1 of 3.
    assert scores["hit"].value == pytest.approx(8 / 15)
    assert scores["by_kind"].value == pytest.approx((5 / 9 + 1 / 3) / 2)
    assert (scores["by_kind"].n, scores["hit"].n) == (12, 15)
    assert scores["f1"].value == pytest.approx(2 * 6 / 18)
    assert scores["f1"].stderr is None and scores["hit"].stderr is not None
    assert [score.metric for score in result.scores if score.main] == ["hit"]
    assert scores["length"].higher_is_better is False and scores["length"].value == 3


def test_the_error_is_of_images_and_the_items_give_the_value(folder: Path) -> None:
    result = run(corpus_of(folder), reds())
    # By image 2, 1, 2, 1, 2 of 3 right: from 1.6 off by .4 .6 .4 .6 .4, squares sum to 1.2.
    stderr = next(score.stderr for score in result.scores if score.metric == "hit")
    assert stderr == pytest.approx((1.2 * 5 / 4) ** 0.5 / 15)
    items = result.items
    for score in result.scores:
        if score.stderr is not None:
            top, bottom = (items[f"{score.metric}.{end}"].sum() for end in ("top", "bottom"))
            assert top / bottom == pytest.approx(score.value, abs=1e-6)
    assert "f1.top" not in items and list(items["answer"]) == ["red"] * 15
    assert list(items["id"]) == sorted(items["id"])


def test_what_a_task_prints_logs_and_writes_goes_nowhere(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(folder)
    capfd.readouterr()
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    run(corpus, reds())
    assert capfd.readouterr() == ("", "")
    assert list((folder / "here").iterdir()) == []


def test_a_limit_takes_the_documents_of_an_image_uncut(folder: Path) -> None:
    corpus = corpus_of(folder)
    some = run(corpus, reds(), limit=7).items
    assert len(some) == 6 and set(some.groupby("cluster").size()) == {3}
    fewer = run(corpus, reds(), limit=3).items
    assert set(fewer["id"]) < set(some["id"])
    with pytest.raises(UserError, match="limit 0"):
        run(corpus, reds(), limit=0)


# --- corruptions -------------------------------------------------------------------------------


def test_a_blank_a_shuffle_and_the_clean_image(folder: Path) -> None:
    corpus, images = corpus_of(folder), {}
    for corruption in ("", "image-blank", "image-shuffle"):
        talker = reds()
        run(corpus, talker, corruption)
        images[corruption] = {item.prompt: pixels(item.image) for item in talker.seen}
        assert len(images[corruption]) == 15
        assert not any("<image>" in prompt for prompt in images[corruption])
    clean, swapped = images[""], images["image-shuffle"]
    assert len(set(clean.values())) == 5
    assert set(images["image-blank"].values()) == {"none"}
    assert all(swapped[prompt] != clean[prompt] for prompt in clean)
    assert set(swapped.values()) <= set(clean.values())


def test_corruption_belongs_to_the_document(folder: Path) -> None:
    """Alike for another order, batch size, limit and model; unlike for two documents."""
    corpus = corpus_of(folder)
    first, second, third = reds(), Talker(lambda item: "blue"), reds()
    run(corpus, first, "image-noise:3")
    write(folder / "turned", rows()[::-1])
    run(corpus_of(folder, "turned"), second, "image-noise:3", batch_size=4)
    run(corpus, third, "image-noise:3", limit=6)
    noisy, again, few = (
        {item.prompt: pixels(item.image) for item in talker.seen}
        for talker in (first, second, third)
    )
    assert noisy == again
    assert len(few) == 6 and few.items() <= noisy.items()
    assert len(set(noisy.values())) == 15  # three documents share an image, each has its own noise


def test_missing_images_are_the_rate_asked_for(folder: Path) -> None:
    talker = reds()
    run(corpus_of(folder), talker, "image-missing:40")
    assert sum(item.image is None for item in talker.seen) == 6


def test_a_document_without_an_image_stays_without(folder: Path) -> None:
    documents = rows()
    for row in documents[:3]:
        row["image"] = None
    write(folder / "some", documents)
    corpus = corpus_of(folder, "some")
    assert [item.image for item in corpus.splits["test"][:3]] == [None] * 3
    for corruption in ("", "image-noise:1", "image-shuffle"):
        talker = reds()
        run(corpus, talker, corruption)
        assert sum(item.image is None for item in talker.seen) == 3


def test_images_outside_a_column_are_known_by_their_pixels(folder: Path) -> None:
    drawn = 'from PIL import Image; return [Image.new("RGB", (4, 4), doc["colour"])]'
    changed(folder, 'return [doc["image"]] if doc["image"] is not None else []', drawn)
    documents = [{**row, "colour": ("red", "blue")[i % 2]} for i, row in enumerate(rows())]
    write(folder / "drawn", [{k: v for k, v in row.items() if k != "image"} for row in documents])
    corpus = corpus_of(folder, "drawn")
    assert len({item.cluster for item in corpus.splits["test"]}) == 2
    clean, swapped = reds(), reds()
    run(corpus, clean)
    run(corpus, swapped, "image-shuffle")
    for entry, swapped_item in zip(clean.seen, swapped.seen, strict=True):
        assert pixels(entry.image) != pixels(swapped_item.image)


def encoded(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def write_files(folder: Path, name: str, files: Sequence[bytes]) -> Path:
    """Write one document an image file, as hub copies store them."""
    import datasets

    documents = [
        {**row, "image": {"bytes": content, "path": f"{row['uid']}.png"}}
        for row, content in zip(rows(len(files)), files, strict=True)
    ]
    table = {key: [row[key] for row in documents] for key in documents[0]}
    features = {key: datasets.Value("string") for key in table} | {"image": datasets.Image()}
    data = datasets.Dataset.from_dict(table, features=datasets.Features(features))
    (folder / name).mkdir()
    data.to_parquet(str(folder / name / "test-00000-of-00001.parquet"))
    return folder / name


def test_documents_show_images_of_any_mode_as_all_others_do(folder: Path) -> None:
    # As most tasks of lmms-eval do, which clips 16 bits and drops alpha.
    changed(folder, 'return [doc["image"]]', 'return [doc["image"].convert("RGB")]')
    wide = Image.fromarray(np.full((8, 12), 0x8000, np.uint16))
    exif = Image.Exif()
    exif[0x112], exif[0x9204] = 6, "text where a fraction belongs"
    files = [
        encoded(wide), encoded(Image.new("RGBA", (8, 12))),
        encoded(Image.new("RGB", (12, 8), "red"), exif=exif.tobytes()),
    ]  # fmt: skip
    write_files(folder, "modes", files)
    talker = reds()
    run(corpus_of(folder, "modes"), talker)
    shown = [item.image for item in talker.seen]
    assert [image.size for image in shown if image] == [(12, 8), (8, 12), (8, 12)]
    assert [image.getpixel((5, 5)) for image in shown if image] == [
        (128, 128, 128), (255, 255, 255), (255, 0, 0),
    ]  # fmt: skip


def test_a_broken_image_is_named_by_document_and_file(folder: Path) -> None:
    files = [encoded(picture(number)) for number in range(25)]
    files[22] = files[22][:300]
    write_files(folder, "broken", files)
    corpus = corpus_of(folder, "broken")
    with pytest.raises(UserError, match=r"^stock/colours: document 22: q22.png: .*truncated"):
        run(corpus, reds())


def test_no_variant_writes_a_file(folder: Path) -> None:
    def files() -> set[Path]:
        cache = Path(os.environ["LMMS_EVAL_DATASETS_CACHE"])
        return {path for root in (folder, cache) for path in root.rglob("*") if path.is_file()}

    corpus = corpus_of(folder)
    before = files()
    for corruption in ("", "image-noise:1", "image-shuffle", "image-blank", "image-jpeg:5"):
        run(corpus, reds(), corruption)
    assert files() == before


# --- faults ------------------------------------------------------------------------------------


def changed(folder: Path, old: str, new: str, file: str = "fns.py") -> None:
    path = folder / "own" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('hit = float(results[0] == doc["answer"])', 'hit = doc["nothing"]',
         r"its scorer fails on the answer 'red' \(KeyError: 'nothing'\)"),
        ("return 2 * hits", "return 1 / 0",
         r"its metric 'f1' cannot be computed \(ZeroDivisionError"),
        ('return [doc["image"]]', 'return [doc["image"].broken]',
         r"the image of document 0 cannot be read \(AttributeError"),
        ('return [doc["image"]]', 'return [{"array": [], "sampling_rate": 1}]',
         "document 0 has a dict, not an image"),
        ("from loguru import logger", "import not_a_package",
         r"its code cannot be loaded \((ImportError|ModuleNotFoundError)"),
    ],
)  # fmt: skip
def test_a_fault_in_a_tasks_code_is_one_line(
    folder: Path, old: str, new: str, message: str
) -> None:
    changed(folder, old, new)
    with pytest.raises(UserError, match=rf"stock/colours: {message}"):
        run(corpus_of(folder), reds())


def test_a_failing_scorer_is_asked_once(folder: Path) -> None:
    calls = folder / "calls"
    counting = f'open({str(calls)!r}, "a").write("x"); hit = doc["nothing"]'
    changed(folder, 'hit = float(results[0] == doc["answer"])', counting)
    with pytest.raises(UserError, match="its scorer fails"):
        run(corpus_of(folder), reds())
    assert calls.read_text() == "x"  # lmms-eval would ask five times, two seconds apart


def test_a_scorer_that_retries_by_itself_tells_its_cause(folder: Path) -> None:
    changed(folder, "def score(", "import tenacity\n"
            "@tenacity.retry(stop=tenacity.stop_after_attempt(2))\ndef score(")  # fmt: skip
    changed(folder, "hit = float", 'raise OSError("judge unreachable"); hit = float')
    with pytest.raises(UserError, match=r"fails on the answer 'red' \(OSError: judge unreach"):
        run(corpus_of(folder), reds())


def test_prompts_and_data_that_do_not_fit(folder: Path) -> None:
    changed(folder, '"<image>{{question}}"', "!function fns.no_text", "colours.yaml")
    changed(folder, "def f1(", "def no_text(doc):\n    return doc['q']\n\ndef f1(")
    with pytest.raises(
        UserError, match=r"its prompt cannot be built from the data \(KeyError: 'q'"
    ):
        corpus_of(folder)


def test_nothing_to_show_and_nothing_to_score(folder: Path) -> None:
    bare = [{k: v for k, v in row.items() if k != "image"} for row in rows(30)]
    write(folder / "bare", bare)
    changed(folder, 'return [doc["image"]] if doc["image"] is not None else []', "return []")
    with pytest.raises(UserError, match="none of its documents has an image"):
        corpus_of(folder, "bare")


def test_only_a_submission_is_no_score(folder: Path) -> None:
    text = (folder / "own" / "colours.yaml").read_text()
    lines = [line for line in text.splitlines() if "metric:" not in line or "submit" in line]
    (folder / "own" / "colours.yaml").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"none of its metrics is a number \(submission\)"):
        run(corpus_of(folder), reds())


def test_data_that_is_not_there_says_what_to_fetch(folder: Path) -> None:
    import_lmms_eval()
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        tasks.load("stock/colours", Path())
    message = str(caught.value)
    assert "'nowhere/none' on the hub" in message and "--data-root colours=DIR" in message
    assert "hf download nowhere/none --repo-type dataset --local-dir DIR" in message
    assert "\n" not in message and time.monotonic() - start < 6


def test_a_rule_for_sampling_is_refused(folder: Path) -> None:
    changed(folder, "do_sample: false", "do_sample: true", "colours.yaml")
    with pytest.raises(UserError, match="Answers are greedy here"):
        run(corpus_of(folder), reds())
