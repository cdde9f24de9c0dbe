"""Train one run under the meter, its audit and the guard of opened files.

result = train(spec, {"food101": corpus}, folder, "cpu", no_progress)
"""

import json
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from steelyard import methods
from steelyard.harness.budget.audit import Audit, BehindMeter
from steelyard.harness.budget.guard import ForeignData, only_training_images
from steelyard.harness.budget.meter import BudgetSpent, Meter
from steelyard.harness.core import ranks
from steelyard.harness.core.environment import code, device_name, packages
from steelyard.harness.core.errors import Interrupted, LeaseLost, NonFiniteLoss, UserError, one_line
from steelyard.harness.core.examples import Corpus
from steelyard.harness.core.files import TemporaryFolder, write_atomic, write_json
from steelyard.harness.core.progress import Progress
from steelyard.harness.models import registry
from steelyard.harness.models.registry import WEIGHTS
from steelyard.harness.records.budget import Budget, parse_budget
from steelyard.harness.records.record import Ledger, merged
from steelyard.harness.records.spec import RunSpec
from steelyard.harness.runs.attempt import PARTS
from steelyard.harness.training import tracking
from steelyard.harness.training.tracking import Tracker

if TYPE_CHECKING:
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.models.vlm import Vlm
    from steelyard.harness.training.train_data import TrainData

TRAINING, LOG = "training.json", "log.jsonl"
TRACEBACK = "traceback.txt"
"""Where an exception ended a run; such a run is tried again by the next command."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Outcome of training, written to ``training.json`` after the weights."""

    status: Literal["done", "failed"]
    failure: str
    ledger: Ledger
    diagnostics: dict[str, float]
    ranks: int = 1
    """Processes that trained together."""


class Preparation(NamedTuple):
    """What a run trains, and the FLOPs and seconds that features of frozen encoders took."""

    method: methods.Method
    config: Any
    backbone: "Classifier | Vlm"
    data: "TrainData"
    flops: float
    seconds: float


def prepare(
    spec: RunSpec, corpora: Mapping[str, Corpus], folder: Path, device: str, budget: Budget
) -> Preparation:
    """Build the backbone with a method's own modules, and read the training data.

    Raises:
        UserError: an image or a setting does not suit the backbone, or the modules would not be
            the same in a saved copy.
    """
    method = methods.load(spec.method)
    config = methods.configure(method, spec.options, registry.kind_of(spec.backbone))
    backbone = registry.build_untrained(spec, corpora[spec.task], device)
    for name, corpus in corpora.items():
        registry.check_images(backbone, name, corpus.at_once)
    extended = add_modules(backbone, method, config, spec)
    backbone.recipe = replace(backbone.recipe, learning_rate=learning_rate(spec))
    data, flops, seconds = _prepare_data(backbone, corpora[spec.task], budget)
    if backbone.kind == "vlm":
        backbone.trainer_settings = spec.trl
    if extended and not _restores(backbone, data, folder, device):
        raise UserError(
            "the function extend of the method's file does not build the same modules twice: all "
            "that decides a prediction has to be in modules, parameters or buffers"
        )
    return Preparation(method, config, backbone, data, flops, seconds)


def train(
    spec: RunSpec,
    corpora: Mapping[str, Corpus],
    folder: Path,
    device: str,
    progress: Progress,
    trackers: Sequence[Tracker] = (),
    checkpoint_minutes: float = 0.0,
) -> TrainingResult:
    """Train under the meter, its audit and the guard of opened files; ``trackers`` get curves.

    A checkpoint is written every so many minutes, and when ``progress`` raises Interrupted; 0 for
    never. The next call continues from it. Several ranks have none.
    """
    import torch

    from steelyard.harness.models import extension

    progress("preparing", 0.0)
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    budget = parse_budget(spec.budget, spec.track, spec.wall)
    subject, meter = _metered(prepare(spec, corpora, folder, device, budget), spec, budget, device)
    backbone = subject.backbone
    layout = extension.layout(backbone)

    def report(fraction: float) -> None:
        try:
            progress("training", fraction)
        except Interrupted as interruption:
            meter.checkpoints.defer(interruption)
        # After one step, so that the budget is not spent on what could not be scored.
        if meter.steps == 1 and (finding := extension.changed_parts(backbone, layout)):
            raise extension.NotRestorable(finding)

    meter.on_progress = report
    if ranks.world() == 1:
        _open_checkpoints(meter, backbone, spec, folder / PARTS, device, checkpoint_minutes)
    # After the build, so that dropout does not depend on the number of weights drawn before.
    torch.manual_seed(spec.seed_for("training", *ranks.name()))
    # Path() is the root of lmms-eval's tasks; it would forbid the full working directory.
    roots = [corpus.root for corpus in corpora.values() if corpus.root != Path()]
    with tracking.opened(trackers if ranks.is_main() else (), folder, spec) as meter.on_log:
        stopped, failure, exception = _guarded(subject, spec, meter, roots, folder)
    # A method may have caught these exceptions: the findings count nevertheless.
    failure = meter.audit.finding or extension.changed_parts(backbone, layout) or failure
    failures = ranks.gather((failure, exception))
    failure, exception = next(filter(any, failures), ("", ""))
    failure = failure or _differing_ranks(backbone)
    # A second copy of a vision-language model may not fit beside the first.
    if not failure and backbone.kind == "classifier":
        same = _restores(backbone, subject.data, folder, device)
        failure = "" if same else extension.UNSAVED.format("by a hook or a plain attribute")
    ledger = merged(ranks.gather(meter.ledger(stopped)))
    failure = failure or _overspent(ledger)
    status: Literal["done", "failed"] = "failed" if failure else "done"
    result = TrainingResult(status, failure, ledger, meter.diagnostics, ranks.world())
    ranks.share(lambda: _publish(result, exception, backbone, meter, folder, progress))
    if ranks.world() == 1:
        meter.checkpoints.remove()
    return result


