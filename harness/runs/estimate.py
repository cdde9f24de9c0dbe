"""Cost of runs before they start: FLOPs, hours and memory of a card, and disk.

estimates = estimate(jobs, corpora, card, utilisation, "cpu", progress)
report(estimates, card)

Training is tried in miniature (``trial``), evaluation on some items of each variant, and both are
multiplied. Weights are written once to see their size.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steelyard import tasks
from steelyard.harness.core.environment import pick_device
from steelyard.harness.core.examples import Corpus, Example
from steelyard.harness.core.files import TemporaryFolder, write_items
from steelyard.harness.core.progress import (
    Progress,
    console,
    no_progress,
    print_table,
    show_progress,
)
from steelyard.harness.models import registry, vlm_config
from steelyard.harness.models.vlm_config import VlmConfig
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.cards import GB, Card, check_fit
from steelyard.harness.runs.job import Job, alike, finished
from steelyard.harness.runs.options import RunOptions
from steelyard.harness.runs.parallel import (
    OpenSuite,
    ensure_base_model,
    quiet_heavy_libraries,
    run_jobs,
)
from steelyard.harness.runs.trial import Course, counted, course

if TYPE_CHECKING:
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm
    from steelyard.harness.runs.by_shape import PlainStep
    from steelyard.harness.training.train_data import TrainData

SAMPLE, SAMPLE_FROZEN = 1280, 256
"""Training items of a trial, evenly spaced: more than methods make pairs of; fewer if
frozen encoders have to encode them."""
EVALUATED = 32
"""Items of each variant that are answered to see what one costs."""
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cost of one run; runs that differ in their seed cost the same."""

    entry: str
    task: str
    backbone: str
    budget: str
    track: str
    precision: str
    runs: int
    training: Course
    passes: float
    """Over the training items."""
    evaluation: Mapping[str, float]
    """FLOPs by variant."""
    memory: Mapping[str, float]
    """Bytes of tensors by part at the dearest moment of training."""
    disk: Mapping[str, float]
    """Bytes by part."""
    hours: float
    """On the card."""

    @property
    def evaluation_flops(self) -> float:
        return sum(self.evaluation.values())


