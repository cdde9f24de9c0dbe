"""Write a reliance profile: verdicts, tables and a figure."""

from pathlib import Path

from steelyard.leaderboards.output.files import members
from steelyard.leaderboards.output.report import Report, ReportPart
from steelyard.leaderboards.output.sheet import Sheet, text_sheet
from steelyard.leaderboards.reliance.numbers import (
    CONFLICTS,
    NUMBERS,
    PERCENTAGES,
    Diagnosis,
    TaskReliance,
)
from steelyard.leaderboards.reliance.plots import figures
from steelyard.leaderboards.stats.intervals import Interval

NAME = "diagnosis"
UNUSED = 0.02
"""A modality is not used if the intervals of its gains, blank and shuffled, end below this."""
RULE_OF_THREE = 3
"""Without an event in n trials, the rate can still be up to 3 / n, at 95 %."""
SHEETS = {
    "Score by visible modality": {
        "image and text": "score.full",
        "no image": "score.text.blank",
        "other image": "score.text.shuffled",
        "no text": "score.image.blank",
        "other text": "score.image.shuffled",
        "neither": "score.neither.blank",
        "other image and text": "score.neither.shuffled",
    },
    "Gain from each modality, and how often the answer stays": {
        "image adds (no image)": "gain.image.blank",
        "image adds (other image)": "gain.image.shuffled",
        "text adds (no text)": "gain.text.blank",
        "text adds (other text)": "gain.text.shuffled",
        "same without image": "same.text.blank",
        "same, other image": "same.text.shuffled",
        "same without text": "same.image.blank",
        "same, other text": "same.image.shuffled",
    },
    "Fraction of items by the modality that alone is right, and the full score inside": {
        "neither right": "group.neither.share",
        "score (neither)": "group.neither.score",
        "text right": "group.text.share",
        "score (text)": "group.text.score",
        "image right": "group.image.share",
        "score (image)": "group.image.score",
        "both right": "group.both.share",
        "score (both)": "group.both.score",
    },
    "Conflict, information and lean": {
        "follows text": "conflict.text",
        "follows image": "conflict.image",
        "information gain": "information.image",
        "additive gap": "additive.gap",
        "lean, answers": "lean.answers",
        "lean, Shapley": "lean.shapley",
    },
}
"""Title of each table; its headings with their numbers."""
RULES = (
    "Numbers are percentages with half of the 95 % interval, or its ends where it reaches 0 or "
    "100, over resampled items that share no image or other cluster, and over training seeds where "
    "there are several. If all n items agree, the interval has no width, although a rate of up to "
    "3 / n is possible; the verdicts allow for it.",
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
    return report(diagnosis).write(out)


def report(diagnosis: Diagnosis) -> Report:
    """Return the report, the verdicts first; the CSV file has one line per number, unrounded."""
    parts = diagnosis.parts
    verdicts = [verdict(part) for part in parts]
    lines = [f"{part.name}: {text}" for part, text in zip(parts, verdicts, strict=True)]
    contents = [
        {**members(part), "verdict": text} for part, text in zip(parts, verdicts, strict=True)
    ]
    return Report(
        stem=NAME,
        title=f"What {diagnosis.model} relies on",
        parts=[
            ReportPart("Verdicts", notes=lines, figures=figures(NAME, diagnosis)),
            *(ReportPart(table.title, sheets=[table]) for table in sheets(diagnosis)),
            ReportPart("Settings", notes=[f"{k}: {v}" for k, v in diagnosis.settings.items()]),
        ],
        rules=RULES,
        rows=[
            {"task": part.task, "subset": part.subset, "score": part.metric, "number": name}
            | {"": interval, "about": NUMBERS[name]}
            for part in parts
            for name, interval in part.numbers.items()
        ],
        content={**members(diagnosis), "parts": contents, "numbers": NUMBERS},
    )


def sheets(diagnosis: Diagnosis) -> list[Sheet]:
    """Return tables of scores, gains and unchanged answers, error groups, and the other numbers."""
    tables = []
    for title, columns in SHEETS.items():
        rows = []
        for part in diagnosis.parts:
            metric = f"{part.metric}{'' if part.higher_is_better else ' ↓'}"
            numbers = (_cell(part, name) for name in columns.values())
            rows.append((str(part.items), part.name, metric, *numbers))
        tables.append(text_sheet(title, ("items", "task", "score", *columns), rows))
    return tables


def _cell(part: TaskReliance, name: str) -> str:
    signed = name.startswith(("gain.", "lean.", "information.", "additive.gap"))
    return mean_and_half(part.numbers.get(name), name, "+" if signed else "")


def mean_and_half(interval: Interval | None, name: str, sign: str = "") -> str:
    """Return mean and half the interval; blank if the number does not exist."""
    if interval is None:
        return ""
    scale, digits = (100, 1) if name in PERCENTAGES else (1, 2)
    mean, low, high = (f"{scale * end:.{digits}f}" for end in interval.ends)
    if interval.is_cut:
        return f"{mean} [{low}, {high}]"
    return f"{scale * interval.mean:{sign}.{digits}f} ± {scale * interval.half:.{digits}f}"


# --- verdicts ----------------------------------------------------------------------------------


def verdict(part: TaskReliance) -> str:
    """Summarise a task in one sentence."""
    if "score.full" not in part.numbers:
        return f"no answer that {part.metric} can be computed on."
    if part.unparsed == 1:
        return "no answer could be read, so nothing can be said."
    clauses = [_use(part, "image"), _unchanged(part, "image")]
    if part.unparsed >= 0.5:
        clauses.insert(0, f"{100 * part.unparsed:.0f} % of the answers could not be read")
    if part.conflict == "misleading":
        clauses += [_use(part, "text"), _unchanged(part, "text")]
    clauses.append(_conflict(part))
    gap = part.numbers.get("additive.gap")
    if gap is not None and gap.low > 0:
        points = f"{mean_and_half(gap, 'additive.gap')} points"
        clauses.append(f"{points} come from image and text together")
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
    gain = f"{_cell(part, f'gain.{modality}.shuffled')} points over another item's"
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
    return f"{clause} in {by_text} and follows the image in {by_image} ({part.conflicts} items)"


def _percent(part: TaskReliance, name: str) -> str:
    return f"{100 * part.numbers[name].mean:.1f} %"
