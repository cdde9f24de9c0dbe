"""Two runs or entries side by side: differences, McNemar's test by hand, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pytest
from board_factory import entry, first, make_answered, make_run, profile
from click.testing import CliRunner
from scipy.stats import binomtest

from steelyard.harness.cli.main import cli
from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import ITEMS
from steelyard.leaderboards.boards.compare import McNemarCounts, compare, paired_runs, terminal
from steelyard.leaderboards.stats import intervals


def test_mcnemar_is_the_exact_binomial_test() -> None:
    # 1 against 5 of 6: 2 (C(6, 0) + C(6, 1)) / 2 ** 6 = 14 / 64.
    assert intervals.mcnemar(1, 5) == pytest.approx(14 / 64)
    assert intervals.mcnemar(5, 1) == intervals.mcnemar(1, 5)
    assert intervals.mcnemar(0, 0) == intervals.mcnemar(4, 4) == 1
    for wins, losses in ((3, 9), (0, 12), (40, 61)):
        expected = binomtest(wins, wins + losses, 0.5).pvalue
        assert intervals.mcnemar(wins, losses) == pytest.approx(expected)


def test_two_run_folders_by_hand(tmp_path: Path) -> None:
    run_a = make_run(tmp_path, "one", {"clean": first(8)})
    run_b = make_run(tmp_path, "other", {"clean": [0.0, 0.0, 0.0, 1, 1, 1, 1, 1, 1, 0.0]})
    (pair,) = compare(paired_runs(str(run_a), str(run_b), []), ["clean"])
    assert (pair.task, pair.variant, pair.metric) == ("toy", "clean", "accuracy")
    assert (pair.first.mean, pair.second.mean) == (pytest.approx(0.8), pytest.approx(0.6))
    assert pair.difference.mean == pytest.approx(0.2)
    assert pair.counts == (McNemarCounts("0", both=5, only_first=3, only_second=1, neither=1),)
    assert pair.counts[0].p == pytest.approx(10 / 16)  # 1 against 3 of 4
    back = compare(paired_runs(str(run_b), str(run_a), []), ["clean"])[0]
    assert back.difference.low == pytest.approx(-pair.difference.high)


def test_entries_are_paired_by_seed_on_the_seeds_both_have(toy: Path) -> None:
    make_run(toy, "more", profile(9, 9, 9), seed=1)
    make_run(toy, "more", profile(9, 9, 9), seed=2)
    (pair,) = compare(paired_runs("more", "joint", [toy]), ["text-blank"])
    assert pair.difference.values == pytest.approx((0.2,)) and len(pair.counts) == 1
    assert pair.counts[0].seed == "1"
    both = compare(paired_runs("fair", "joint", [toy]), ["all"])
    assert [comparison.variant for comparison in both] == ["clean", "image-blank", "text-blank"]
    assert both[1].difference.values == pytest.approx((0.4, 0.4))


def test_answers_in_words_are_counted_where_they_are_right_or_wrong(tmp_path: Path) -> None:
    for label, right in (("sft", 28), ("good", 36)):
        make_answered(tmp_path, label, entry(right))
    pairs = compare(paired_runs("good", "sft", [tmp_path]), ["clean"])
    assert [(pair.task, pair.metric, pair.counts) for pair in pairs] == [
        ("pool", "f1", ()), ("asked", "f1", ()),
    ]  # fmt: skip
    text = printed(pairs)
    assert "No McNemar test for asked f1, pool f1" in text and "say nothing about" in text


def printed(pairs: list) -> str:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal("one", "[red]other[/red]", pairs, 100))
    return console.export_text()


def test_the_table_shows_names_as_they_are(toy: Path) -> None:
    pairs = compare(paired_runs("fair", "joint", [toy]), ["all"])
    text = printed(pairs)
    assert "B: [red]other[/red]" in text and "Intervals cover 2 training seeds" in text
    row = next(line for line in text.splitlines() if "image-blank" in line)
    half = 100 * pairs[1].difference.half
    assert row.split()[2:9] == ["accuracy", "↑", "60.0", "20.0", "+40.0", "±", f"{half:.1f}"]


def test_other_metrics_than_shares_are_no_percentages(tmp_path: Path) -> None:
    for label, level in (("one", 3.25), ("other", 1.5)):
        values = {"clean": np.full(9, level)}
        make_run(tmp_path, label, values, metric="surprise", higher_is_better=False)
    text = printed(compare(paired_runs("one", "other", [tmp_path]), ["clean"]))
    assert "3.25" in text and "+1.75" in text and "surprise ↓" in text


def test_what_cannot_be_compared_is_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Unknown run folder or entry 'far'. Did you mean 'fair'"):
        paired_runs("far", "joint", [toy])
    with pytest.raises(UserError, match="No folder of runs at"):
        paired_runs("fair", "joint", [toy / "none"])
    with pytest.raises(UserError, match=r"Unknown task 'tay'. Did you mean 'toy'"):
        paired_runs("fair", "joint", [toy], task="tay")
    with pytest.raises(UserError, match="Unknown variant that both were scored on 'image-blnk'"):
        compare(paired_runs("fair", "joint", [toy]), ["image-blnk"])
    make_run(toy, "late", profile(9, 9, 9), seed=7)
    with pytest.raises(UserError, match="share no seed"):
        paired_runs("late", "joint", [toy])
    failed = make_run(tmp_path / "x", "crash", {}, status="failed")
    with pytest.raises(UserError, match="nan at step 3"):
        compare(paired_runs(str(failed), str(failed), []), ["clean"])


def test_other_items_and_lost_items_are_refused(toy: Path, tmp_path: Path) -> None:
    foreign = make_run(tmp_path / "x", "other", {"clean": [1.0] * 11})
    with pytest.raises(UserError, match="on other items"):
        compare(paired_runs(str(toy / "0000"), str(foreign), []), ["clean"])
    (toy / "0000" / ITEMS).unlink()
    with pytest.raises(UserError, match="copy its whole folder"):
        compare(paired_runs("fair", "joint", [toy]), ["clean"])


def test_the_command_prints_the_comparison(toy: Path) -> None:
    result = CliRunner().invoke(cli, ["compare", "fair", "joint", "--runs", str(toy)])
    assert result.exit_code == 0, result.output
    assert "A: fair" in result.output and "McNemar" in result.output


def test_soft_scores_have_no_counts(tmp_path: Path) -> None:
    for label in ("one", "other"):
        make_run(tmp_path, label, {"clean": [0.3, 1.0, 0.0]})
    assert compare(paired_runs("one", "other", [tmp_path]), ["clean"])[0].counts == ()
