"""A reliance profile as a sentence a task, and as Markdown, CSV, JSON or a terminal table."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.leaderboards.output.escape import md
from steelyard.leaderboards.output.files import exact, json_text, members, write_files
from steelyard.leaderboards.output.sheet import Cell, Sheet, bullets, sheet_markdown
from steelyard.leaderboards.reliance.numbers import (
    CONFLICTS,
    GROUPS,
    NUMBERS,
    SHARES,
    Diagnosis,
    Part,
)
from steelyard.leaderboards.reliance.plots import picture

if TYPE_CHECKING:
    from rich.table import Table

NAME = "diagnosis"
SCHEMA = 1
UNUSED = 0.02
"""A side whose gain's interval ends below this, blank and shuffled, counts as not used."""
RULE_OF_THREE = 3
"""Events that n trials without any can still hide, at 95 %: a rate of 3 / n."""

RULES = (
    "Numbers are percentages with half of the 95 % interval, over resampled items that share no "
    "image or other cluster, and over training seeds where there are several. Where all n items "
    "agree the interval has no width, yet a share of 3 / n could hide; the verdicts allow for it.",
    "Without a side: it is blanked, in the backbone's own sense. With another item's: it is taken "
    "from a random item whose content differs, several times over. Blanking asks what happens when "
    "the side is missing, which few models were trained for; the other whether it is looked at. "
    "The verdicts go by the second.",
    f"A side is used where the interval of what it adds over another item's lies above 0. It is "
    f"not used where that interval, and the one for blanking, end below {100 * UNUSED:.0f} points. "
    "Everything else is said to be unclear.",
    "Conflict items are those where text and image suggest different answers: "
    + "; ".join(f"{kind}: {what}" for kind, what in CONFLICTS.items())
    + ". The two shares need not sum to 100, for other answers are possible.",
    "Error groups part the items by which side alone is answered rightly, the other blanked.",
    "Information gain is the log-likelihood a token of the right answer minus that without the "
    "image, in nats. The additive gap is what a classifier loses when its sides are only added up "
    "(EMAP). Lean by answers is the share of answers that survive the image's loss minus those "
    "that survive the text's; it is ours, in the manner of comparing predictions with those on "
    "incomplete input (arXiv 2505.18657), not that paper's ratio. Lean by Shapley values is "
    "(phi text - phi image) / (|phi text| + |phi image|).",
)


def write(diagnosis: Diagnosis, out: Path) -> list[Path]:
    """Write page, tables and picture into ``out``; return their paths, the page first."""
    pictures = picture(NAME, diagnosis)
    contents = {
        f"{NAME}.md": markdown(diagnosis, f"{NAME}.svg" if pictures else "").encode(),
        f"{NAME}.csv": as_csv(diagnosis).encode(),
        f"{NAME}.json": as_json(diagnosis).encode(),
        **pictures,
    }
    return write_files(out, contents)


def verdict(part: Part) -> str:
    """One sentence for a person who has no time for the table."""
    if "score.full" not in part.numbers:
        return f"no answer on which {part.metric} could be counted."
    said = [_use(part, "image"), _unmoved(part, "image")]
    if part.conflict == "misleading":
        said += [_use(part, "text"), _unmoved(part, "text")]
    said += [_conflict(part), _interaction(part)]
    return "; ".join(text for text in said if text) + "."


def state(part: Part, modality: str) -> str:
    """``used``, ``not used``, or ``unclear`` where the items do not decide."""
    blank, shuffled = (part.numbers[f"gain.{modality}.{way}"] for way in ("blank", "shuffled"))
    if shuffled.low > 0:
        return "used"
    hidden = RULE_OF_THREE / part.clusters
    highest = max(each.mean + max(each.half, hidden) for each in (blank, shuffled))
    return "not used" if highest < UNUSED else "unclear"


def _use(part: Part, modality: str) -> str:
    if not {f"gain.{modality}.blank", f"gain.{modality}.shuffled"} <= part.numbers.keys():
        return f"nothing to count without the {modality}"
    shuffled = part.numbers[f"gain.{modality}.shuffled"]
    cost = f"{100 * shuffled.mean:+.1f} ± {100 * shuffled.half:.1f} points over another item's"
    found = state(part, modality)
    if found == "unclear":
        return f"{part.items} items do not show whether it uses the {modality} ({cost})"
    return f"{'uses' if found == 'used' else 'does not use'} the {modality} ({cost})"


def _unmoved(part: Part, modality: str) -> str:
    if "same.image.blank" not in part.numbers:
        return ""  # free answers: hardly two are the same
    left = "text" if modality == "image" else "image"
    return f"answers {_percent(part, f'same.{left}.blank')} the same without it"


def _conflict(part: Part) -> str:
    if not part.conflict:
        return ""
    where = {
        "habit": "where the picture breaks the habit it gives the usual answer",
        "misleading": "with the text of another class it follows the text",
        "blind": "where its answer without the image is wrong it keeps that answer",
    }[part.conflict]
    by_text, by_image = (_percent(part, f"conflict.{modality}") for modality in ("text", "image"))
    return f"{where} in {by_text} and the image in {by_image}"


def _interaction(part: Part) -> str:
    gap = part.numbers.get("additive.gap")
    if gap is None or gap.low <= 0:
        return ""
    return f"{100 * gap.mean:.1f} ± {100 * gap.half:.1f} points come from image and text together"


def _percent(part: Part, name: str) -> str:
    return f"{100 * part.numbers[name].mean:.1f} %"


def sheets(found: Diagnosis) -> tuple[Sheet, ...]:
    """What every view scores, what moves, where errors lie, and what else was measured."""
    return (_scores(found), _moves(found), _groups(found), _more(found))