def _metered(
    subject: Preparation, spec: RunSpec, budget: Budget, device: str
) -> tuple[Preparation, Meter]:
    """Return what is trained, watched by the meter of its run."""
    from steelyard.harness.budget.live_bytes import LiveBytes

    backbone = subject.backbone
    # Torch keeps the peak of a GPU's memory itself.
    memory = LiveBytes(backbone, adopt=True) if device == "cpu" else None
    if memory and backbone.kind == "vlm":  # its trainers keep rows of pixels for later passes
        gather = memory.on_host(subject.data.gather)
        subject = subject._replace(data=replace(subject.data, gather=gather))
    # The seed decides which windows the audit compares: a method cannot know them.
    meter = Meter(budget, device, Audit(spec.seed_for("audit"), memory))
    for module in backbone.metered_modules:
        meter.watch(module)
    return subject, meter


def _guarded(
    subject: Preparation, spec: RunSpec, meter: Meter, roots: Sequence[Path], folder: Path
) -> tuple[Literal["finished", "budget"], str, str]:
    """Train, and fail a run that reads validation or test images of ``roots``; see ``_attempt``."""
    images = (example.image for example in subject.data.examples if example.image)
    with meter, only_training_images(images, roots, [folder]) as guard:

        def work() -> None:
            if subject.flops:
                with meter.phase("features"):
                    meter.charge(subject.flops, subject.seconds)
            data, config = subject.data, subject.config
            subject.method.train(subject.backbone, data, meter, config, spec.seed_for("method"))

        stopped, failure, exception = _attempt(work, meter)
    ranks.meet(exception or failure)
    failure = guard.finding or failure
    if meter.checkpoints.unused:
        failure = failure or "the stage of the checkpoint was not reached"
    return stopped, failure, exception


def _publish(
    result: TrainingResult,
    exception: str,
    backbone: "Classifier | Vlm",
    meter: Meter,
    folder: Path,
    progress: Progress,
) -> None:
    """Write weights, log, and traceback or result to a folder of this attempt, then move them."""
    with TemporaryFolder(folder / PARTS) as temporary:
        attempt = Path(temporary)
        if not result.failure:
            registry.save(backbone, attempt / WEIGHTS)
        lines = (json.dumps(row, sort_keys=True) + "\n" for row in meter.history)
        write_atomic(attempt / LOG, "".join(lines))
        if exception:
            write_atomic(attempt / TRACEBACK, exception)
        else:  # a run that has this file is not trained again
            write_json(attempt / TRAINING, asdict(result))
        try:
            progress("training", 1.0)  # raises if another process took the run over meanwhile
        except LeaseLost:
            raise
        except Interrupted:  # what is done is done; the next call of ``progress`` ends the run
            pass
        for name in (WEIGHTS, LOG, TRACEBACK, TRAINING):  # the last says that all are there
            _move(attempt / name, folder / name)


def _open_checkpoints(
    meter: Meter,
    backbone: "Classifier | Vlm",
    spec: RunSpec,
    folder: Path,
    device: str,
    minutes: float,
) -> None:
    from steelyard.harness.models.frozen_tower import feature_stores

    stores = feature_stores(backbone)
    for store in stores:
        store.repeat = meter.repeated
    about = {"spec": spec.id, "code": code()["source"], "packages": packages()}
    about["device"] = device_name(device)
    meter.checkpoints.open(folder, minutes, backbone, about, stores)


def _move(source: Path, target: Path) -> None:
    """Replace a file or folder by that of this attempt, if there is one."""
    if source.exists():
        if target.is_dir():
            shutil.rmtree(target)
        source.replace(target)


