"""Yes/no questions through steelyard's model and through lmms-eval's own ``llava_hf``, one model.

``python tests/bench/bench_wrapper.py [ITEMS]`` prints CPU seconds of both on POPE questions of the
generated world and how many answers agree. ``llava_hf`` answers one question at a time, all it can.
"""

import copy
import sys
import time
import types
from typing import Any

import torch

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.models.tiny_vlm import train
from steelyard.harness.runs.parallel import quiet_heavy_libraries

ROUNDS = 3


def main(items: int) -> None:
    """Time both in turn and compare their answers."""
    quiet_heavy_libraries()
    import_lmms_eval()
    from steelyard.harness.evaluation.lmms_model import Scorer

    source = str(train.ensure())
    corpus = tasks.load("pope", tasks.find_root("pope"))
    task = tasks.build(tasks.parse_variant("pope"), corpus, limit=items)
    task.build_all_requests()
    ours = Scorer(vlm_build.build(source, vlm_config.configure(source, {"tune": "full"}), 0).eval())
    stock = _stock(source)
    for model in (ours, stock):
        model.task_dict[task.task_name] = task.dataset
    seconds: dict[str, list[float]] = {"steelyard": [], "llava_hf": []}
    answers: dict[str, list[str]] = {}
    for _ in range(ROUNDS):
        for name, model in (("steelyard", ours), ("llava_hf", stock)):
            start = time.process_time()
            found = model.generate_until(_copies(task.instances))
            seconds[name].append(time.process_time() - start)
            answers[name] = [getattr(one, "text", one) for one in found]
    best = {name: min(times) for name, times in seconds.items()}
    pairs = zip(answers["steelyard"], answers["llava_hf"], strict=True)
    agree = sum(left.strip() == right.strip() for left, right in pairs)
    print(f"{items} questions: steelyard {best['steelyard']:.2f} CPU-s, llava_hf "
          f"{best['llava_hf']:.2f} CPU-s, {best['llava_hf'] / best['steelyard']:.1f} times; "
          f"{agree} of {items} answers equal")  # fmt: skip


def _copies(requests: list[Any]) -> list[Any]:
    """The requests with settings of their own, because the stock model edits them."""
    made = []
    for request in requests:
        one = copy.copy(request)
        context, settings, *rest = request.args
        one.arguments = (context, dict(settings), *rest)
        made.append(one)
    return made


def _stock(source: str) -> Any:
    # It imports decord for videos; images need none of it.
    decord = types.ModuleType("decord")
    vars(decord).update(VideoReader=None, cpu=None)
    sys.modules.setdefault("decord", decord)
    from lmms_eval.models.simple import llava_hf

    model = llava_hf.LlavaHf(
        pretrained=source, device="cpu", device_map="cpu", dtype=torch.float32, batch_size=1
    )
    model.chat_template = model._image_processor.chat_template  # else it takes Vicuna's
    return model


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
