"""Corruptions: what each does, that nothing but the item decides it, and how variants are named."""

import hashlib
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import corrupted_items
import numpy as np
import pytest
import torch
from corrupted_items import MODEL_FREE, corpus_at, fingerprints
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Inputs
from steelyard.harness.data.images import ImageStore, open_image, store_of
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models.backbone import Recipe
from steelyard.tasks import build
from steelyard.tasks.corruptions import CORRUPTIONS, corrupt
from steelyard.tasks.corruptions.apply import limited
from steelyard.tasks.corruptions.image import NOISE_SIGMA
from steelyard.tasks.corruptions.text import WORD_FRACTIONS
from steelyard.tasks.corruptions.variants import Corruption

GREY = Image.new("RGB", (200, 100), (128, 128, 128))
CLASSIFIED = {
    "food101": ("accuracy", False),
    "hateful_memes": ("auroc", False),
    "mm_imdb": ("macro_f1", True),
}
"""Main metric of the tasks answered by class probabilities, and whether items carry several."""


def other(rng: np.random.Generator) -> Inputs:
    return Inputs(Image.new("RGB", (4, 4), (9, 9, 9)), "there")


def corrupted(
    name: str, severity: int | None = None, text: str = "here it is", image=GREY
) -> Inputs:
    return corrupt(name, severity, "item", Inputs(image, text), other)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float)


# What each corruption does


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_noise_has_the_stated_spread(severity: int) -> None:
    image = corrupted("image-noise", severity).image
    sigma = 255 * NOISE_SIGMA[severity - 1]
    field = pixels(image) - 128
    # Values are cut 128 below and 127 above grey: compare the part that no cut reaches.
    inside = np.abs(field) < sigma * 0.67449
    assert inside.mean() == pytest.approx(0.5, abs=0.02)
    assert field[..., 0].mean() == pytest.approx(0, abs=2)
    assert np.corrcoef(field[..., 0].ravel(), field[..., 1].ravel())[0, 1] < 0.05


