"""Fixtures of all tests: no network, one CPU thread, a small generated world, a base model."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pytest
from command import Command, typed

from steelyard.harness.core.compat import prepare_imports

prepare_imports()  # test modules import trl and transformers while they are collected

CLASSIFIED = ("food101", "hateful_memes", "mm_imdb")
ASKED = ("instruct", "pope", "vqa", "prior_conflict", "chair")


@pytest.fixture(scope="session", autouse=True)
def _light_and_quiet() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache_of_data_sets(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Set the cache of lmms-eval's data sets, which its library reads once."""
    os.environ["LMMS_EVAL_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that connects to another machine."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and str(address[0]) not in ("127.0.0.1", "::1"):
            raise OSError(f"tests may not connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield


@pytest.fixture(autouse=True)
def _runs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no worker unless a test asks for some: to import torch takes seconds."""
    from steelyard.harness.runs import parallel

    monkeypatch.setattr(parallel, "default_workers", lambda device: 0)


@contextmanager
def _fewer_to_validate() -> Iterator[None]:
    from steelyard.tasks.world import build

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "VALIDATION", 80)
        yield


@pytest.fixture(scope="module")
def short_validation() -> Iterator[None]:
    """Write generated sets with 80 validation items instead of 300, which is faster."""
    with _fewer_to_validate():
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small world of each task that is trained on or that suites score."""
    from steelyard.tasks.world import build

    root = tmp_path_factory.mktemp("world")
    with _fewer_to_validate():
        for task in (*CLASSIFIED, *ASKED):
            build.write(build.WorldSpec(task, train=240, test=80, seed=3), root / task)
    return root


@pytest.fixture
def steelyard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Return the command, to be called with words."""
    return lambda *words: typed(monkeypatch, capsys, words)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache folder that replaces the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build figures without rendering them, which takes most of the time of a board."""
    from steelyard.leaderboards.output import style

    monkeypatch.setattr(style, "_save", lambda figure: dict.fromkeys(style.KINDS, b""))


@pytest.fixture(scope="session")
def _base_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache folder that all workers of pytest-xdist share."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


@pytest.fixture
def short_base(_base_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a ``tiny-vlm`` that all workers share, trained shortly and only once."""
    from filelock import FileLock

    from steelyard.harness.models.tiny_vlm import train

    training = train.Training(
        vision_steps=300, vision_images=3000, text_steps=30, steps=200, images=1000, batch=64
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(_base_cache))
    monkeypatch.setattr(train, "Training", lambda: training)
    with FileLock(_base_cache / "base.lock"):
        return train.ensure(device="cpu")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Write records of three entries, two seeds, ten items."""
    from board_factory import make_run, profile

    for seed in (0, 1):
        make_run(tmp_path, "joint", profile(8, 2, 6 + seed), seed=seed)
        make_run(tmp_path, "fair", profile(8, 6, 6), seed=seed, flops=150.0)
        make_run(tmp_path, "poor", profile(4, 1, 1), seed=seed, flops=50.0)
    return tmp_path
