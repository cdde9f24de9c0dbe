"""Folders in the layouts that the command reads, and the words that read them."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import mme_files
import naturalbench_files
import question_files
import tiny_vlms
from checked import questions
from fuzz.attempt import attempt
from fuzz.mutate import NASTY

from steelyard.harness.cli.main import cli
from steelyard.harness.records.record import checksum
from steelyard.harness.runs import tuning
from steelyard.tasks.world import build

Words = Sequence[str]
SUITE = """\
about: two methods
tasks: [food101]
seeds: [0, 1]
backbone: tiny
budget: XS
limit: 20
corruptions: [image-blank, image-noise]
methods:
  - joint
  - {method: mcr, label: weak game, options: {mipd: 0.01}}
"""


@dataclass(frozen=True, slots=True)
class Target:
    """Kind of input: how a valid one is written, and the commands that read it."""

    write: Callable[[Path], object]
    commands: tuple[Words, ...]
    """``{}`` stands for the folder."""
    named: str = ""
    """What messages may name in place of the changed file."""


def _world(task: str) -> Callable[[Path], object]:
    def write(root: Path) -> None:
        build.write(build.WorldSpec(task, train=24, test=16, size=24), root)
        # Without them the folder is somebody's and not the generator's.
        (root / build.MARKER).unlink()
        (root / "truth.jsonl").unlink(missing_ok=True)

    return write


def _checked(task: str, write: Callable[[Path], object] | None = None) -> Target:
    command = ("check", task, "--data-root", "{}/data", "--out", "{}/card")
    # With many unusable rows allowed, what is left out has to be counted.
    commands = (command, (*command, "--max-bad", "0.9"))
    return Target(lambda folder: (write or _world(task))(folder / "data"), commands)


def _write_conversations(root: Path) -> None:
    rows = []
    for number, colour in enumerate(("red", "green", "blue", "grey")):
        question, image = (
            f"<image>\nIs {number} red?",
            question_files.picture(root / f"{colour}.png"),
        )
        turns = ("human", question), ("gpt", colour)
        rows += [
            {
                "image": image.name,
                "conversations": [{"from": name, "value": text} for name, text in turns],
            },
            {"images": [image.name], "prompt": question, "chosen": colour, "rejected": "none"},
        ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "train.jsonl").write_text(text, encoding="utf-8")


RECORDS = Path(__file__).parents[2] / "leaderboards" / "records" / "food101_photos"
RUNS = (
    "joint-food101-efficientnet-lite0+minilm-l6-9e11-s0-115d0eea",
    "mcr-food101-efficientnet-lite0+minilm-l6-9e11-s0-c58a4648",
)


def _write_runs(folder: Path) -> None:
    for name in RUNS:
        shutil.copytree(RECORDS / name, folder / "data" / name)


def _write_suite(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "mine.yaml").write_text(SUITE, encoding="utf-8")


def _write_tuning(folder: Path) -> None:
    _write_suite(folder)
    trial = {"options": {}, "learning_rate": 1e-3, "score": 0.5}
    entry = {
        "label": "joint", "method": "joint", "chosen": 0, "oracle": None, "hash": "0" * 16,
        "trials": [trial], "ledger": {"steps": 9, "flops": {"tuning": 1.0}, "seconds": {}},
    }  # fmt: skip
    content = {
        "schema": tuning.SCHEMA, "suite": "mine", "backbone": "tiny", "backbone_options": {},
        "tasks": ["food101"], "rule": "balanced", "entries": [entry], "trials": 1, "seed": 0,
        "budget": "XS", "track": "compute", "wall": None, "split": "val",
    }  # fmt: skip
    content["seal"] = checksum(content)
    (folder / "data" / "tuning.json").write_text(json.dumps(content), encoding="utf-8")


def _write_archive(folder: Path) -> None:
    questions(folder / "pope")
    shutil.make_archive(str(folder / "data" / "pope"), "zip", folder / "pope")
    shutil.rmtree(folder / "pope")


def _write_answers(folder: Path) -> None:
    data = questions(folder / "pope")
    items = folder / "items"
    attempt(("items", "pope", "--out", str(items), "--data-root", str(data)), folder)
    rows = map(json.loads, (items / "items.jsonl").read_text(encoding="utf-8").splitlines())
    answers = ({"id": row["id"], "hash": row["hash"], "answer": "Yes."} for row in rows)
    (folder / "data").mkdir()
    text = "".join(json.dumps(answer) + "\n" for answer in answers)
    (folder / "data" / "answers.jsonl").write_text(text, encoding="utf-8")


def _write_checkpoint(folder: Path) -> None:
    questions(folder / "pope")
    tiny_vlms.make("llava", folder / "data" / "model")


RUN = ("run", "{}/data/mine.yaml", "--dry-run", "--runs", "{}/runs")
POPE = ("--data-root", "{}/pope")
TARGETS: dict[str, Target] = {
    "pope": _checked("pope", questions),
    "hateful_memes": _checked("hateful_memes"),
    "food101": _checked("food101"),
    "mm_imdb": _checked("mm_imdb"),
    "instruct": _checked("instruct"),
    "conversations": _checked("instruct", _write_conversations),
    "vqav2": _checked("vqav2", question_files.write_vqa),
    "gqa": _checked("gqa", question_files.write_gqa),
    "textvqa": _checked("textvqa", question_files.write_textvqa),
    "scienceqa": _checked("scienceqa", question_files.write_scienceqa),
    "mme": _checked("mme", lambda root: mme_files.write(root, {"color": 2, "OCR": 1})),
    "naturalbench": _checked(
        "naturalbench",
        lambda root: naturalbench_files.write(root, [naturalbench_files.group(n) for n in (0, 1)]),
    ),
    "suite": Target(_write_suite, (RUN,)),
    "tuning": Target(_write_tuning, ((*RUN, "--tuned", "{}/data/tuning.json"),)),
    "records": Target(
        _write_runs,
        (
            ("validate", "{}/data"),
            ("show", f"{{}}/data/{RUNS[0]}"),
            ("compare", *(f"{{}}/data/{name}" for name in RUNS)),
        ),
    ),
    "archive": Target(
        _write_archive, (("data", "pope", "--from", "{}/data/pope.zip", "--to", "{}/new"),)
    ),
    "checkpoint": Target(
        _write_checkpoint,
        (("evaluate", "{}/data/model", "pope", "--limit", "2", "--out", "{}/runs", *POPE),),
        named="model",
    ),
    "answers": Target(
        _write_answers,
        (("score", "{}/data/answers.jsonl", "pope", "--out", "{}/runs", *POPE),),
    ),
}  # fmt: skip

HARMLESS = ("show", "list", "check", "compare", "validate", "leaderboard", "score", "answers")
"""Commands that take no long time, whatever their words."""


def random_words(rng: random.Random) -> list[str]:
    """Return a command with random options, values and files."""
    name = rng.choice(HARMLESS if rng.random() < 0.7 else list(cli.commands))
    words = [name]
    for parameter in rng.sample(
        cli.commands[name].params, k=min(3, len(cli.commands[name].params))
    ):
        value = rng.choice((*NASTY[:-1], "pope", "0", "1", "joint", "runs", "tiny", "a,b", "x:y"))
        value = value.replace("\0", "")  # which no shell can pass
        if isinstance(parameter, click.Option):
            words.append(rng.choice(parameter.opts))
            if not parameter.is_flag:
                words.append(value)
        else:
            words.append(value)
    if name not in HARMLESS:
        words += ["--nonsense"]
    return words