def test_noise_on_a_large_photo_survives_shrinking() -> None:
    photo = Image.new("RGB", (896, 448), (128, 128, 128))
    field = pixels(corrupted("image-noise", 3, image=photo).image) - 128
    blocks = field.reshape(112, 4, 224, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_word_noise_replaces_the_stated_fraction() -> None:
    for severity, share in enumerate(WORD_FRACTIONS, 1):
        words = (corrupted("text-noise", severity, "here " * 4000).text or "").split()
        assert len(words) == 4000
        assert words.count("there") / 4000 == pytest.approx(share, abs=0.03)


def test_wordshuffle_keeps_the_words() -> None:
    text = " ".join(map(str, range(30)))
    shuffled = corrupted("text-wordshuffle", text=text).text
    assert shuffled != text
    assert sorted((shuffled or "").split()) == sorted(text.split())


def test_blank_and_shuffle() -> None:
    assert corrupted("image-blank") == Inputs(None, "here it is")
    assert corrupted("text-blank") == Inputs(GREY, None)
    assert corrupted("text-shuffle") == Inputs(GREY, "there")
    swapped = corrupted("image-shuffle")
    assert swapped.image is not GREY
    assert swapped.text == "here it is"


@pytest.mark.parametrize("name", MODEL_FREE)
def test_one_modality_is_left_alone(name: str) -> None:
    corruption = CORRUPTIONS[name]
    result = corrupted(name, corruption.severities[-1] if corruption.severities else None)
    if corruption.modality == "image":
        assert result.text == "here it is"
    else:
        assert result.image is GREY


def test_corruption_depends_on_item_severity_and_name() -> None:
    def noise(severity: int, key: str) -> bytes:
        result = corrupt("image-noise", severity, key, Inputs(GREY, None), other)
        assert result.image is not None
        return result.image.tobytes()

    assert noise(3, "a") == noise(3, "a")
    assert len({noise(3, "a"), noise(4, "a"), noise(3, "b")}) == 3


# In a task


def test_same_corruption_in_another_order_and_process(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    in_process = fingerprints(corpus)
    backwards = dict(corpus.splits, test=corpus.splits["test"][::-1])
    turned = Corpus("food101", tmp_path, corpus.classes, False, backwards, "r1")
    assert fingerprints(turned) == in_process
    assert fingerprints(corpus, order=-1) == in_process
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "import corrupted_items as t\n"
        "print(t.fingerprints(t.corpus_at(Path(sys.argv[2]))))"
    )
    call = [
        sys.executable,
        "-c",
        code,
        str(Path(corrupted_items.__file__).parent),
        str(tmp_path / "again"),
    ]
    in_subprocess = subprocess.run(call, capture_output=True, text=True, check=True)
    assert in_subprocess.stdout.strip() == str(in_process)


class Watcher(torch.nn.Module):
    """Model that keeps a hash of its inputs and answers by a rule."""

    def __init__(self, classes: tuple[str, ...], answer: int) -> None:
        super().__init__()
        self.name, self.classes, self.answers = "watcher", classes, answer
        self.recipe = Recipe()
        self.shown: dict[str, str] = {}

    def answer(self, inputs: Sequence[Inputs], choices: Sequence[str]) -> torch.Tensor:
        for item in inputs:
            content = (item.image.tobytes() if item.image else b"") + (item.text or "").encode()
            self.shown[str(len(self.shown))] = hashlib.sha256(content).hexdigest()
        return torch.eye(len(choices))[[self.answers] * len(inputs)]


@pytest.mark.parametrize("name", [*MODEL_FREE, "image-noise:5+text-typo:5", "both-missing:50"])
def test_two_models_and_two_batch_sizes_see_the_same(tmp_path: Path, name: str) -> None:
    corpus = corpus_at(tmp_path)
    variant = tasks.parse_variant(f"food101@{name}")
    small, large = Watcher(corpus.classes, 0), Watcher(corpus.classes, 2)
    evaluate(small, variant, corpus, batch_size=5)
    evaluate(large, variant, corpus, batch_size=64)
    assert small.shown == large.shown and len(small.shown) == 12


def test_both_modalities_at_once_are_each_as_alone(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    both, image, text = (
        build(tasks.parse_variant(f"food101@{name}"), corpus)
        for name in ("image-noise:4+text-typo:5", "image-noise:4", "text-typo:5")
    )
    assert both.dataset["test"] == text.dataset["test"]
    for together, alone in zip(both.dataset["test"], image.dataset["test"], strict=True):
        (joint,), (single,) = both.doc_to_visual(together), image.doc_to_visual(alone)
        assert joint.tobytes() == single.tobytes()


def test_variants_leave_no_files_and_hold_no_images(tmp_path: Path) -> None:
    """Built and read one after another, twenty variants take no more memory than four."""
    corpus = photos_at(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    peak_of(corpus, severe(3))  # what is imported and decoded once
    peaks = [peak_of(corpus, severe(5)), peak_of(corpus, severe(1, 2, 3, 4, 5))]
    assert peaks[1] < 1.05 * peaks[0]
    assert sorted(tmp_path.rglob("*")) == before
    store = store_of(tmp_path, "test")
    assert store.used == 6 * 300 * 300 * 3


def severe(*severities: int) -> list[str]:
    names = ("noise", "brightness", "jpeg", "occlusion")
    return [f"image-{name}:{severity}" for severity in severities for name in names]


def photos_at(root: Path) -> Corpus:
    rng = np.random.default_rng(0)
    examples = []
    for number in range(6):
        path = root / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(path)
        examples.append(Example(f"{number}", path, f"title {number}", (0,)))
    return Corpus("food101", root, ("a", "b"), False, {"test": tuple(examples)}, "r1")


def peak_of(corpus: Corpus, names: list[str]) -> int:
    """Most bytes held at once, images included, while each item of each variant is read."""
    tracemalloc.start()
    for name in names:
        task = build(tasks.parse_variant(f"food101@{name}"), corpus)
        for doc in task.dataset["test"]:
            # Pillow's own memory is not traced, an array of the pixels is.
            assert [np.asarray(image).copy() for image in task.doc_to_visual(doc)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_shuffles_never_give_an_item_its_own(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    text = build(tasks.parse_variant("food101@text-shuffle"), corpus).dataset["test"]
    texts = {example.id: example.text for example in corpus.splits["test"]}
    assert all(doc["text"] in texts.values() and doc["text"] != texts[doc["id"]] for doc in text)
    task = build(tasks.parse_variant("food101@image-shuffle"), corpus)
    for position, doc in enumerate(task.dataset["test"]):
        (image,) = task.doc_to_visual(doc)
        assert image.getpixel((0, 0))[0] != position * 9


def test_a_limit_does_not_change_the_corruption_and_is_nested(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path)
    variant = tasks.parse_variant("food101@text-noise:5")
    every = {doc["id"]: doc["text"] for doc in build(variant, corpus).dataset["test"]}
    five, seven = (
        {doc["id"]: doc["text"] for doc in build(variant, corpus, limit=n).dataset["test"]}
        for n in (5, 7)
    )
    assert len(five) == 5
    assert five.items() <= seven.items() <= every.items()
    assert list(five) != list(every)[:5]


def balance(items: Sequence[Example]) -> tuple[Counter[str], Counter[str]]:
    return Counter(e.answers[0] for e in items), Counter(e.subset for e in items)


@pytest.mark.parametrize("by_cluster", [False, True])
def test_a_limit_keeps_the_balance_of_answers_and_subsets(by_cluster: bool) -> None:
    """As in POPE's lists, and in sorted files of unequal classes with a rare one."""
    pope = [
        Example(f"{kind}/{n}", None, "?", answers=("yes" if n % 2 else "no",), subset=kind)
        for kind in ("random", "popular", "adversarial")
        for n in range(100)
    ]
    for limit in (2, 8, 12, 50, 100):
        answers, kinds = balance(limited(pope, limit, by_cluster=by_cluster))
        assert sum(answers.values()) == limit and abs(answers["yes"] - answers["no"]) <= 1
        assert max(kinds.values()) - min(kinds[name] for name in ("random", "popular")) <= 2
    fractions = {"cat": 0.7, "dog": 0.29, "owl": 0.01}
    rows = [
        Example(f"{name}{n}", None, None, answers=(name,), cluster=f"{name}{n}")
        for name, fraction in fractions.items()
        for n in range(int(300 * fraction))
    ]
    taken = balance(limited(rows, 100, by_cluster=by_cluster))[0]
    assert all(abs(taken[name] - 100 * fraction) <= 1 for name, fraction in fractions.items())


def test_a_limit_of_open_questions_keeps_their_types_and_prefers_no_answer() -> None:
    rows = [
        Example(f"{n}", None, "?", answers=(f"answer {n}" if n % 4 else "two",), subset=kind)
        for n, kind in enumerate(500 * ["count"] + 1500 * ["colour"])
    ]
    answers, kinds = balance(limited(rows, 200))
    assert kinds == {"count": 50, "colour": 150}
    assert abs(answers["two"] - 50) <= 2 and len(answers) == 201 - answers["two"]


@pytest.mark.parametrize("name", [n for n, c in CORRUPTIONS.items() if c.modality == "text"])
def test_the_instruction_is_never_touched(tmp_path: Path, name: str) -> None:
    corpus = corpus_at(tmp_path)
    document = tasks.document(corpus, "test", corpus.splits["test"][0], None)
    instruction = tasks.prompt("food101", document)
    task = build(tasks.parse_variant(f"food101@{name}"), corpus)
    for doc in task.dataset["test"]:
        assert task.doc_to_text(doc).endswith(instruction)
        assert (doc["text"] or "") in task.doc_to_text(doc)


def test_a_missing_modality_stays_missing(tmp_path: Path) -> None:
    full = corpus_at(tmp_path)
    bare = (Example("x", None, None, (0,)), *full.splits["test"])
    corpus = Corpus("food101", tmp_path, full.classes, False, {"test": bare}, "r1")
    for name in CORRUPTIONS:
        task = build(tasks.parse_variant(f"food101@{name}"), corpus)
        assert task.dataset["test"][0]["text"] is None
        assert task.doc_to_visual(task.dataset["test"][0]) == []


def test_no_donor_is_a_user_error(tmp_path: Path) -> None:
    corpus = corpus_at(tmp_path, size=1)
    with pytest.raises(UserError, match="every text of the split is the same"):
        build(tasks.parse_variant("food101@text-shuffle"), corpus)
    assert build(tasks.parse_variant("food101@text-blank"), corpus).dataset["test"]


def test_the_store_keeps_its_bound(tmp_path: Path) -> None:
    paths = [example.image for example in corpus_at(tmp_path).splits["test"]]
    store = ImageStore(lambda path: (open_image(path),), limit=3 * 6 * 5 * 3)
    first = [store.get(path)[0] for path in paths]
    assert store.used == 3 * 6 * 5 * 3
    again = [store.get(path)[0] for path in paths]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True] * 3 + [False] * 9
    assert [a.tobytes() for a in first] == [b.tobytes() for b in again]


# Names


@pytest.mark.parametrize(
    ("text", "variant"),
    [
        ("food101", tasks.Variant("food101")),
        ("food101@image-blank", tasks.Variant("food101", (Corruption("image-blank"),))),
        ("food101@image-noise:5", tasks.Variant("food101", (Corruption("image-noise", 5),))),
        ("mm_imdb@text-wordshuffle", tasks.Variant("mm_imdb", (Corruption("text-wordshuffle"),))),
        (
            "pope@image-noise:3+text-typo:2",
            tasks.Variant("pope", (Corruption("image-noise", 3), Corruption("text-typo", 2))),
        ),
    ],
)
def test_names_are_read_and_written(text: str, variant: tasks.Variant) -> None:
    assert tasks.parse_variant(text) == variant
    assert str(variant) == text


def test_a_severity_left_out_is_the_middle_one() -> None:
    assert str(tasks.parse_variant("food101@text-noise")) == "food101@text-noise:3"


def test_equal_corruption_has_one_name() -> None:
    """Write the image first, whatever the order, and every severity."""
    turned = tasks.parse_variant("food101@text-typo:2+image-noise")
    assert str(turned) == "food101@image-noise:3+text-typo:2"
    assert turned == tasks.parse_variant(str(turned))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("food11", "Did you mean 'food101'"),
        ("food101@image-nois", "Did you mean 'image-noise'"),
        ("food101@", "Unknown corruption ''"),
        ("food101@image-noise:6", "Allowed: 1, 2, 3, 4, 5"),
        ("food101@image-noise:", "severity '' is unknown"),
        ("food101@image-noise:x", "severity 'x' is unknown"),
        ("food101@image-blank:3", "has no severities"),
        ("food101@image-noise+image-blur", "one of the text, not image and image"),
        ("food101@image-noise+text-typo+text-blank", "not image and text and text"),
        ("food101@image-noise+", "Unknown corruption ''"),
        ("chair@text-misleading", "chair has no text beside the image to corrupt"),
    ],
)
def test_mistakes_name_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tasks.parse_variant(text)


def test_variants_expand_ranges_and_drop_repeats() -> None:
    result = tasks.variants("food101", ["image-noise:1-3", "image-noise", "text-blank"])
    names = ["clean", "image-noise:1", "image-noise:2", "image-noise:3", "text-blank"]
    assert [variant.name for variant in result] == names
    both = tasks.variants("food101", ["text-typo:1-2+image-blur:4-5"])[1:]
    assert [variant.name for variant in both] == [
        f"image-blur:{image}+text-typo:{text}" for text in (1, 2) for image in (4, 5)
    ]
    with pytest.raises(UserError, match="Allowed"):
        tasks.variants("food101", ["image-noise:4-6"])
    with pytest.raises(UserError, match="image-noise:1-3"):
        tasks.variants("food101", ["image-noise:3-1"])


def test_each_task_declares_itself() -> None:
    infos = {name: tasks.info(name) for name in tasks.names()}
    generative = {name for name, info in infos.items() if info.generative}
    assert generative >= {"chair", "instruct", "pope", "prior_conflict", "vqa"}
    classified = {name: (infos[name].main, infos[name].multi_label) for name in CLASSIFIED}
    assert classified == CLASSIFIED
    assert generative.isdisjoint(CLASSIFIED)
    assert all(all(infos[name].metrics.values()) for name in CLASSIFIED)
    assert set(infos["food101"].metrics) == {"accuracy"}


def test_names_need_no_heavy_import() -> None:
    code = (
        "import sys; from steelyard import tasks; tasks.parse_variant('food101@image-noise')\n"
        "tasks.info('food101'); tasks.variants('mm_imdb', ['text-noise:1-5'])\n"
        "print({'torch', 'lmms_eval', 'pandas', 'transformers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
