"""Write a reliance profile as verdicts, Markdown, CSV, JSON and a terminal table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.leaderboards.output.files import exact, members, write_files
from steelyard.leaderboards.output.report import Report, ReportPart
from steelyard.leaderboards.output.sheet import Sheet, sheet_terminal, text_sheet
from steelyard.leaderboards.reliance.numbers import (
    CONFLICTS,
    GROUPS,
    NUMBERS,
    PERCENTAGES,
    Diagnosis,
    TaskReliance,
)
from steelyard.leaderboards.reliance.plots import picture
from steelyard.leaderboards.stats.intervals import Interval

if TYPE_CHECKING:
    from rich.table import Table

NAME = "diagnosis"
SCHEMA = 1
UNUSED = 0.02
"""A modality is not used if the intervals of its gains, blank and shuffled, end below this."""
RULE_OF_THREE = 3
"""Without an event in n trials, the rate can still be up to 3 / n, at 95 %."""

RULES = (
    "Numbers are percentages with half of the 95 % interval, over resampled items that share no "
    "image or other cluster, and over training seeds where there are several. If all n items "
    "agree, the interval has no width, although a rate of up to 3 / n is possible; the verdicts "
    "allow for it.",
    "Without a modality: it is blanked, as the backbone defines it. With another item's: it is "
    "taken from a random item with other content, several times. Blanking tests a missing "
    "modality, which few models were trained for; another item's tests whether the model looks "
    "at it. The verdicts use the second.",
    "A modality is used if the interval of its gain over another item's is above 0. It is not "
    f"used if that interval and the one for blanking end below {100 * UNUSED:.0f} points. "
    "Everything else is unclear.",
    "Conflict items are those where text and image suggest different answers: "
    + "; ".join(f"{kind}: {meaning}" for kind, meaning in CONFLICTS.items())
    + ". The two fractions need not sum to 100, because other answers are possible.",
    "Error groups split the items by the modality that alone gives the right answer, with the "
    "other one blanked.",
    "Information gain is the log-likelihood per token of the right answer minus that without the "
    "image, in nats. The additive gap is what a classifier loses when its modalities are only "
    "added up (EMAP). Lean by answers is the fraction of answers that stay without the image "
    "minus those that stay without the text; it is our own, similar to comparing predictions "
    "with those on incomplete input (arXiv 2505.18657), but not that paper's ratio. Lean by "
    "Shapley values is (phi text - phi image) / (|phi text| + |phi image|).",
)


def write(diagnosis: Diagnosis, out: Path) -> list[Path]:
    """Write page, tables and picture into ``out``; return their paths, the page first."""
    pictures = picture(NAME, diagnosis)
    contents = report(diagnosis, [f"{NAME}.svg"] if pictures else []).files()
    return write_files(out, contents | pictures)


def verdict(part: TaskReliance) -> str:
    """Summarise a task in one sentence."""
    if "score.full" not in part.numbers:
        return f"no answer that {part.metric} can be computed on."
    clauses = [_use(part, "image"), _unchanged(part, "image")]
    if part.conflict == "misleading":
        clauses += [_use(part, "text"), _unchanged(part, "text")]
    clauses.append(_conflict(part))
    gap = part.numbers.get("additive.gap")
    if gap is not None and gap.low > 0:
        together = f"{100 * gap.mean:.1f} ± {100 * gap.half:.1f} points"
        clauses.append(f"{together} come from image and text together")
    return "; ".join(clause for clause in clauses if clause) + "."


def state(part: TaskReliance, modality: str) -> str:
    """Return ``used``, ``not used``, or ``unclear`` if the items do not decide."""
    blank, shuffled = (part.numbers[f"gain.{modality}.{way}"] for way in ("blank", "shuffled"))
    # Another item's input decides: a gain over a blank may only show that blanks are unusual.
    if shuffled.low > 0:
        return "used"
    # Items that all agree give an interval without width; an effect this large can still hide.
    hidden = RULE_OF_THREE / part.clusters
    highest = max(gain.mean + max(gain.half, hidden) for gain in (blank, shuffled))
    return "not used" if highest < UNUSED else "unclear"


def _use(part: TaskReliance, modality: str) -> str:
    if not {f"gain.{modality}.blank", f"gain.{modality}.shuffled"} <= part.numbers.keys():
        return f"no score without the {modality}"
    shuffled = part.numbers[f"gain.{modality}.shuffled"]
    gain = f"{100 * shuffled.mean:+.1f} ± {100 * shuffled.half:.1f} points over another item's"
    use = state(part, modality)
    if use == "unclear":
        return f"{part.items} items do not show whether it uses the {modality} ({gain})"
    return f"{'uses' if use == 'used' else 'does not use'} the {modality} ({gain})"


def _unchanged(part: TaskReliance, modality: str) -> str:
    if "same.image.blank" not in part.numbers:
        return ""  # free answers: hardly two are equal
    remaining = "text" if modality == "image" else "image"
    return f"keeps {_percent(part, f'same.{remaining}.blank')} of its answers without it"


def _conflict(part: TaskReliance) -> str:
    if not part.conflict:
        return ""
    clause = {
        "prior": "where the image contradicts the language prior it gives the prior's answer",
        "misleading": "with the text of another class it follows the text",
        "text_only": "where its answer without the image is wrong it keeps that answer",
    }[part.conflict]
    by_text, by_image = (_percent(part, f"conflict.{modality}") for modality in ("text", "image"))
    return f"{clause} in {by_text} and follows the image in {by_image}"


def _percent(part: TaskReliance, name: str) -> str:
    return f"{100 * part.numbers[name].mean:.1f} %"


def sheets(diagnosis: Diagnosis) -> tuple[Sheet, ...]:
    """Return tables of scores, gains and unchanged answers, error groups, and the other numbers."""
    return (_scores(diagnosis), _gains(diagnosis), _groups(diagnosis), _more(diagnosis))


def _scores(diagnosis: Diagnosis) -> Sheet:
    columns = {
        "image and text": "score.full",
        "no image": "score.text.blank",
        "other image": "score.text.shuffled",
        "no text": "score.image.blank",
        "other text": "score.image.shuffled",
        "neither": "score.neither.blank",
        "other image and text": "score.neither.shuffled",
    }
    rows = [
        (str(part.items), part.name, f"{part.metric}{'' if part.higher_is_better else ' ↓'}",
         *(_cell(part, name) for name in columns.values()))
        for part in diagnosis.parts
    ]  # fmt: skip
    return text_sheet("Score by visible modality", ("items", "task", "score", *columns), rows)


def _gains(diagnosis: Diagnosis) -> Sheet:
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
        for part in diagnosis.parts
    ]
    title = "Gain from each modality, and how often the answer stays"
    return text_sheet(title, ("items", "task", *columns), rows)


def _groups(diagnosis: Diagnosis) -> Sheet:
    names = list(GROUPS.values())
    header = [f"{name} alone right" if name in ("text", "image") else name for name in names]
    rows = []
    for part in diagnosis.parts:
        if "group.both.share" in part.numbers:
            fractions = [_cell(part, f"group.{name}.share") for name in names]
            scores = [_cell(part, f"group.{name}.score") or "none" for name in names]
            cells = (f"{f}: {score}" for f, score in zip(fractions, scores, strict=True))
            rows.append((str(part.items), part.name, *cells))
    title = "Fraction of items by the modality that alone is right, and the full score inside"
    return text_sheet(title, ("items", "task", *header), rows)


def _more(diagnosis: Diagnosis) -> Sheet:
    columns = {
        "follows text": "conflict.text",
        "follows image": "conflict.image",
        "information gain": "information.image",
        "additive gap": "additive.gap",
        "lean, answers": "lean.answers",
        "lean, Shapley": "lean.shapley",
    }
    rows = [
        (f"{part.conflicts} {part.conflict}".replace("_", " ") if part.conflict else "none",
         part.name,
         *(_cell(part, name) for name in columns.values()))
        for part in diagnosis.parts
    ]  # fmt: skip
    return text_sheet("Conflict, information and lean", ("conflict items", "task", *columns), rows)


def _cell(part: TaskReliance, name: str) -> str:
    signed = name.startswith(("gain.", "lean.", "information.", "additive.gap"))
    return mean_and_half(part.numbers.get(name), name, "+" if signed else "")


def mean_and_half(interval: Interval | None, name: str, sign: str = "") -> str:
    """Return mean and half the interval; blank if the number does not exist."""
    if interval is None:
        return ""
    scale, digits = (100, 1) if name in PERCENTAGES else (1, 2)
    return f"{scale * interval.mean:{sign}.{digits}f} ± {scale * interval.half:.{digits}f}"


def report(diagnosis: Diagnosis, pictures: Sequence[str] = ()) -> Report:
    """Return the report, the verdicts first; the CSV file has one line per number, unrounded."""
    verdicts = [verdict(part) for part in diagnosis.parts]
    lines = [f"{part.name}: {text}" for part, text in zip(diagnosis.parts, verdicts, strict=True)]
    settings = [f"{name}: {value}" for name, value in diagnosis.settings.items()]
    tables = [ReportPart(sheet.title, "", [sheet]) for sheet in sheets(diagnosis) if sheet.rows]
    rows = [
        {
            "task": part.task,
            "subset": part.subset,
            "score": part.metric,
            "number": name,
            "mean": exact(interval.mean),
            "low": exact(interval.low),
            "high": exact(interval.high),
            "about": NUMBERS[name],
        }
        for part in diagnosis.parts
        for name, interval in part.numbers.items()
    ]
    parts = [
        {**members(part), "verdict": text}
        for part, text in zip(diagnosis.parts, verdicts, strict=True)
    ]
    return Report(
        stem=NAME,
        title=f"What {diagnosis.model} relies on",
        parts=[
            ReportPart("Verdicts", "", (), lines, pictures),
            *tables,
            ReportPart("Settings", "", (), settings),
        ],
        rules=RULES,
        rows=rows,
        content={"schema": SCHEMA, **members(diagnosis), "parts": parts, "numbers": NUMBERS},
    )


def terminal(diagnosis: Diagnosis) -> "Table":
    """Return the main numbers of each task."""
    from rich.text import Text

    columns = {
        "full": "score.full",
        "no image": "score.text.blank",
        "no text": "score.image.blank",
        "neither": "score.neither.blank",
        "gain": "gain.image.shuffled",
        "same": "same.text.blank",
        "to text": "conflict.text",
    }
    rows = []
    for part in diagnosis.parts:
        intervals = (part.numbers.get(name) for name in columns.values())
        means = ("" if interval is None else f"{100 * interval.mean:.0f}" for interval in intervals)
        rows.append([part.name, *means])
    sheet = text_sheet(f"What {diagnosis.model} relies on", ("task", *columns), rows)
    caption = (
        "%. gain: with the image minus with another item's; same: answers that stay without the "
        "image; to text: conflicts that follow the text"
    )
    return sheet_terminal(sheet, left=(0,), title=Text(sheet.title), caption=caption)