def estimate(
    jobs: Sequence[Job],
    corpora: Mapping[str, Corpus],
    card: Card,
    utilisation: float,
    device: str,
    progress: Progress,
) -> list[Estimate]:
    """Estimate one run of each group of jobs that differ in their seed only.

    ``utilisation`` is the fraction of the card's peak rate; ``device`` is where trials run.

    Raises:
        UserError: a method refuses the data, or makes no step within any trial.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(alike(job), []).append(job)
    subjects: dict[str, Subject] = {}
    estimates = []
    for index, (job, *more) in enumerate(groups.values()):
        progress(f"estimating {job.label} on {job.spec.task}", index / len(groups))
        spec = job.spec
        key = f"{spec.task} {spec.backbone} {dict(spec.backbone_options)}"
        if key not in subjects:
            subjects[key] = Subject.prepare(spec, corpora[spec.task], card, device)
        estimates.append(_estimate(job, 1 + len(more), subjects[key], corpora, card, utilisation))
    return estimates


@dataclass
class Subject:
    """Backbone and training items that several runs share, and what they cost whatever the run."""

    backbone: "Classifier | Vlm"
    data: "TrainData"
    """Sample of the training items."""
    examples: Sequence[Example]
    """All training items."""
    encoding: float
    """FLOPs of all training items in frozen encoders."""
    items: float
    """Bytes of all training items that stay on the device."""
    weights: float
    """Bytes of the saved weights."""
    variants: dict[str, tuple[float, float]]
    """FLOPs of answering all items, and bytes of their table, by variant."""

    precision: str
    """Of the run's passes on the card."""
    plain: "PlainStep | None" = None
    """Plain step of the checkpoint that the backbone stands in for."""

    @classmethod
    def prepare(cls, spec: RunSpec, corpus: Corpus, card: Card, device: str) -> "Subject":
        """Build the backbone as it would be on the card, or a stand-in for a checkpoint."""
        config = registry.configure(spec.backbone, spec.backbone_options)
        if not isinstance(config, VlmConfig):
            return cls._of_classifier(spec, corpus, device)
        config = vlm_config.resolve_precision(config, card.device)
        options = {**spec.backbone_options, "precision": config.precision}
        spec, plain = replace(spec, backbone_options=options), None
        examples = corpus.splits.get("train", ())
        if config.source != vlm_config.TINY and examples:
            from steelyard.harness.runs import by_shape

            plain = by_shape.plain_step(spec.backbone, config, spec.task, corpus)
            spec = by_shape.stand_in(spec, config)
            registry.ensure_base(spec.backbone, {}, no_progress)
            # Its tokeniser has the words of generated questions only.
            corpus = tasks.load("instruct", tasks.find_root("instruct", None))
        backbone = registry.build_untrained(spec, corpus, device)
        data = _sample(backbone, corpus, SAMPLE)
        weights = plain.saved if plain else _saved(backbone)
        return cls(backbone, data, examples, 0.0, 0.0, weights, {}, config.precision, plain)

    @classmethod
    def _of_classifier(cls, spec: RunSpec, corpus: Corpus, device: str) -> "Subject":
        from steelyard.harness.models.classifier import Classifier
        from steelyard.harness.training.train_data import IN_MEMORY_BYTES, feature_cost

        backbone = registry.build_untrained(spec, corpus, device)
        assert isinstance(backbone, Classifier)
        is_frozen, examples = backbone.config.frozen, corpus.splits.get("train", ())
        data = _sample(backbone, corpus, SAMPLE_FROZEN if is_frozen else SAMPLE)
        encoding = feature_cost(backbone, examples) if is_frozen else 0.0
        items = float(data.gather([0]).pixels.nbytes * len(examples))
        items = items if items <= IN_MEMORY_BYTES else 0.0
        weights, precision = _saved(backbone), backbone.recipe.precision
        return cls(backbone, data, examples, encoding, items, weights, {}, precision)

    def course(self, spec: RunSpec) -> Course:
        """Return the training of a run."""
        if self.plain is None:
            return course(spec, self.backbone, self.data, self.examples, self.encoding)
        from steelyard.harness.runs import by_shape

        return by_shape.course(spec, self.plain, self.backbone, self.data, self.examples)

    def answering(self, name: str, job: Job, corpora: Mapping[str, Corpus]) -> tuple[float, float]:
        """Return FLOPs and bytes of scoring one variant; the same for all of these runs."""
        from steelyard.harness.evaluation.evaluate import evaluate

        if name not in self.variants:
            variant = tasks.parse_variant(name)
            corpus = corpora[variant.task]
            count = len(tasks.build(variant, corpus, job.split, job.limit).eval_docs)
            sample = min(count, EVALUATED)
            model = copy.deepcopy(self.backbone).eval()
            with counted(model, encoders=self.plain is None) as meter:
                result = evaluate(model, variant, corpus, split=job.split, limit=sample)
            with TemporaryFolder() as folder:
                sizes = []
                for rows in (result.items, result.items[: sample // 2]):
                    write_items(rows, path := Path(folder) / "items.parquet")
                    sizes.append(path.stat().st_size)
            # The difference leaves out the table's head.
            item = (sizes[0] - sizes[1]) / max(1, sample - sample // 2)
            flops = meter.spent * count / sample
            if self.plain is not None:
                flops = flops * self.plain.ratio(self.backbone, self.data)
                flops += self.plain.image_flops * count
            self.variants[name] = (flops, item * count)
        return self.variants[name]


def _sample(backbone: "Classifier | Vlm", corpus: Corpus, size: int) -> "TrainData":
    """Prepare at most ``size`` training items, evenly spaced."""
    from steelyard.harness.training.train_data import train_data

    examples = corpus.splits.get("train", ())
    size = min(size, len(examples))
    sample = tuple(examples[index * len(examples) // size] for index in range(size))
    splits = {**corpus.splits, "train": sample}
    return train_data(backbone, corpus.name, replace(corpus, splits=splits))


def _saved(backbone: "Classifier | Vlm") -> float:
    """Return the bytes of the files of a saved backbone."""
    with TemporaryFolder() as folder:
        registry.save(backbone, Path(folder) / "weights")
        return sum(path.stat().st_size for path in Path(folder).rglob("*.*"))


def _estimate(
    job: Job,
    runs: int,
    subject: Subject,
    corpora: Mapping[str, Corpus],
    card: Card,
    utilisation: float,
) -> Estimate:
    spec, precision = job.spec, subject.precision
    with redirect_stderr(StringIO()):  # remarks on runs as short as a trial
        training = subject.course(spec)
    answered = {name: subject.answering(name, job, corpora) for name in job.variants}
    evaluation = {name: flops for name, (flops, _) in answered.items()}
    items = sum(size for _, size in answered.values())
    memory = {name: float(size) for name, size in training.memory.items()}
    if subject.items:
        memory["training items"] = subject.items
    return Estimate(
        entry=job.label,
        task=spec.task,
        backbone=spec.backbone,
        budget=spec.budget,
        track=spec.track,
        precision=precision,
        runs=runs,
        training=training,
        passes=training.items / max(1, len(subject.examples)),
        evaluation=evaluation,
        memory=memory,
        disk={"weights": subject.weights, "items": items},
        hours=card.hours(training.total + sum(evaluation.values()), precision, utilisation),
    )


def plan_suite(
    opened: OpenSuite, options: RunOptions, card: Card, utilisation: float
) -> dict[str, Estimate]:
    """Print the runs of a suite and what those without a record cost; return it by ``alike``.

    Raises:
        UserError: see ``estimate`` and ``report``.
    """
    suite, corpora = opened.suite, opened.corpora
    run_jobs(opened.jobs, corpora, replace(options, dry_run=True))
    waiting = [job for job in opened.jobs if finished(job, options.runs, corpora) is None]
    if not waiting:
        return {}
    quiet_heavy_libraries()
    ensure_base_model(suite.backbone, suite.backbone_options)
    with show_progress("estimating") as progress:
        device = pick_device(options.device)
        estimates = estimate(waiting, corpora, card, utilisation, device, progress)
    report(estimates, card, utilisation)
    return dict(zip(dict.fromkeys(map(alike, waiting)), estimates, strict=True))


def report(estimates: Sequence[Estimate], card: Card, utilisation: float) -> None:
    """Print what runs cost, and refuse those that do not fit the card.

    Raises:
        UserError: the tensors of a run need more memory than the card has for them.
    """
    costs, sizes = [], []
    for run in estimates:
        training, total = run.training, sum(run.memory.values())
        name = f"{run.entry} on {run.task}, {run.budget}"
        amounts = (training.total, run.evaluation_flops, run.hours)
        figures = [f"{run.passes:.2g}", *(f"{amount:.3g}" for amount in amounts)]
        costs.append((name, run.runs, training.steps, *figures))
        parts = [
            f"{part} {size / GB:.3g}" for part, size in run.memory.items() if size > total / 1000
        ]
        disk = sum(run.disk.values())
        sizes.append((name, f"{total / GB:.3g}", ", ".join(parts), f"{disk / GB:.3g}"))
    heads = ("run", "runs", "steps", "passes", "training", "evaluation", "hours")
    print_table(heads, costs, "FLOPs of training and evaluation")
    print_table(("run", "memory", "of these", "disk"), sizes, "GB of memory and disk")
    hours = sum(run.runs * run.hours for run in estimates)
    console.print(
        f"{hours:.3g} hours on {card.name} at {utilisation:.0%} of its peak rate for "
        f"{sum(run.runs for run in estimates)} runs, one after another."
    )
    for run in estimates:
        config = registry.configure(run.backbone, {})
        check_fit(card, f"{run.entry} on {run.task}", run.memory, _advice(config))


def _advice(config: Any) -> dict[str, str]:
    """Return what of the backbone's options makes a part of the memory smaller."""
    names = asdict(config)
    advice = {
        "activations": ("micro_batch_size=1", "checkpointing=true"),
        "optimiser": ("tune=lora", "frozen=true"),
        "gradients": ("tune=lora", "frozen=true"),
        "copies of weights": ("tune=lora", "frozen=true"),
        "weights": ("quantize=4bit",),
    }
    return {
        part: f"--backbone-set {' or '.join(usable)}"
        for part, settings in advice.items()
        if (usable := [text for text in settings if text.partition("=")[0] in names])
    }


def as_json(estimates: Sequence[Estimate], card: Card, utilisation: float) -> dict[str, Any]:
    """Return the content of ``--json``."""
    return {
        "schema": SCHEMA,
        "card": asdict(card),
        "utilisation": utilisation,
        "runs": [asdict(run) for run in estimates],
    }
