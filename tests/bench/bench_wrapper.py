"""Yes/no questions through steelyard's model and through lmms-eval's ``llava_hf``, on one model.

``python tests/bench/bench_wrapper.py [ITEMS]`` prints CPU seconds of both on POPE questions of the
generated world and how many answers agree. ``llava_hf`` can only answer one question at a time.
"""

import copy
import sys
import types
from typing import Any

import torch
from timing import arguments, in_turns

from steelyard import tasks
from steelyard.harness.core.compat import import_lmms_eval
from steelyard.harness.models import vlm_build, vlm_config
from steelyard.harness.models.tiny_vlm import train
from steelyard.harness.runs.parallel import quiet_heavy_libraries
from steelyard.tasks import build

ROUNDS = 3


def main(items: int) -> None:
    """Time both in turns and compare their answers."""
    quiet_heavy_libraries()
    import_lmms_eval()
    from steelyard.harness.evaluation.lmms_model import Scorer

    source = str(train.ensure(device="cpu"))
    corpus = tasks.load("pope", tasks.find_root("pope"))
    task = build(tasks.parse_variant("pope"), corpus, limit=items)
    task.build_all_requests()
    backbone = vlm_build.build(
        source, vlm_config.configure(source, {"tune": "full"}), 0, "cpu"
    ).eval()
    models = {"steelyard": Scorer(backbone), "llava_hf": _stock(source)}
    answers: dict[str, list[str]] = {}

    def answer(name: str) -> None:
        results = models[name].generate_until(_copies(task.instances))
        answers[name] = [getattr(result, "text", result).strip() for result in results]

    for model in models.values():
        model.task_dict[task.task_name] = task.dataset
    times = in_turns({name: lambda name=name: answer(name) for name in models}, ROUNDS)
    ours, stock = (min(times[name]) for name in models)
    agree = sum(map(str.__eq__, answers["steelyard"], answers["llava_hf"]))
    print(f"{items} questions: steelyard {ours:.2f} CPU-s, llava_hf {stock:.2f} CPU-s, "
          f"{stock / ours:.1f} times; {agree} of {items} answers equal")  # fmt: skip


def _copies(requests: list[Any]) -> list[Any]:
    """Copy requests together with their settings, because the stock model edits them."""
    copies = []
    for request in requests:
        duplicate = copy.copy(request)
        context, settings, *rest = request.args
        duplicate.arguments = (context, dict(settings), *rest)
        copies.append(duplicate)
    return copies


def _stock(source: str) -> Any:
    # It imports decord for videos; images do not need it.
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
    main(*arguments(__doc__, items=200))
