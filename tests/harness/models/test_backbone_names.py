"""What the name of a backbone means, whatever signs are in the names of folders."""

from pathlib import Path

import pytest

from steelyard.harness.models import registry
from steelyard.harness.models.classifier_config import encoders


@pytest.mark.parametrize("name", ["run+3/checkpoint-500", "a+b", "+", "x=1+2"])
def test_a_folder_is_one_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir(parents=True)
    assert encoders(name) is None and registry.kind_of(name) == "vlm"


def test_encoders_are_split_where_folders_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a+b/image", "c+d"):
        Path(folder).mkdir(parents=True)
    assert encoders("a+b/image+c+d") == ("a+b/image", "c+d")
    assert encoders("a+b/image+org/text") == ("a+b/image", "org/text")
    assert encoders("org/image+org/text") == ("org/image", "org/text")
    assert encoders("tiny+c+d") == ("tiny", "c+d")
    assert encoders("tiny") is None