def _differing_ranks(backbone: "Classifier | Vlm") -> str:
    """Return the failure of ranks whose weights are not equal; empty if they are, or for one."""
    if ranks.world() == 1:
        return ""
    sums = [float(parameter.detach().double().sum()) for parameter in backbone.parameters()]
    if all(row == sums for row in ranks.gather(sums)):
        return ""
    return (
        "the ranks' weights differ: a method for several ranks trains with fit or with TRL's "
        "trainers, which average gradients"
    )


def _overspent(ledger: Ledger) -> str:
    """Return the failure of ranks that could not stop inside a step that was too costly."""
    limit = ledger.limit_flops
    if ranks.world() == 1 or limit is None or ledger.total_flops <= limit:
        return ""
    return (
        f"{ranks.world()} ranks executed {ledger.total_flops:.3g} FLOPs of {limit:.3g}: the last "
        f"of {ledger.steps} steps cost more than any before it; give another --budget"
    )


def _attempt(
    work: Callable[[], None], meter: Meter
) -> tuple[Literal["finished", "budget"], str, str]:
    """Train; return how it ended, why it failed, and the traceback of an exception of the method.

    The last two are empty if it did not.
    """
    from steelyard.harness.models.extension import NotRestorable

    try:
        work()
    except BudgetSpent as error:
        return "budget", "" if meter.steps else f"budget too small for one step: {error}", ""
    except ranks.FailedElsewhere:
        return "finished", "", ""
    except (NonFiniteLoss, BehindMeter, ForeignData, NotRestorable) as error:
        return "finished", str(error), ""
    except (Exception, SystemExit) as error:
        return "finished", one_line(error), traceback.format_exc()
    return "budget" if meter.fraction >= 1 else "finished", "", ""


def require_features(backbone: "Classifier | Vlm", corpus: Corpus, budget: Budget) -> float:
    """Return the FLOPs that frozen encoders take for all training items; 0 without any.

    Raises:
        UserError: the budget has not enough for these and one step.
    """
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.training.train_data import feature_cost, step_cost

    examples = corpus.splits.get("train", ())
    if not isinstance(backbone, Classifier) or not backbone.config.frozen or not examples:
        return 0.0
    features, step = feature_cost(backbone, examples), step_cost(backbone)
    if features + step > budget.flops:
        raise UserError(
            f"budget too small: features of {len(examples):,} training items need {features:.3g} "
            f"FLOPs, one step {step:.3g}, and the budget is {budget}: give --budget "
            f"{1.01 * (features + step):.3g} or more"
        )
    return features


def _prepare_data(
    backbone: "Classifier | Vlm", corpus: Corpus, budget: Budget
) -> tuple["TrainData", float, float]:
    """Return the training data, and FLOPs and seconds of the features of frozen encoders."""
    from steelyard.harness.models.classifier import Classifier
    from steelyard.harness.training.train_data import train_data

    flops = require_features(backbone, corpus, budget)
    encoders = (
        (backbone.image_encoder, backbone.text_encoder) if isinstance(backbone, Classifier) else ()
    )
    before = sum(encoder.seconds for encoder in encoders)
    data = train_data(backbone, corpus.name, corpus)
    return data, flops, sum(encoder.seconds for encoder in encoders) - before


def add_modules(
    backbone: "Classifier | Vlm", method: methods.Method, config: Any, spec: RunSpec
) -> bool:
    """Let the method's file add modules to the backbone; return whether it has any to add."""
    from steelyard.harness.models.extension import FUNCTION, Extension, extend

    if FUNCTION not in vars(method):
        return False
    module = str(Path(spec.method).resolve()) if spec.source else str(vars(method)["__name__"])
    seed = spec.seed_for("extension")
    extend(backbone, Extension(module, spec.source, asdict(config), seed))
    return True


def _restores(backbone: "Classifier | Vlm", data: "TrainData", folder: Path, device: str) -> bool:
    """Return whether the backbone, saved and loaded, has the same modules and predictions."""
    import torch

    from steelyard.harness.models.backbone import evaluation_mode
    from steelyard.harness.models.extension import layout

    with TemporaryFolder(folder) as temporary:
        registry.save(backbone, Path(temporary))
        restored = registry.load(Path(temporary), device)
    equal = layout(restored).keys() == layout(backbone).keys()
    if equal and len(data):
        batch = data.gather(range(min(4, len(data))))
        with torch.no_grad(), evaluation_mode(backbone):
            equal = torch.allclose(
                backbone.predict(batch), restored.predict(batch), rtol=1e-3, atol=1e-4
            )
    return equal


def learning_rate(spec: RunSpec) -> float:
    """Return the peak learning rate: the spec's, or the method's fraction of the backbone's."""
    if spec.learning_rate is not None:
        return spec.learning_rate
    default = registry.configure(spec.backbone, spec.backbone_options).learning_rate
    return default * methods.learning_rate(spec.method, registry.kind_of(spec.backbone))