def _scores(found: Diagnosis) -> Sheet:
    columns = {
        "image and text": "score.full",
        "no image": "score.text.blank",
        "other image": "score.text.shuffled",
        "no text": "score.image.blank",
        "other text": "score.image.shuffled",
        "neither": "score.neither.blank",
        "both others'": "score.neither.shuffled",
    }
    rows = [
        (str(part.items), part.name, f"{part.metric}{'' if part.higher_is_better else ' ↓'}",
         *(_cell(part, name) for name in columns.values()))
        for part in found.parts
    ]  # fmt: skip
    return _sheet("Score by what is shown", ("items", "task", "score", *columns), rows)


def _moves(found: Diagnosis) -> Sheet:
    columns = {
        "image adds (no image)": "gain.image.blank",
        "image adds (other image)": "gain.image.shuffled",
        "text adds (no text)": "gain.text.blank",
        "text adds (other text)": "gain.text.shuffled",
        "same without image": "same.text.blank",
        "same, other image": "same.text.shuffled",
        "same without text": "same.image.blank",
        "same, other text": "same.image.shuffled",
    }
    rows = [
        (str(part.items), part.name, *(_cell(part, name) for name in columns.values()))
        for part in found.parts
    ]
    title = "What each side adds, and how often the answer stays"
    return _sheet(title, ("items", "task", *columns), rows)


def _groups(found: Diagnosis) -> Sheet:
    names = list(GROUPS.values())
    header = [f"{name} alone right" if name in ("text", "image") else name for name in names]
    rows = [
        (str(part.items), part.name, *(_group(part, name) for name in names))
        for part in found.parts
        if "group.both.share" in part.numbers
    ]
    title = "Share of items by which side alone is right, and the full score inside"
    return _sheet(title, ("items", "task", *header), rows)


def _group(part: Part, name: str) -> str:
    share, inside = _cell(part, f"group.{name}.share"), _cell(part, f"group.{name}.score")
    return f"{share}: {inside or 'none'}"


def _more(found: Diagnosis) -> Sheet:
    columns = {
        "follows text": "conflict.text",
        "follows image": "conflict.image",
        "information gain": "information.image",
        "additive gap": "additive.gap",
        "lean, answers": "lean.answers",
        "lean, Shapley": "lean.shapley",
    }
    rows = [
        (f"{part.conflicts} {part.conflict}" if part.conflict else "none", part.name,
         *(_cell(part, name) for name in columns.values()))
        for part in found.parts
    ]  # fmt: skip
    return _sheet("Conflict, information and lean", ("conflict items", "task", *columns), rows)


def _sheet(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Sheet:
    return Sheet(title, tuple(header), tuple(tuple(map(Cell, row)) for row in rows))


def _cell(part: Part, name: str) -> str:
    """Mean and half the interval; blank where the number does not exist."""
    each = part.numbers.get(name)
    if each is None:
        return ""
    sign = "+" if name.startswith(("gain.", "lean.", "information.", "additive.gap")) else ""
    if name in SHARES:
        return f"{100 * each.mean:{sign}.1f} ± {100 * each.half:.1f}"
    return f"{each.mean:{sign}.2f} ± {each.half:.2f}"


def markdown(found: Diagnosis, picture: str = "") -> str:
    """The whole profile as one page, the verdicts first."""
    parts = [f"# What {md(found.model)} relies on"]
    parts += bullets("", [f"{part.name}: {verdict(part)}" for part in found.parts])
    parts += [f"![reliance profile]({picture})"] if picture else []
    for sheet in sheets(found):
        if sheet.rows:
            parts.append(f"## {sheet.title}\n\n{sheet_markdown(sheet)}")
    parts += bullets("## How to read this\n\n", RULES)
    parts += bullets("## How it was asked\n\n", [f"{k}: {v}" for k, v in found.settings.items()])
    return "\n\n".join(parts) + "\n"


def as_csv(found: Diagnosis) -> str:
    """One line a number, unrounded, with what it is."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["task", "subset", "score", "number", "mean", "low", "high", "about"])
    for part in found.parts:
        for name, each in part.numbers.items():
            values = [exact(value) for value in (each.mean, each.low, each.high)]
            table.writerow([part.task, part.subset, part.metric, name, *values, NUMBERS[name]])
    return out.getvalue()


def as_json(found: Diagnosis) -> str:
    """Everything, machine-readable."""
    parts = [{**members(part), "verdict": verdict(part)} for part in found.parts]
    content = {"schema": SCHEMA, "model": found.model, "settings": dict(found.settings)}
    return json_text({**content, "parts": parts, "numbers": NUMBERS})


def terminal(found: Diagnosis) -> "Table":
    """The main numbers and the verdict of each task."""
    from rich import box
    from rich.table import Table

    columns = {
        "full": "score.full",
        "blind": "score.text.blank",
        "no text": "score.image.blank",
        "neither": "score.neither.blank",
        "adds": "gain.image.shuffled",
        "same": "same.text.blank",
        "to text": "conflict.text",
    }
    table = Table(box=box.SIMPLE_HEAD, title=f"What {found.model} relies on", padding=(0, 0, 0, 1))
    table.add_column("task", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for part in found.parts:
        shown = (part.numbers.get(name) for name in columns.values())
        means = ("" if each is None else f"{100 * each.mean:.0f}" for each in shown)
        table.add_row(part.name, *means)
    table.caption = (
        "%. blind: no image; adds: the image over another item's; same: answers that stay without "
        "the image; to text: conflicts that follow the text"
    )
    return table
