"""Pick each method's settings from the records of ``steelyard run trials_vlm``, by validation.

``python tests/choose_settings.py RUNS`` prints every trial's composite on validation items and the
best trial of each method: the same number of trials for all, and no test item is looked at.
"""

import sys
from pathlib import Path

from steelyard.leaderboards.collect import collect
from steelyard.leaderboards.profile import build


def main(folder: Path) -> None:
    """Print the trials by method, the chosen one marked."""
    runs = collect([folder])
    splits = {run.record.provenance["data"]["split"] for run in runs.runs}
    if splits != {"val"}:
        sys.exit(f"{folder}: scored on {', '.join(sorted(splits))}, settings are chosen on val")
    board = build(runs, "instruct", control=None)
    composites = {row.label: row.composite.mean for row in board.rows}
    methods = dict.fromkeys(label.partition(" at ")[0] for label in composites)
    for method in sorted(methods):
        trials = {k: v for k, v in composites.items() if k.partition(" at ")[0] == method}
        best = max(trials, key=lambda label: trials[label])
        for label in sorted(trials):
            print(f"{'*' if label == best else ' '} {100 * trials[label]:5.1f}  {label}")
    for blank in board.blanks:
        print(f"  failed  {blank.label}: {blank.missing}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
