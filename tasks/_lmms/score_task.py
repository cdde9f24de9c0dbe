"""Tasks answered by class probabilities: one request for all of them a document."""

from typing import Any

from lmms_eval.api.instance import Instance

from steelyard.tasks._lmms.memory_task import MemoryTask


class ScoreTask(MemoryTask):
    """An lmms-eval task that asks for the probabilities of all classes at once."""

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> Instance:
        """One request, answered by ``score_choices`` with a JSON list of probabilities."""
        doc = self.content.docs[doc_id]
        question = {
            "id": doc["id"],
            "text": doc["text"],
            "choices": self.content.choices,
            "multi_label": self.content.multi_label,
        }
        place = (doc_id, self.config.task, self.config.test_split)
        return Instance(
            request_type="score_choices",
            arguments=(ctx, question, self.doc_to_visual, *place),
            idx=0,
            **kwargs,
        )
