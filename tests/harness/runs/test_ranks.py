"""Ranks: two processes of torchrun train what one does, within one budget, and score the same."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from steelyard.harness.records import record
from steelyard.harness.records.record import Record

SCRIPT = Path(__file__).parents[2] / "fixtures" / "as_rank.py"
WORDS = "--backbone tiny-vlm --task instruct --seeds 0 --jobs 0"

pytestmark = pytest.mark.usefixtures("short_base")


@dataclass
class Result:
    """Run of a command, by one process or two."""

    record: Record
    folder: Path
    own: list[dict[str, Any]]
    """Ledger of each rank's own passes."""
    output: str

    def distance(self, other: "Result") -> float:
        """Return the largest difference of a weight."""
        files = sorted((self.folder / "weights").rglob("*.safetensors"))
        pairs = [
            (load_file(f), load_file(other.folder / f.relative_to(self.folder))) for f in files
        ]
        assert pairs
        return max(float((a[n] - b[n]).abs().max()) for a, b in pairs for n in a)


def start(
    count: int, folder: Path, words: str, script: Path = SCRIPT
) -> "subprocess.CompletedProcess[str]":
    """Start the command, by torchrun if it is several processes, and wait for its end."""
    (folder / "own").mkdir(parents=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    paths = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, *(torchrun if count > 1 else ()), script, folder / "own", *words.split()],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def ran(count: int, folder: Path, words: str) -> Result:
    """Run one run and return what came of it."""
    done = start(count, folder, f"run {words} {WORDS} --runs {folder / 'runs'}")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = record.find(folder / "runs")
    own = [json.loads((folder / "own" / f"{rank}.json").read_text()) for rank in range(count)]
    return Result(record.read(path), path, own, done.stdout)


def check(one: Result, two: Result) -> None:
    """Check that two ranks did the work of one process, and share a ledger."""
    ledger, alone = two.record.ledger, one.record.ledger
    assert one.record.status == two.record.status == "done", two.record.failure
    assert {own["steps"] for own in two.own} == {ledger.steps} == {alone.steps}
    assert (ledger.items, ledger.answers) == (alone.items, alone.answers)
    check_ledger(two)
    # Equal weights on both ranks are checked at the end of every run of several.
    assert one.distance(two) < 1e-4
    assert two.record.provenance["ranks"] == 2 and "ranks" not in one.record.provenance


def check_ledger(two: Result) -> None:
    """Check that the ledger is the sum of what each rank counted, and within the budget."""
    ledger = two.record.ledger
    assert len({own["steps"] for own in two.own}) == 1
    for phase, flops in ledger.flops.items():
        shares = [own["flops"].get(phase, 0.0) for own in two.own]
        assert sum(shares) == flops and max(shares) < 0.7 * flops
    assert ledger.audited and ledger.unposted < 0.01
    if ledger.limit_flops is not None:
        assert 0.8 * ledger.limit_flops < ledger.total_flops <= ledger.limit_flops


def test_two_ranks_train_and_score_as_one_process(world: Path, tmp_path: Path) -> None:
    roots = " ".join(f"--data-root {task}={world / task}" for task in ("instruct", "pope"))
    words = f"sft --budget 3e9 --limit 65 --evaluate pope {roots}"
    one, two = (ran(count, tmp_path / str(count), words) for count in (1, 2))
    check(one, two)
    tables = [path.name for path in one.folder.glob("items*.parquet")]
    assert len(tables) == 2
    for name in tables:  # weights differ by rounding, and no answer is that close
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()
    assert two.output.count("runs done") == 1  # rank 0 alone prints


@pytest.mark.heavy
@pytest.mark.parametrize(
    "words",
    [
        # On the data track, where the learning rate does not follow how rows are padded.
        "sft --budget 256",
        "dpo --budget 256",
        "dpo --budget 256 --set negatives=blank_image --set max_pairs=64",
        "mpo --budget 256 --backbone-set micro_batch_size=16",
        "kto --budget 256 --backbone-set micro_batch_size=16",
        "mdpo --budget 256 --backbone-set micro_batch_size=16",
        "grpo --budget 64 --set group=4",
        "grpo --budget 64 --set group=4 --set loss_type=dapo",
        "rloo --budget 64 --set group=4",
        "mbpo --budget 96 --set group=4 --set filters=same --set steps=3",
        "mcr --budget 256 --backbone-set micro_batch_size=16",
        "balgrad --budget 256 --backbone-set micro_batch_size=16",
        "modality_dropout --budget 256 --backbone-set micro_batch_size=16",
    ],
)
def test_each_kind_of_method_trains_on_two_ranks(words: str, tmp_path: Path) -> None:
    words = f"{words} --track data --limit 4"
    check(*(ran(count, tmp_path / str(count), words) for count in (1, 2)))


@pytest.mark.heavy
@pytest.mark.parametrize("words", ["grpo --budget 9.5e9", "mbpo --budget 4e10 --set filters=same"])
def test_ranks_whose_steps_differ_stop_together(words: str, tmp_path: Path) -> None:
    check_ledger(ran(2, tmp_path / "two", f"{words} --set group=4 --limit 4"))


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run joint --task food101 --seeds 0 --budget XS", "a classifier is trained by one"),
        ("run sft --backbone tiny-vlm --jobs 2", "--jobs 2: torchrun started 2 processes"),
        ("leaderboard", "'leaderboard' is one"),
        (f"run sft {WORDS} --budget 1e10 --backbone-set batch_size=7", "batch_size=8."),
    ],
)
def test_what_ranks_cannot_do_is_one_line(words: str, message: str, tmp_path: Path) -> None:
    done = start(2, tmp_path / "out", words + f" --runs {tmp_path}" * words.startswith("run"))
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0], done.stderr
    assert done.returncode == 1


@pytest.mark.heavy
def test_301_items_of_two_variants_have_equal_tables(tmp_path: Path) -> None:
    words = "evaluate tiny-vlm pope pope@image-noise:3 prior_conflict --limit 301"
    for count in (1, 2):
        done = start(count, tmp_path / str(count), f"{words} --out {tmp_path / str(count) / 'r'}")
        assert done.returncode == 0, done.stdout + done.stderr
    (one,), (two,) = (record.find(tmp_path / str(count) / "r") for count in (1, 2))
    names = {path.name for path in one.glob("items*.parquet")}
    assert names and names == {path.name for path in two.glob("items*.parquet")}
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert record.read(one).scores == record.read(two).scores


ALONE = """
import os
from steelyard.harness.core import ranks
ranks.LONE_SECONDS = 2.0
ranks.adopt(dict(os.environ))
ranks.connect()
ranks.meet("of all")
ranks.meet("of rank {rank}") if ranks.rank() == {rank} else ranks.gather(0)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_alone_ends_all(rank: int, tmp_path: Path) -> None:
    script = tmp_path / "alone.py"
    script.write_text(ALONE.format(rank=rank))
    done = start(2, tmp_path, "", script)
    assert done.returncode == 1
    assert f"error: rank {rank} alone: of rank {rank}\n" in done.stderr
    assert "of all" not in done.stderr
