"""MM-IMDb: the genres of a film with its poster and its plot."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steelyard.harness.core.errors import UserError, check_known
from steelyard.harness.core.examples import Corpus, Example, Skipped
from steelyard.harness.core.folders import listing
from steelyard.harness.core.readers import read_object
from steelyard.harness.data.reading import build_corpus, find_file
from steelyard.tasks import metrics
from steelyard.tasks._shared import official, questions

# fmt: off
GENRES = (
    "Drama", "Comedy", "Romance", "Thriller", "Crime", "Action", "Adventure", "Horror",
    "Documentary", "Mystery", "Sci-Fi", "Fantasy", "Family", "Biography", "War", "History", "Music",
    "Animation", "Musical", "Western", "Sport", "Short", "Film-Noir",
)
# fmt: on
"""The official label set, most frequent first."""
THRESHOLD = 0.5
FOLDERS = ("dataset", "images", "labels", "annotations", ".")
"""Folders of ``<id>.json`` and ``<id>.jpeg``, searched in this order."""
SPLITS = {"train": "train", "val": "dev", "test": "test"}
METRICS = ("macro_f1", "micro_f1", "weighted_f1", "samples_f1")
PLOTS = ("longest", "first", "all")


@dataclass(frozen=True, slots=True)
class Film:
    id: str
    image: Path
    genres: tuple[str, ...]
    plots: tuple[str, ...]


def load(root: Path, *, max_bad: float = 0.01, plot: str = "longest") -> Corpus:
    """Read ``split.json`` and each film's ``<id>.json`` and ``<id>.jpeg``.

    ``plot`` takes the ``longest`` or the ``first`` plot of a film, or ``all``: one item a plot with
    id ``<film>#<k>``, in every split. Classes are the official genres that occur in train; other
    genres are ignored and counted in the notes. A film without any of them has no label: every
    genre is then a true negative. The official splits have no such film.
    """
    check_known("plot of mm_imdb", plot, PLOTS)
    ids = _split_ids(find_file(root, "split.json"))
    annotations, images = _index(root, ".json"), _index(root, ".jpeg", ".jpg", ".png")
    films: dict[str, list[Film]] = {split: [] for split in SPLITS}
    skipped: list[Skipped] = []
    for split, official_split in SPLITS.items():
        for id in ids[official_split]:
            # Without an image the path is reported as missing.
            image = images.get(id, root / FOLDERS[0] / f"{id}.jpeg")
            film = _film(id, image, annotations[id]) if id in annotations else None
            if film is None:
                skipped.append(Skipped(id, split, "no annotation with genres"))
            else:
                films[split].append(film)
    # Only classes that can be learnt, in official order.
    in_train = {genre for film in films["train"] for genre in film.genres}
    classes = tuple(genre for genre in GENRES if genre in in_train)
    counts = Counter(genre for rows in films.values() for film in rows for genre in film.genres)
    ignored = [f"{genre} ({counts[genre]})" for genre in sorted(counts.keys() - set(classes))]
    return build_corpus(
        "mm_imdb",
        root,
        classes,
        {
            split: [example for film in rows for example in _examples(film, classes, plot)]
            for split, rows in films.items()
        },
        multi_label=True,
        skipped=skipped,
        notes={"plot": plot, "genres ignored": ", ".join(ignored) or "none"},
        max_bad=max_bad,
    )


def _split_ids(path: Path) -> dict[str, list[str]]:
    content = read_object(path)
    for split in SPLITS.values():
        ids = content.get(split)
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            raise UserError(f"{path}: '{split}' must be a list of film ids written as strings.")
    return {split: content[split] for split in SPLITS.values()}


def _index(root: Path, *suffixes: str) -> dict[str, Path]:
    """Map files by stem, first suffix first; listing folders is faster than testing each path."""
    files: dict[str, Path] = {}
    for suffix in suffixes:
        for folder in FOLDERS:
            for path in listing(root / folder, suffix):
                files.setdefault(path.stem, path)
    return files


def _film(id: str, image: Path, annotation: Path) -> Film | None:
    """Read a film; None if its annotation has no genres. A plot may be absent.

    The ``plot outline`` of some films is used only if they have no plot.
    """
    content = read_object(annotation)
    genres, texts = (questions.strings(str(annotation), content, key) for key in ("genres", "plot"))
    if not genres:
        return None
    plots = [text for text in texts if text.strip()]
    outline = content.get("plot outline")
    if not plots and isinstance(outline, str) and outline.strip():
        plots = [outline]
    return Film(id, image, genres, tuple(plots))


def _examples(film: Film, classes: Sequence[str], plot: str) -> Iterator[Example]:
    labels = tuple(index for index, genre in enumerate(classes) if genre in film.genres)
    if plot == "all":
        for number, text in enumerate(film.plots or (None,)):
            yield Example(f"{film.id}#{number}", film.image, text, labels)
    elif plot == "first":
        yield Example(film.id, film.image, next(iter(film.plots), None), labels)
    else:
        yield Example(film.id, film.image, max(film.plots, key=len, default=None), labels)


def write_official(rows: Iterator[Mapping[str, Any]], folder: Path) -> None:
    """Write a copy with columns image, genres, plot and perhaps an id in the official layout.

    Genres are names, in a list or separated by commas, or 23 numbers 0 and 1 in official order.
    Films without an id get numbers.
    """
    names = {"validation": "dev", "val": "dev"}
    ids: dict[str, list[str]] = {split: [] for split in SPLITS.values()}
    for number, row in enumerate(rows, start=1):
        split = names.get(row[official.SPLIT], str(row[official.SPLIT]))
        if split not in ids:
            raise UserError(f"The copy has a split {split!r}, allowed are {', '.join(ids)}.")
        name = next((row[key] for key in ("id", "imdb_id", "image_id") if key in row), number)
        # IMDb numbers have seven digits.
        id = f"{name:07}" if isinstance(name, int) else str(name)
        plots = official.column(row, "plot", "plots", "text")
        content = {
            "title": str(row.get("title") or id),
            "genres": _genres(official.column(row, "genres", "genre", "label", "labels")),
            "plot": [plots] if isinstance(plots, str) else [str(plot) for plot in plots or ()],
        }
        official.write_image(official.column(row, "image"), folder / FOLDERS[0], f"{id}.jpeg")
        official.write_json(folder / FOLDERS[0] / f"{id}.json", content)
        ids[split].append(id)
    official.write_json(folder / "split.json", ids)


def _genres(value: Any) -> list[str]:
    listed = value.split(",") if isinstance(value, str) else list(value or ())
    if listed and not any(isinstance(genre, str) for genre in listed):
        if len(listed) != len(GENRES) or not set(listed) <= {0, 1}:
            raise UserError(
                f"The copy has genres {listed[:5]}...: expected names, or {len(GENRES)} "
                "numbers 0 and 1."
            )
        return [genre for genre, present in zip(GENRES, listed, strict=True) if present]
    return [str(genre).strip() for genre in listed]


def choices(classes: Sequence[str]) -> list[str]:
    return list(classes)


def doc_to_text(doc: metrics.ClassDoc) -> str:
    """Ask for the genres, after the plot if there is one."""
    plot = f"Plot: {doc['text']}\n" if doc["text"] else ""
    return (
        f"{plot}Which genres does this film belong to? It may have several. Answer with names "
        f"from this list, separated by commas: {', '.join(choices(doc['classes']))}."
    )


def doc_to_target(doc: metrics.ClassDoc) -> str:
    """Return the genres by falling frequency, empty if there is none."""
    return ", ".join(choices(doc["classes"])[label] for label in doc["labels"])


def process_results(doc: metrics.ClassDoc, results: Sequence[str]) -> metrics.ClassScores:
    """Score one answer, a JSON list with a probability per genre; ValueError for anything else.

    A genre is predicted from probability 0.5.
    """
    answer = metrics.probabilities(results[0], len(doc["classes"]), multi_label=True)
    predicted = [index for index, value in enumerate(answer) if value >= THRESHOLD]
    film = doc["id"].partition("#")[0]  # with plot=all several items are of one film
    return metrics.class_scores(doc, METRICS, predicted, max(answer), cluster=film)
