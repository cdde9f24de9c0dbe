"""A model's folder is its content: the same wherever it is, another after any change."""

import shutil
from pathlib import Path

import pytest

from steelyard.harness.models import registry
from steelyard.harness.models.storage import folder_hash


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "one" / "checkpoint-500"
    path.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "vocab.txt", "chat_template.jinja"):
        (path / name).write_text(f'{{"name": "{name}"}}')
    return path


def content(name: str, **options: str) -> list[str]:
    return list(registry.folders(name, options).values())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt", "new.bin"])
def test_any_file_of_a_model_counts(folder: Path, name: str) -> None:
    before = folder_hash(folder)
    (folder / name).write_text('{"name": "another"}')
    assert folder_hash(folder) != before


def test_place_and_files_of_training_do_not_count(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shown,) = content(str(folder))
    copy = tmp_path / "[x] a+b=#1 %20 ü" / folder.name
    shutil.copytree(folder, copy)
    for name in ("trainer_state.json", "optimizer.bin", "README.md", ".DS_Store"):
        (copy / name).write_text("{}")
    (tmp_path / "latest").symlink_to(copy)
    monkeypatch.chdir(copy.parent)
    names = [str(copy), copy.name, f"./{copy.name}/", f"{copy.name}/../{copy.name}",
             str(tmp_path / "latest"), str(tmp_path / "latest" / ".")]  # fmt: skip
    assert [content(registry.as_typed(name)) for name in names] == [[shown]] * len(names)
    monkeypatch.chdir(copy)
    assert content(".") == [shown]
    monkeypatch.setenv("HOME", str(copy.parent))
    assert content(registry.as_typed(f"~/{copy.name}/")) == [shown]
    assert registry.read_options("x/y", {"adapter": "~/a=b/"}) == {
        "adapter": str(copy.parent / "a=b")
    }


def test_an_adapter_is_another_model_on_another_base(folder: Path, tmp_path: Path) -> None:
    found = set()
    for name in ("base", "other"):
        base = tmp_path / name
        shutil.copytree(folder, base)
        (base / "config.json").write_text(f'{{"of": "{name}"}}')
        adapter = tmp_path / f"on {name}" / "adapter"
        adapter.mkdir(parents=True)
        (adapter / "adapter_model.safetensors").write_text("same")
        (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
        found.update(content(str(adapter)))
        assert folder_hash(adapter) == folder_hash(tmp_path / "on base" / "adapter")
    assert len(found) == 2


@pytest.mark.parametrize("name", ["tiny", "tiny-vlm"])
def test_a_preset_is_none_of_the_folders_here(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rename(folder.parent / name)
    monkeypatch.chdir(folder.parent)
    assert content(name) == []
    assert content(f"./{name}")[0].startswith(f"{name}#")
    assert registry.kind_of(f"./{name}") == "vlm"


def test_a_trained_model_is_about_as_large_as_what_it_starts_from(folder: Path) -> None:
    size = (folder / "model.safetensors").stat().st_size
    assert registry.saved_bytes(str(folder), {"tune": "full"}) == size
    assert registry.saved_bytes(str(folder), {}) == 0  # an adapter
    assert registry.saved_bytes(f"{folder}+tiny", {}) == size
    assert registry.saved_bytes("tiny-vlm", {}) == 0
