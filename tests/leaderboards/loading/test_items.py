"""Read items of several files: the order is shared where their keys are equal."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from steelyard.leaderboards.loading import items as item_table
from steelyard.leaderboards.loading.items import Order

IDS = ("b", "a", "c")


def written(path: Path, ids: Sequence[str], scores: Sequence[float], **options: object) -> Path:
    columns = {
        "variant": ["clean"] * len(ids),
        "id": list(ids),
        "cluster": [f"of {name}" for name in ids],
        "score": list(scores),
    }
    parquet.write_table(pa.table(columns), path, **options)
    return path


def scores(path: Path, expected: Order | None = None) -> tuple[list[str], list[float], Order]:
    table, order = item_table.read(path, ["score"], expected)
    items = item_table.items_of([table], order, 2, ["score"])[0]["clean"]
    return items.ids.tolist(), items.score.tolist(), order


def test_files_with_equal_keys_share_their_order(tmp_path: Path) -> None:
    ids, values, order = scores(written(tmp_path / "one", IDS, (1, 0, 0.5)))
    assert (ids, values) == (["a", "b", "c"], [0, 1, 0.5])
    _, values, same = scores(written(tmp_path / "two", IDS, (0, 0.25, 1)), order)
    assert same is order and values == [0.25, 0, 1]
    # Another encoding of the same keys.
    path = written(tmp_path / "three", IDS, (0, 0.25, 1), use_dictionary=False)
    _, values, same = scores(path, order)
    assert same is order and values == [0.25, 0, 1]


@pytest.mark.parametrize("options", [{}, {"row_group_size": 1}, {"compression": "none"}])
def test_a_file_in_another_order_is_read_in_its_own(
    tmp_path: Path, options: dict[str, object]
) -> None:
    _, _, order = scores(written(tmp_path / "one", IDS, (1, 0, 0.5), **options))
    ids, values, own = scores(written(tmp_path / "two", IDS[::-1], (1, 0, 0.5), **options), order)
    assert own is not order and (ids, values) == (["a", "b", "c"], [0, 0.5, 1])
    ids, _, own = scores(written(tmp_path / "three", ("a", "b", "d"), (0, 0, 1), **options), order)
    assert own is not order and ids == ["a", "b", "d"]


def test_answers_are_unchanged_where_their_classes_are(tmp_path: Path) -> None:
    def equal(clean: list[list[int]], corrupted: list[list[int]]) -> list[bool]:
        names = [str(number) for number in range(len(clean))]
        columns = {
            "variant": ["clean"] * len(clean) + ["image-blank"] * len(clean),
            "id": names * 2,
            "cluster": names * 2,
            "predicted": pa.array(clean + corrupted, pa.list_(pa.int64())),
        }
        path = tmp_path / "items"
        parquet.write_table(pa.table(columns), path)
        table, order = item_table.read(path, ["predicted"])
        found = item_table.unchanged_answers([table], order, "predicted", ["image-blank"], "clean")[
            0
        ]
        assert found.dtype == np.bool_
        return [bool(one) for one in found[0]]

    assert equal([[0], [2], [1]], [[0], [1], [1]]) == [True, False, True]
    assert equal([[0], [1, 2], []], [[0, 1], [2, 1], []]) == [False, True, True]
    assert equal([[], []], [[], []]) == [True, True]
    # As many classes in all as answers, yet not one each.
    assert equal([[0, 1], []], [[0], [1]]) == [False, False]


def of_classes(path: Path, targets: Sequence[int], predicted: Sequence[Sequence[int]]) -> Path:
    names = [str(number) for number in range(len(targets))]
    columns = {
        "variant": ["clean"] * len(names),
        "id": names,
        "cluster": names,
        "target": pa.array([[target] for target in targets], pa.list_(pa.int64())),
        "predicted": pa.array(predicted),
    }
    parquet.write_table(pa.table(columns), path)
    return path


def test_runs_read_together_are_those_read_one_by_one(tmp_path: Path) -> None:
    files = [
        of_classes(tmp_path / "first", (0, 1, 1), ([0], [1], [0])),
        of_classes(tmp_path / "second", (0, 1, 1), ([1], [1], [1])),
        of_classes(tmp_path / "many", (0, 1, 1), ([0, 1], [], [1])),
        of_classes(tmp_path / "silent", (0, 1, 1), ([], [], [])),  # stored as lists of nothing
        of_classes(tmp_path / "other", (1, 0, 1), ([0], [1], [0])),  # with other targets
    ]
    columns = ("target", "predicted")
    _, order = item_table.read(files[0], columns)
    read = [item_table.read(path, columns, order) for path in files]
    assert [own is order for _, own in read] == [True, True, True, True, False]
    groups = [*item_table.group_by_order(read)]
    assert [len(tables) for tables, _ in groups] == [3, 1, 1]
    found = [
        (items, same)
        for tables, own in groups
        for items, same in zip(
            item_table.items_of(tables, own, 2, columns),
            item_table.unchanged_answers(tables, own, "predicted", ["clean"], "clean"),
            strict=True,
        )
    ]
    marks = [items["clean"].predicted.tolist() for items, _ in found]
    assert marks[1] == [[False, True]] * 3 and marks[3] == [[False, False]] * 3
    assert marks[2] == [[True, True], [False, False], [False, True]]
    targets = [items["clean"].target.argmax(axis=1).tolist() for items, _ in found]
    assert targets == [[0, 1, 1]] * 4 + [[1, 0, 1]]
    assert all(same.all() for _, same in found)
