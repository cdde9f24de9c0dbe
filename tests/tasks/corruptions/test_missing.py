"""Missing-modality protocol: exact counts, nested rates, tables beside records."""

import csv
import io
import itertools
import json
import shutil
from pathlib import Path

import pytest

from steelyard import tasks
from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Corpus, Example, Modality
from steelyard.harness.records import record
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs import run
from steelyard.harness.runs.job import Job
from steelyard.tasks import build
from steelyard.tasks.corruptions import missing
from steelyard.tasks.corruptions.variants import Corruption

PICTURE = Path("a.png")
HUNDRED = [Example(f"{n:03}", PICTURE, f"text {n}", (0,)) for n in range(100)]


def lost(kind: str, rate: int, seed: int = 0, **where: str) -> dict[str, Modality]:
    arguments = {"task": "food101", "split": "test", **where}
    return missing.missing_modality(
        kind, rate, seed, arguments["task"], arguments["split"], HUNDRED
    )


@pytest.mark.parametrize("kind", missing.MISSING)
@pytest.mark.parametrize("rate", [0, 1, 30, 70, 99, 100])
def test_counts_are_exact(kind: str, rate: int) -> None:
    result = lost(kind, rate)
    assert len(result) == rate
    halves = {modality: list(result.values()).count(modality) for modality in ("image", "text")}
    expected = {
        "image-missing": {"image": rate, "text": 0},
        "text-missing": {"image": 0, "text": rate},
        "both-missing": {"image": rate // 2, "text": rate - rate // 2},
    }
    assert halves == expected[kind]


@pytest.mark.parametrize("kind", missing.MISSING)
def test_a_higher_rate_contains_a_lower_one_modality_for_modality(kind: str) -> None:
    rates = [lost(kind, rate) for rate in range(0, 101, 10)]
    for lower, higher in itertools.pairwise(rates):
        assert lower.items() < higher.items()


def test_counts_are_rounded_down() -> None:
    """As in the published code: 70 % of 7 items are 4, of which 2 lose the image."""
    result = missing.missing_modality("both-missing", 70, 0, "food101", "test", HUNDRED[:7])
    assert sorted(result.values()) == ["image", "image", "text", "text"]


def test_a_draw_belongs_to_a_task_a_split_and_a_seed_and_not_to_an_order() -> None:
    draws = [
        lost("image-missing", 50),
        lost("image-missing", 50, seed=1),
        lost("image-missing", 50, task="mm_imdb"),
        lost("image-missing", 50, split="val"),
    ]
    assert len({tuple(sorted(draw)) for draw in draws}) == 4
    turned = missing.missing_modality("image-missing", 50, 0, "food101", "test", HUNDRED[::-1])
    assert turned == draws[0]
    # The same items whichever modality is lost, so that the modalities can be compared.
    assert list(lost("text-missing", 50)) == list(draws[0])
    # Which items: about half of each half of the ids, not the first ones.
    assert 15 < sum(int(id_) < 50 for id_ in draws[0]) < 35


def test_only_what_is_there_can_be_lost() -> None:
    bare = [Example(f"i{n}", PICTURE, None if n % 2 else " ", (0,)) for n in range(10)]
    blind = [Example(f"t{n}", None, "text", (0,)) for n in range(10)]
    everyone = [*HUNDRED[:10], *bare, *blind]
    for kind, able in {"image-missing": 20, "text-missing": 20, "both-missing": 10}.items():
        assert len(missing.missing_modality(kind, 100, 0, "food101", "test", everyone)) == able
    assert all(
        id_.isdecimal()
        for id_ in missing.missing_modality("both-missing", 100, 0, "f", "t", everyone)
    )


# --- in a task ---------------------------------------------------------------------------------


def seen(corpus: Corpus, variant: str, limit: int | None = None) -> dict[str, tuple[bool, bool]]:
    """Return for each item whether it has an image and a text."""
    task = build(tasks.parse_variant(variant), corpus, limit=limit)
    return {
        doc["id"]: (bool(task.doc_to_visual(doc)), doc["text"] is not None)
        for doc in task.dataset["test"]
    }


@pytest.fixture(scope="module")
def food(world: Path) -> Corpus:
    return tasks.load("food101", world / "food101")


@pytest.mark.parametrize("variant", ["image-missing:70", "text-missing:30", "both-missing:50s4"])
def test_the_items_of_the_table_lose_that_modality_and_no_other(food: Corpus, variant: str) -> None:
    full = seen(food, "food101")
    table = tasks.parse_variant(f"food101@{variant}").missing_items("test", food.splits["test"])
    result = seen(food, f"food101@{variant}")
    assert table
    for id_, (image, text) in full.items():
        modality = table.get(id_)
        assert result[id_] == (image and modality != "image", text and modality != "text")
    some = seen(food, f"food101@{variant}", limit=20)
    assert len(some) == 20 and some.items() <= result.items()


def test_all_of_a_modality_is_that_modality_blank_and_none_is_clean(food: Corpus) -> None:
    assert seen(food, "food101@image-missing:100") == seen(food, "food101@image-blank")
    assert seen(food, "food101@text-missing:100") == seen(food, "food101@text-blank")
    assert seen(food, "food101@both-missing:0") == seen(food, "food101")


def test_the_other_modality_can_be_corrupted_too(food: Corpus) -> None:
    both = build(tasks.parse_variant("food101@image-missing:40+text-typo:5"), food)
    typed = build(tasks.parse_variant("food101@text-typo:5"), food)
    assert [doc["text"] for doc in both.dataset["test"]] == [
        doc["text"] for doc in typed.dataset["test"]
    ]
    images = seen(food, "food101@image-missing:40+text-typo:5")
    assert [image for image, _ in images.values()] == [
        image for image, _ in seen(food, "food101@image-missing:40").values()
    ]


# --- tables ------------------------------------------------------------------------------------


def test_a_table_is_csv_ordered_by_id() -> None:
    items: dict[str, Modality] = {'with, a "comma"': "image", "02": "text", "line\nbreak": "text"}
    rows = list(csv.reader(io.StringIO(missing.table(items).decode())))
    assert rows == [["id", "lost"], *sorted(map(list, items.items()))]
    assert missing.table({}) == b"id,lost\n"


def test_names_of_tables_are_names_of_files() -> None:
    name = missing.file_name("stock/mme", "test", "image-missing:70s1+text-typo:2")
    assert name == "stock-mme-test-image-missing-70s1+text-typo-2.csv"


# --- beside a record ---------------------------------------------------------------------------


def test_a_run_keeps_its_tables_and_what_attacks_cost(food: Corpus, tmp_path: Path) -> None:
    spec = RunSpec("joint", "food101", "tiny", "2e9", 0, data={"revision": food.revision})
    variants = ("food101", "food101@both-missing:70", "food101@image-adversarial:1")
    job = Job(spec, "joint", variants, limit=30)

    def ran(job: Job) -> record.Record:
        return run.run(job, {"food101": food}, tmp_path, "cpu", lambda doing, share: None)

    first = ran(job)
    folder = tmp_path / first.id
    table = folder / "missing" / "food101-test-both-missing-70.csv"
    expected = missing.missing_modality(
        "both-missing", 70, 0, "food101", "test", food.splits["test"]
    )
    assert table.read_bytes() == missing.table(expected)
    assert len(expected) == 56  # of all 80, not of 30
    assert str(table.relative_to(folder)) in first.provenance["tables"]
    costs = first.provenance["attacks"]
    assert set(costs) == {"food101@image-adversarial:1"}
    attack = costs["food101@image-adversarial:1"]
    assert attack["flops"] > 0 and attack["epsilon"] == 2 / 255
    assert first.ledger.total_flops <= 2e9

    # A copy of record and items alone, scored on more: nothing is lost and nothing scored again.
    (folder / "attacks.json").unlink()
    more = ran(Job(spec, "joint", (*variants, "food101@image-missing:10"), limit=30))
    assert more.provenance["attacks"] == costs
    assert json.loads((folder / "attacks.json").read_text()) == costs
    assert len(list((folder / "missing").iterdir())) == 2
    shutil.rmtree(folder)


def test_rates_and_seeds_are_read_and_written() -> None:
    for text, corruption in {
        "image-missing:70": Corruption("image-missing", 70),
        "both-missing:0": Corruption("both-missing", 0),
        "text-missing:100s12": Corruption("text-missing", 100, 12),
    }.items():
        assert tasks.parse_variant(f"food101@{text}").corruptions == (corruption,)
        assert str(corruption) == text
    assert str(tasks.parse_variant("food101@image-missing:07s0")) == "food101@image-missing:7"
    result = tasks.variants("food101", ["image-missing:0-30s2"])
    names = ["clean", *(f"image-missing:{rate}s2" for rate in (0, 10, 20, 30))]
    assert [variant.name for variant in result] == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image-missing", "give a rate from 0 to 100 %, such as 'image-missing:70'"),
        ("image-missing:101", "give a rate from 0 to 100 %"),
        ("image-missing:-1", "give a rate"),
        ("image-missing:7.5", "give a rate"),
        ("image-missing:70s", "give a rate"),
        ("image-mising:70", "Did you mean 'image-missing'"),
        ("image-missing:70+text-missing:30", "write 'both-missing:70'"),
        ("both-missing:70+text-typo", "one corruption of the image and one of the text"),
    ],
)
def test_bad_rates_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tasks.parse_variant(f"food101@{text}")


def test_bad_ranges_of_rates_are_refused() -> None:
    with pytest.raises(UserError, match="steps of 10 from 5"):
        tasks.variants("food101", ["image-missing:5-40"])
    with pytest.raises(UserError, match="write 'image-missing:10-70'"):
        tasks.variants("food101", ["image-missing:70-10"])


def test_a_task_without_text_cannot_lose_it() -> None:
    for text in ("text-missing:10", "both-missing:10", "image-noise+text-typo"):
        with pytest.raises(UserError, match="chair has no text beside the image to corrupt"):
            tasks.parse_variant(f"chair@{text}")
    assert str(tasks.parse_variant("chair@image-missing:10")) == "chair@image-missing:10"
