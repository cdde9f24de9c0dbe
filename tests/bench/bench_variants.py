"""Cost of N variants of a task beside N plain passes of a model over its images.

``python bench_variants.py [ITEMS]`` scores generated 640 x 480 photos as our POPE in its
official layout and as lmms-eval's own MME from parquet. A plain pass reads each image and
generates, without a harness; its time is a random LLaVA's. The overhead of a variant, its
corruption included, is measured with answers that cost nothing, because a model's own seconds vary
by more than that. Printed are CPU milliseconds per item, the process's peak memory after the second
and after the last variant, and the files that the variants left behind.
"""

import io
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import stock_data
import tiny_vlms
from PIL import Image
from timing import arguments, cpu_seconds, photo

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.examples import Corpus, Inputs
from steelyard.harness.data.images import open_image
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.runs.parallel import quiet_heavy_libraries
from steelyard.tasks import build
from steelyard.tasks.corruptions import CORRUPTIONS

SIZE = tiny_vlms.Size(hidden=768, layers=12, heads=12, vision_hidden=384, vision_layers=6)
"""About 90 M parameters, fewer than any model in real use."""
PLAIN_ITEMS = 32
TOKENS = 16
"""The longest answer that both tasks allow."""
ALLOWED = 0.10
PROMPT = "Is there a thing in the image?\nAnswer the question using a single word or phrase."


class Mute:
    """Backbone whose answers cost nothing."""

    name, classes = "mute", ()

    def generate(self, inputs: Sequence[Inputs], max_tokens: int) -> list[str]:
        return ["yes" for _ in inputs]

    def count_tokens(self, text: str) -> int:
        return 1


def main(items: int) -> bool:
    """Print both tables; return whether both tasks stay within the allowed overhead."""
    quiet_heavy_libraries()
    import_lmms_eval()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["LMMS_EVAL_DATASETS_CACHE"] = str(root / "cache")
        photos = [_jpeg(number) for number in range(items)]
        generating = _generating(root, photos[:PLAIN_ITEMS])
        corpora = (_ours(root / "pope", photos), _theirs(root / "stock", photos))
        within = [_measure(corpus, generating, root) for corpus in corpora]
    return all(within)


def _jpeg(number: int) -> bytes:
    file = io.BytesIO()
    photo(640, 480, number).save(file, "JPEG", quality=90)
    return file.getvalue()


def _generating(root: Path, photos: list[bytes]) -> Callable[[], float]:
    """Return a measurement of a model's CPU milliseconds per answer, image processing included."""
    path = str(tiny_vlms.make("llava", root / "model", SIZE))
    model = vlm_build.build(path, vlm_config.configure(path, {"tune": "full"}), 0, "cpu").eval()
    images = [Image.open(io.BytesIO(jpeg)).convert("RGB") for jpeg in photos]
    inputs = [Inputs(image, None, PROMPT) for image in images]
    model.generate(inputs, TOKENS)  # the first pass warms up
    return lambda: 1e3 * cpu_seconds(lambda: model.generate(inputs, TOKENS)) / len(inputs)


def _ours(root: Path, photos: list[bytes]) -> Corpus:
    (root / "images").mkdir(parents=True)
    rows = []
    for number, jpeg in enumerate(photos):
        name = f"COCO_val2014_{number:012}.jpg"
        (root / "images" / name).write_bytes(jpeg)
        text, label = f"Is there a thing {number} in the image?", ("yes", "no")[number % 2]
        rows.append({"question_id": number, "image": name, "text": text, "label": label})
    for index, kind in enumerate(("random", "popular", "adversarial")):
        lines = "".join(json.dumps(row) + "\n" for row in rows[index::3])
        (root / f"coco_pope_{kind}.json").write_text(lines)
    return tasks.load("pope", root)


def _theirs(root: Path, photos: list[bytes]) -> Corpus:
    rows = stock_data.mme(len(photos))
    for row, jpeg in zip(rows, photos, strict=True):
        row["image"] = Image.open(io.BytesIO(jpeg))
    return tasks.load("stock/mme", stock_data.write(root, rows))


def _measure(corpus: Corpus, generating: Callable[[], float], root: Path) -> bool:
    items = len(corpus.splits["test"])
    read = _reader(corpus)
    reading = 1e3 * cpu_seconds(lambda: [read(index) for index in range(items)]) / items
    corruptions = ["", *(name for name, kind in CORRUPTIONS.items() if kind.modality == "image")]
    before, added, peaks = _files(root), {}, []
    answer = generating()
    for name in corruptions:
        if name and CORRUPTIONS[name].apply is None:
            continue  # the cost of an adversarial corruption is that of its passes
        variant = tasks.parse_variant(f"{corpus.name}@{name}" if name else corpus.name)
        seconds = cpu_seconds(lambda variant=variant: evaluate(Mute(), variant, corpus))
        added[variant.name] = 1e3 * seconds / items - reading
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    answer = min(answer, generating())  # the less disturbed one
    print(f"{corpus.name}: {items} items; a plain pass is {answer:.0f} ms of generating an answer "
          f"and {reading:.1f} ms of reading its image")  # fmt: skip
    for name, extra in added.items():
        print(f"  {name:20} {extra:+6.1f} ms per item")
    count, leftover = len(added), _files(root) - before
    overhead = sum(added.values()) / count / (answer + reading)
    print(f"  {count} variants cost {count} plain passes {overhead:+.1%} (allowed {ALLOWED:+.0%}); "
          f"peak {peaks[1]} MiB after two, {peaks[-1]} MiB after {count}; "
          f"{len(leftover)} files left")  # fmt: skip
    return overhead <= ALLOWED and not leftover


def _reader(corpus: Corpus) -> Callable[[int], object]:
    """Return a function that reads an item's image as a loop without a harness would."""
    if not tasks.is_stock(corpus.name):
        return lambda index: open_image(corpus.splits["test"][index].image)
    return build(tasks.parse_variant(corpus.name), corpus).images_of


def _files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


if __name__ == "__main__":
    sys.exit(0 if main(*arguments(__doc__, items=240)) else 1)
