"""What N variants of a task cost beside N plain passes of a model over its images.

``python bench_variants.py [ITEMS]`` scores generated 640 x 480 photos as our POPE in its
official layout and as lmms-eval's own MME from parquet. A plain pass reads each image and
generates, with nothing around it; its time is a random LLaVA's. What a variant adds to that, the
damage included, is measured with answers that cost nothing, for a model's own seconds scatter by
more than that. Printed are CPU milliseconds an item, the process's peak memory after the second
and after the last variant, and what files the variants left behind.
"""

import io
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import stock_data
import tiny_vlms
from PIL import Image

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.core.examples import Corpus, Inputs
from steelyard.harness.core.seeds import seed_for
from steelyard.harness.evaluation.evaluate import evaluate
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.runs.parallel import quiet_heavy_libraries
from steelyard.tasks._shared.images import open_image
from steelyard.tasks.corruptions import CORRUPTIONS

SIZE = tiny_vlms.Size(hidden=768, layers=12, heads=12, vision_hidden=384, vision_layers=6)
"""Some 90 M parameters, fewer than any model that is used in earnest."""
PLAIN_ITEMS = 32
TOKENS = 16
"""The longest answer that both tasks allow."""
ALLOWED = 0.10
PROMPT = "Is there a thing in the image?\nAnswer the question using a single word or phrase."


class Mute:
    """A backbone that is shown everything and answers for nothing."""

    name, classes = "mute", ()

    def generate(self, inputs: Sequence[Inputs], max_tokens: int) -> list[str]:
        return ["yes" for _ in inputs]

    def count_tokens(self, text: str) -> int:
        return 1


def main(items: int) -> bool:
    """Print both tables; whether both tasks stay within what is allowed."""
    quiet_heavy_libraries()
    import_lmms_eval()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["LMMS_EVAL_DATASETS_CACHE"] = str(root / "cache")
        photos = [_photo(number) for number in range(items)]
        generating = _generating(root, photos[:PLAIN_ITEMS])
        corpora = (_ours(root / "pope", photos), _theirs(root / "stock", photos))
        kept = [_measure(corpus, generating, root) for corpus in corpora]
    return all(kept)


def _photo(number: int) -> bytes:
    """A smooth random picture as a camera's JPEG would have it."""
    rng = np.random.default_rng(seed_for("photo", number))
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def _generating(root: Path, photos: list[bytes]) -> Callable[[], float]:
    """Measures a model's CPU milliseconds for one answer, image processing included."""
    path = str(tiny_vlms.make("llava", root / "model", SIZE))
    model = vlm_build.build(path, vlm_config.configure(path, {"tune": "full"}), 0).eval()
    images = [Image.open(io.BytesIO(photo)).convert("RGB") for photo in photos]
    asked = [Inputs(image, None, PROMPT) for image in images]
    model.generate(asked, TOKENS)  # the first pass warms up
    return lambda: _milliseconds(lambda: model.generate(asked, TOKENS)) / len(asked)


def _ours(root: Path, photos: list[bytes]) -> Corpus:
    (root / "images").mkdir(parents=True)
    rows = []
    for number, photo in enumerate(photos):
        name = f"COCO_val2014_{number:012}.jpg"
        (root / "images" / name).write_bytes(photo)
        text, label = f"Is there a thing {number} in the image?", ("yes", "no")[number % 2]
        rows.append({"question_id": number, "image": name, "text": text, "label": label})
    for place, kind in enumerate(("random", "popular", "adversarial")):
        lines = "".join(json.dumps(row) + "\n" for row in rows[place::3])
        (root / f"coco_pope_{kind}.json").write_text(lines)
    return tasks.load("pope", root)


def _theirs(root: Path, photos: list[bytes]) -> Corpus:
    rows = stock_data.mme(len(photos))
    for row, photo in zip(rows, photos, strict=True):
        row["image"] = Image.open(io.BytesIO(photo))
    return tasks.load("stock/mme", stock_data.write(root, rows))


def _measure(corpus: Corpus, generating: Callable[[], float], root: Path) -> bool:
    items = len(corpus.splits["test"])
    read = _reader(corpus)
    reading = _milliseconds(lambda: [read(place) for place in range(items)]) / items
    corruption = ["", *(name for name, kind in CORRUPTIONS.items() if kind.modality == "image")]
    before, added, peaks = _files(root), {}, []
    answer = generating()
    for name in corruption:
        if name and CORRUPTIONS[name].apply is None:
            continue  # the model's own attack, whose cost is that of its passes
        variant = tasks.parse_variant(f"{corpus.name}@{name}" if name else corpus.name)
        spent = _milliseconds(lambda variant=variant: evaluate(Mute(), variant, corpus))
        added[variant.name] = spent / items - reading
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    answer = min(answer, generating())  # whichever was less disturbed
    print(f"{corpus.name}: {items} items; a plain pass is {answer:.0f} ms of generating an answer "
          f"and {reading:.1f} ms of reading its image")  # fmt: skip
    for name, extra in added.items():
        print(f"  {name:20} {extra:+6.1f} ms an item")
    count, left = len(added), _files(root) - before
    share = sum(added.values()) / count / (answer + reading)
    print(f"  {count} variants cost {count} plain passes {share:+.1%} (allowed {ALLOWED:+.0%}); "
          f"peak {peaks[1]} MiB after two, {peaks[-1]} MiB after {count}; "
          f"{len(left)} files left")  # fmt: skip
    return share <= ALLOWED and not left


def _reader(corpus: Corpus) -> Callable[[int], object]:
    """Reads the image of an item, as a loop without a harness would."""
    if not tasks.is_stock(corpus.name):
        return lambda place: open_image(corpus.splits["test"][place].image)
    return tasks.build(tasks.parse_variant(corpus.name), corpus).pictures


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def _files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 240) else 1)
