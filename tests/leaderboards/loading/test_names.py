"""Entries are told apart by what they are, and called after as much of a path as differs."""

from dataclasses import replace
from pathlib import Path

import pytest
from board_factory import make_run, profile

from steelyard.harness.core.errors import UserError
from steelyard.harness.records.record import Record, read, write
from steelyard.harness.records.spec import RunSpec
from steelyard.leaderboards.loading.collect import backbone_name, collect
from steelyard.tasks import NOTHING


def rewrite(folder: Path, **changes: object) -> Record:
    old = read(folder)
    spec = replace(old.spec, **changes)
    return write(replace(old, spec=spec, id=spec.id), folder)


def model(root: Path, path: str, content: str, right: int) -> None:
    """Write the record of a model that was not trained here."""
    name = Path(path).name
    folder = make_run(root, name, profile(right, 2, 2), task=NOTHING, method="zero_shot")
    rewrite(folder, backbone=path, folders={path: f"{name}#{content}"})
    record = read(folder)
    write(replace(record, provenance={**record.provenance, "weights": content}), folder)


def labels(root: Path) -> list[str]:
    return sorted({run.record.label for run in collect([root]).runs})


A, B = "a" * 32, "b" * 32


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("one/checkpoint-500", "two/checkpoint-500", ["one/checkpoint-500", "two/checkpoint-500"]),
        ("/x/one/step/final", "/y/two/step/final", ["one/step/final", "two/step/final"]),
        ("/x/final", "/x/final", ["final#aaaaaaaa", "final#bbbbbbbb"]),
        ("final", "/x/final", ["final#aaaaaaaa", "x/final"]),
        ("run[1]/a*", "run[2]/a*", ["run[1]/a*", "run[2]/a*"]),
        ("1/[ab]", "2/[ab]", ["1/[ab]", "2/[ab]"]),
    ],
)
def test_other_weights_in_folders_of_one_name_are_two_entries(
    first: str, second: str, expected: list[str], tmp_path: Path
) -> None:
    model(tmp_path, first, A, 8)
    model(tmp_path, second, B, 6)
    assert labels(tmp_path) == expected


def test_one_model_in_two_places_is_one_entry(tmp_path: Path) -> None:
    model(tmp_path, "one/final", A, 8)
    model(tmp_path, "/mnt/copy/final", A, 8)
    assert labels(tmp_path) == ["final"]


def test_one_model_with_other_scores_is_a_mistake_that_says_what_to_do(tmp_path: Path) -> None:
    model(tmp_path, "one/final", A, 8)
    model(tmp_path, "two/final", A, 6)
    with pytest.raises(UserError, match=r"Two different runs of final .* another --label"):
        labels(tmp_path)


def test_files_of_one_name_are_two_methods_and_a_method_of_the_package_a_third(
    tmp_path: Path,
) -> None:
    for path, source, right in (("a/joint.py", A, 8), ("b/joint.py", B, 6), ("joint", "", 4)):
        folder = make_run(tmp_path, "joint", profile(right, 2, 2))
        rewrite(folder, method=path, source=source)
    assert labels(tmp_path) == ["a/joint", "b/joint", "joint"]


def spec(**changes: object) -> RunSpec:
    return replace(RunSpec("joint", "food101", "tiny", "S", 0), **changes)


def test_a_run_is_called_by_what_it_is_made_of_and_not_by_where_that_is() -> None:
    here = spec(method="a/opm.py", source="1", backbone="m/x", folders={"m/x": f"x#{A}"})
    there = spec(method="/b/opm.py", source="1", backbone="/n/x", folders={"/n/x": f"x#{A}"})
    assert here.id == there.id and here.id.startswith("opm-food101-x-S-s0-")
    other = [replace(here, source="2"), replace(here, folders={"m/x": f"x#{B}"})]
    assert len({here.id, *(spec.id for spec in other)}) == 3
    assert backbone_name(here) == backbone_name(there) == "x#aaaaaaaa"


def test_two_encoders_and_an_adapter_keep_no_path() -> None:
    folders = {"a+b/image": f"image#{A}", "b": f"b#{B}", "/data/run=3": f"run=3#{A}"}
    run = spec(backbone="a+b/image+b", backbone_options={"adapter": "/data/run=3"}, folders=folders)
    assert run.model == "image#aaaaaaaa+b#bbbbbbbb"
    assert run.model_options == {"adapter": "run=3#aaaaaaaa"}
    assert run.id.startswith("joint-food101-image+b-S-s0-")


def test_ids_without_files_and_folders_are_those_of_older_records() -> None:
    assert spec().id == "joint-food101-tiny-S-s0-" + spec().hash
    assert spec(backbone="org/image+org/text").id.startswith("joint-food101-image+text-S-s0-")


@pytest.mark.parametrize("name", ['a:b|c?"<>*\\', "x" * 300, "ü" * 120])
def test_a_runs_folder_can_be_written_on_any_system(name: str, tmp_path: Path) -> None:
    run = spec(backbone=f"m/{name}", folders={f"m/{name}": f"{name}#{A}"})
    assert not set('<>:"\\|?*') & set(run.id)
    (tmp_path / run.id).mkdir()
