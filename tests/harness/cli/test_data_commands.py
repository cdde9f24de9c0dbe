"""``steelyard check`` and ``steelyard data`` as a person types them."""

import json
import re
from pathlib import Path

import pytest
from checked import questions
from command import Command

from steelyard import tasks


@pytest.fixture
def steelyard(steelyard: Command, own_cache: Path) -> Command:
    """With a cache of the test's own."""
    return steelyard


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    return questions(tmp_path / "pope")


def test_check_prints_tables_and_writes_the_card_outside_of_the_data(
    pope: Path, tmp_path: Path, steelyard: Command
) -> None:
    before = sorted(pope.rglob("*"))
    done = steelyard("check", "pope", "--data-root", str(pope))
    assert done.code == 0, done.stderr
    for title in ("Expected layout", "Annotation files", "Splits", "Labels", "Images",
                  "Text-only baseline", "Licence"):  # fmt: skip
        assert title in done.stdout
    assert "usable: test 40" in done.stdout
    assert sorted(pope.rglob("*")) == before
    (card_page,) = (tmp_path / "cache").rglob("card.md")
    assert str(card_page) in done.stdout
    again = steelyard(
        "check", "pope", "--data-root", f"pope={pope}", "--out", str(tmp_path / "out")
    )
    written = json.loads((tmp_path / "out" / "card.json").read_text())
    assert written["card"] in done.stdout and written["card"] in again.stdout


def test_check_refuses_what_a_run_would_refuse(pope: Path, steelyard: Command) -> None:
    broken = pope / "coco" / "coco_pope_random.json"
    broken.write_text(broken.read_text().replace('"no"', '"none"'))
    done = steelyard("check", "pope", "--data-root", str(pope))
    assert done.code == 1 and not done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("refused"))
    assert line.endswith("coco_pope_random.json:2: label 'none', allowed are yes, no.")
    assert "usable" not in done.stdout and "Images" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "pop"), "Unknown task 'pop'. Did you mean 'pope'?"),
        (("check", "pope", "--data-root", "/nowhere"), "no folder at /nowhere"),
        (("check", "pope", "--data-set", "plot=first"), "Unknown data option of pope 'plot'"),
        (("check", "pope", "--max-bad", "2"), "give a fraction from 0 to below 1"),
        (("data", "pop"), "Did you mean 'pope'"),
        (
            ("data", "pope", "--from", "/nowhere", "--to", "x"),
            "is no folder, no archive, and no hub",
        ),
    ],
)
def test_a_mistake_is_one_line(
    pope: Path, words: tuple[str, ...], message: str, steelyard: Command
) -> None:
    rooted = (
        words if "/nowhere" in words or words[0] == "data" else (*words, "--data-root", str(pope))
    )
    done = steelyard(*rooted)
    assert done.code == 2 and message in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_from_and_to_go_together(steelyard: Command) -> None:
    for words in (("pope", "--from", "x"), ("pope", "--to", "x"), ("--from", "x", "--to", "y")):
        done = steelyard("data", *words)
        assert done.code == 2 and "steelyard data TASK --from SOURCE --to DIR" in done.stderr


def test_data_lists_every_task_and_says_the_steps_of_each(
    own_cache: Path, steelyard: Command
) -> None:
    listed = steelyard("data")
    assert listed.code == 0
    for name in tasks.names():
        assert name in listed.stdout
    steps = steelyard("data", "pope").stdout
    assert "steelyard data pope --from lmms-lab-encoder/POPE --to DIR" in steps
    assert "coco/coco_pope_random.json" in steps
    assert re.search(r"ac25245170b9\w{52}  coco_pope_random.json  3,000; label yes 1,500", steps)
    assert not own_cache.exists()


@pytest.mark.parametrize("name", tasks.names())
def test_what_is_declared_of_published_files_is_well_formed(name: str) -> None:
    about = tasks.info(name)
    assert about.licence and about.source and about.layout and about.citation
    assert about.hub == "" or re.fullmatch(r"[\w-]+/[\w.-]+", about.hub)
    for file, facts in about.official.items():
        assert "/" not in file
        assert isinstance(facts["rows"], int | dict)
        assert re.fullmatch(r"[0-9a-f]{64}", facts.get("sha256", "0" * 64))
        for column in facts.keys() - {"rows", "sha256"}:
            assert sum(facts[column].values()) == facts["rows"], (file, column)
