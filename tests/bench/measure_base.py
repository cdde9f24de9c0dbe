"""Measure the tiny base model on the generated question sets, with and without the picture.

``python measure_base.py [--part val|test] [--seed N] [--base FOLDER] [--data CACHE]`` prints one
line per subset with the task's own metrics. Settings are chosen on ``val``; ``test`` is for
reporting.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.models.tiny_vlm import train
from steelyard.harness.runs.parallel import quiet_heavy_libraries
from steelyard.tasks.world import build

TASKS = ("prior_conflict", "pope", "vqa", "chair")
VIEWS = {"with image": "", "text-only": "@image-blank"}


def measure(base: Path, data: Path, part: str) -> None:
    """Print the table of one base model."""
    options = vlm_config.configure(str(base), {"tune": "full"})
    model = vlm_build.build(str(base), options, 0, "cpu").eval()
    for task in TASKS:
        corpus = tasks.load(task, build.ensure(build.WorldSpec(task, seed=1), data))
        for view, corruption in VIEWS.items():
            result = evaluate(model, tasks.parse_variant(task + corruption), corpus, split=part)
            subsets: defaultdict[str, list[str]] = defaultdict(list)
            for score in result.scores:
                values = subsets[f"{task} {score.subset}".strip()]
                values.append(f"{score.metric} {score.value:.3f} (n {score.n})")
            for subset, values in subsets.items():
                print(f"{view:10}  {subset:28} {'  '.join(values)}", flush=True)


def main() -> None:
    """Train the base model if there is none, and measure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("val", "test"), default="val")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    quiet_heavy_libraries()
    import_lmms_eval()
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        base = options.base or train.ensure(seed=options.seed, device="cpu")
        measure(base, options.data or Path(temporary), options.part)


if __name__ == "__main__":
    main()
