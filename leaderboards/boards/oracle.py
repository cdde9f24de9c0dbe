"""Runs whose settings test items chose: shown apart and greyed, in no rank and no comparison."""

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from steelyard.leaderboards.loading.collect import Run
from steelyard.leaderboards.output.escape import md

SAYING = (
    "Settings chosen by the test items themselves: what selection could have gained at most. Not "
    "ranked, not compared, and on no board."
)


def rows(runs: Sequence[Run]) -> list[tuple[str, str, str, float, int]]:
    """Trained on, entry, clean main metric of a task, its mean over seeds, number of seeds."""
    values: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for run in runs:
        for score in run.record.scores:
            if score.main and score.variant == "clean":
                key = (run.record.spec.task, run.record.label, f"{score.task} {score.metric}")
                values[key].append(score.value)
    return [(*key, fmean(found), len(found)) for key, found in sorted(values.items())]


def markdown(runs: Sequence[Run]) -> str:
    """A page of its own, grey where Markdown is shown with HTML."""
    lines = ["# Oracle", "", SAYING, "", "| trained on | entry | metric | mean | seeds |",
             "| --- | --- | --- | --: | --: |"]  # fmt: skip
    for task, label, metric, mean, seeds in rows(runs):
        cells = (md(task), md(label), md(metric), f"{100 * mean:.1f}", str(seeds))
        grey = (f'<span style="color:#888">{cell}</span>' for cell in cells)
        lines.append(f"| {' | '.join(grey)} |")
    return "\n".join(lines) + "\n"


def as_csv(runs: Sequence[Run]) -> str:
    """The same, unrounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trained_on", "label", "metric", "mean", "seeds"])
    for task, label, metric, mean, seeds in rows(runs):
        writer.writerow([task, label, metric, f"{mean:.10g}", seeds])
    return out.getvalue()
