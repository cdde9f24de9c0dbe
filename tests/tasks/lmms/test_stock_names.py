"""Names of lmms-eval's tasks: found without importing it, as it would find them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.errors import UserError
from steelyard.tasks._lmms import stock

TASK = """
task: {name}
dataset_path: nowhere/none
test_split: test
doc_to_visual: !function fns.visual
doc_to_text: question
doc_to_target: answer
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of task files and include it."""
    monkeypatch.delenv(stock.FOLDERS_VARIABLE, raising=False)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "mine.yaml").write_text(TASK.format(name="mine"))
    stock.include([folder])
    monkeypatch.setenv(stock.FOLDERS_VARIABLE, os.environ[stock.FOLDERS_VARIABLE])
    return folder


def test_the_index_is_that_of_lmms_eval() -> None:
    import_lmms_eval()
    from lmms_eval.tasks import TaskManager

    theirs = TaskManager().task_index
    ours = stock.index(())
    kinds = {
        name: "task" if v["type"] == "python_task" else v["type"] for name, v in theirs.items()
    }
    assert {name: result.kind for name, result in ours.items()} == kinds
    for name, result in ours.items():
        if result.kind == "tag":
            assert set(result.members) == set(theirs[name]["task"])


def test_looking_names_up_imports_nothing_heavy() -> None:
    script = (
        "import sys; from steelyard import tasks; tasks.find('mmstar');"
        "heavy = {'torch', 'transformers', 'lmms_eval', 'datasets'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_ours_goes_before_theirs_and_a_prefix_forces_theirs() -> None:
    assert tasks.find("pope") == ["pope"]
    assert tasks.find("stock/pope") == ["stock/pope"]
    assert tasks.find("mmstar") == tasks.find("stock/mmstar") == ["stock/mmstar"]
    assert tasks.definition("pope") != stock.definition("stock/pope")


def test_groups_and_tags_stand_for_their_members(user_folder: Path) -> None:
    assert tasks.find("pope_full") == ["stock/pope_adv", "stock/pope_pop", "stock/pope_random"]
    assert "stock/mmstar" in tasks.find("public_eval_qwen3_5_family")  # a tag
    (user_folder / "other.yaml").write_text(TASK.format(name="other") + "tag: [few, all_of_mine]\n")
    (user_folder / "many.yaml").write_text(
        "group: many\ntask: [few, mine, {group: inner, task: [mine, pope_pop]}]\n"
    )
    stock.index.cache_clear()
    assert tasks.find("many") == ["stock/other", "stock/mine", "stock/pope_pop"]
    assert tasks.find("all_of_mine") == ["stock/other"]


def test_a_group_that_changes_or_lacks_a_member_is_refused(user_folder: Path) -> None:
    (user_folder / "set.yaml").write_text("group: set\ntask: [{task: mine, num_fewshot: 2}]\n")
    (user_folder / "gone.yaml").write_text("group: gone\ntask: [mine, vanished]\n")
    stock.index.cache_clear()
    with pytest.raises(UserError, match="The group set changes its member mine"):
        tasks.find("set")
    with pytest.raises(UserError, match="The group gone names 'vanished', which is no task"):
        tasks.find("gone")


def test_a_task_of_ones_own_goes_before_theirs_of_the_same_name(user_folder: Path) -> None:
    (user_folder / "mmstar.yaml").write_text("include: mine.yaml\ntask: mmstar\n")
    stock.index.cache_clear()
    assert stock.definition("stock/mmstar") == user_folder / "mmstar.yaml"
    assert stock.files("stock/mmstar") == [user_folder / "mmstar.yaml", user_folder / "mine.yaml"]
    (user_folder / "fns.py").write_text("")
    assert stock.files("stock/mmstar")[-1] == user_folder / "fns.py"


def test_a_name_that_two_files_of_ones_own_define_is_refused(
    user_folder: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "other.yaml").write_text(TASK.format(name="other") + "tag: few\n")
    (user_folder / "third.yaml").write_text(TASK.format(name="third") + "tag: few\n")
    stock.include([second, user_folder, tmp_path])  # the last holds both
    assert tasks.find("few") == ["stock/third", "stock/other"]
    for folder in (second, user_folder):
        again = folder / "again.yaml"
        again.write_text(TASK.format(name="mine"))
        stock.index.cache_clear()
        with pytest.raises(UserError, match=r"define 'mine': .*\.yaml and .*\.yaml\. Rename one"):
            tasks.find("other")
        again.unlink()


def test_mistakes_in_names_and_folders(user_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'mmstarr'\. Did you mean 'mmstar'\? Known: .*pope.*names of lmms-eval"
    ):
        tasks.find("mmstarr")
    with pytest.raises(UserError, match=r"'stock/popee'\. Did you mean 'stock/pope'"):
        tasks.find("stock/popee")
    with pytest.raises(UserError, match=r"no folder at .*nowhere"):
        stock.include([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no task file \(\*\.yaml\) under .*empty"):
        stock.include([tmp_path / "empty"])
    (user_folder / "broken.yaml").write_text("task: [broken\n")
    stock.index.cache_clear()
    with pytest.raises(UserError, match=r"broken\.yaml:2: not valid YAML"):
        tasks.find("mine")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("stock/seedbench_ppl", "needs multiple_choice, and only generate_until .* 0.7.3 scores"),
        ("stock/mmlu_pro_biology", "has no images: it asks about text only"),
        ("stock/videomme", "is about video"),
        ("stock/vstat", "is about video"),
        ("stock/mmmu_val_pass64", "is not supported: it has a class"),
        ("stock/unig2u_chartqa100_visual_cot", "needs generate_visual_cot, and only"),
        (
            "stock/mmbench_cn_cc",
            "needs gpt-3.5-turbo-0613 over the network to judge its answers: set OPENAI",
        ),
        ("stock/pope_full", "have no task"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_read(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in stock.JUDGE_KEYS:
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(UserError, match=reason):
        tasks.load(name, Path())


def test_text_is_not_corrupted_where_no_text_is_declared() -> None:
    for corruption in (
        "text-blank",
        "text-noise:3",
        "image-noise:2+text-shuffle",
        "both-missing:30",
    ):
        with pytest.raises(UserError, match="does not declare which part of a prompt is text"):
            tasks.parse_variant(f"stock/mmstar@{corruption}")
    assert str(tasks.parse_variant("stock/mmstar@image-noise")) == "stock/mmstar@image-noise:3"
    with pytest.raises(UserError, match="Did you mean 'image-noise'"):
        tasks.parse_variant("stock/mmstar@image-noize")
