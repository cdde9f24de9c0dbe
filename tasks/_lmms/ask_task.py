"""Tasks answered in words: one request for a greedy answer a document."""

from typing import Any

from lmms_eval.api.instance import Instance

from steelyard.tasks._lmms.memory_task import MemoryTask


class AskTask(MemoryTask):
    """An lmms-eval task that asks for an answer in words, as any of its models gives it."""

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> Instance:
        """One request, answered by ``generate_until`` with a string."""
        place = (doc_id, self.config.task, self.config.test_split)
        return Instance(
            request_type="generate_until",
            arguments=(ctx, dict(self.config.generation_kwargs), self.doc_to_visual, *place),
            idx=0,
            **kwargs,
        )
