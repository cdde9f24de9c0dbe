"""Corruption to both modalities, and missing-modality rates, on boards."""

from pathlib import Path

import pytest
from board_factory import board_of, entry, first, make_answered, make_run, said

from steelyard.harness.core.errors import UserError
from steelyard.harness.core.examples import Modality
from steelyard.leaderboards.boards.board import build
from steelyard.leaderboards.loading.collect import collect
from steelyard.leaderboards.publish import publish
from steelyard.tasks.corruptions import missing
from steelyard.tasks.corruptions.columns import corruption_of, modality_of

HITS = {
    "clean": first(9),
    "image-blank": first(4),
    "text-blank": first(6),
    "image-noise:1+text-typo:2": first(3),
    "image-noise:3+text-typo:2": first(1),
    "both-missing:70": first(5),
}


def test_what_a_variant_is() -> None:
    assert corruption_of("image-noise:3+text-typo:2") == "image-noise+text-typo"
    assert corruption_of("image-missing:70s1") == "image-missing"
    modalities = map(
        modality_of, ("image-noise:3", "text-blank", "image-blank+text-blank", "both-missing:7")
    )
    assert list(modalities) == ["image", "text", "both", "both"]


def test_both_modalities_have_columns_of_their_own_and_count_for_neither(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", HITS)
    (row,) = (built := board_of(tmp_path)).rows
    means = {name: round(interval.mean, 10) for name, interval in row.scores.items()}
    assert means == {
        "balanced": 0.7,
        "clean": 0.9,
        "corrupted": 0.5,
        "image": 0.4,
        "text": 0.6,
        "image-blank": 0.4,
        "text-blank": 0.6,
        "image-noise+text-typo": 0.2,
        "both-missing": 0.5,
    }
    assert {column.name for column in built.columns if column.is_corruption} == set(means) - {
        "balanced",
        "clean",
        "corrupted",
        "image",
        "text",
    }


def test_a_board_of_nothing_but_both_modalities(tmp_path: Path) -> None:
    make_run(tmp_path, "joint", {"clean": first(9), "both-missing:70": first(5)})
    (row,) = board_of(tmp_path).rows
    means = {name: round(interval.mean, 10) for name, interval in row.scores.items()}
    assert means == {"balanced": 0.9, "clean": 0.9, "both-missing": 0.5}


def test_a_profile_keeps_them_apart_too(tmp_path: Path) -> None:
    answers = entry(36)
    answers["asked"] |= {"image-noise:3+text-typo:2": said(10), "text-blank": said(24)}
    answers["asked"] |= {"both-missing:70": said(12)}
    make_answered(tmp_path, "sft", answers)
    built = build(collect([tmp_path]), "pool", control=None)
    result = {column.name: column.variants for column in built.corrupted}
    assert result == {
        "asked f1, no image": {"image-blank": 1.0},
        "asked f1, image corrupted": {"image-blank": 0.5, "image-noise:3": 0.5},
        "asked f1, text corrupted": {"text-blank": 1.0},
        "asked f1, both-missing": {"both-missing:70": 1.0},
        "asked f1, image-noise+text-typo": {"image-noise:3+text-typo:2": 1.0},
    }


def test_severities_of_rates_are_drawn_and_other_draws_left_out(tmp_path: Path) -> None:
    from steelyard.leaderboards.boards.plots.board import _graded

    rates = {f"image-missing:{rate}": first(9 - rate // 20) for rate in (0, 50, 100)}
    make_run(tmp_path, "joint", HITS | rates | {"image-missing:50s1": first(5)})
    graded = _graded(board_of(tmp_path))
    steps = {0: "image-missing:0", 50: "image-missing:50", 100: "image-missing:100"}
    assert graded == {"image-missing": steps}


def with_table(root: Path, label: str, items: dict[str, Modality]) -> Path:
    folder = make_run(root, label, {"clean": first(9), "image-missing:20": first(7)})
    path = folder / "missing" / missing.file_name("toy", "", "image-missing:20")
    path.parent.mkdir()
    path.write_bytes(missing.table(items))
    return path


def test_tables_are_published_once_and_read_back(tmp_path: Path) -> None:
    missing_items: dict[str, Modality] = {"00003": "image", "00001": "image"}
    for label in ("joint", "fair"):
        with_table(tmp_path / "runs", label, missing_items)
    published = publish([tmp_path / "runs"], tmp_path / "out")
    tables = [path for path in published.files if path.parent.name == missing.FOLDER]
    assert [path.name for path in tables] == ["toy--image-missing-20.csv"]
    assert tables[0].read_bytes() == missing.table(missing_items)


def test_other_items_or_no_table_are_refused(tmp_path: Path) -> None:
    with_table(tmp_path, "joint", {"00003": "image"})
    path = with_table(tmp_path, "fair", {"00004": "image"})
    with pytest.raises(UserError, match="differ: score all runs of a board on the same data"):
        publish([tmp_path], tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match="lists items without a modality"):
        publish([tmp_path], tmp_path / "out")
