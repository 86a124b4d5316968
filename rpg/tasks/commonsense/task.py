"""Commonsense reasoning with adapters of a language model, on eight benchmarks or on a world of facts."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rpg.data import data_folder
from rpg.tasks.commonsense.config import CommonsenseTask
from rpg.tasks.commonsense.facts import sentences, tokenizer, write_facts
from rpg.tasks.commonsense.language import LanguageTask
from rpg.tasks.commonsense.questions import SUBTASKS, Question, read_questions
from rpg.utils.errors import UserError
from rpg.utils.files import RESULTS

FACTS = RESULTS / "facts"
AVERAGE = "average accuracy"


class Commonsense(LanguageTask):
    """Accuracy on the subtasks, and the mean over the subtasks, by both protocols."""

    params: CommonsenseTask

    def __init__(self, params: CommonsenseTask, data_root: str | None) -> None:
        super().__init__(params, data_root, (AVERAGE, *(SUBTASKS[subtask] for subtask in params.subtasks)))

    @cached_property
    def folder(self) -> Path:
        """The folder of the questions; UserError if it does not exist."""
        if self.params.data == "facts":
            return write_facts(FACTS)
        return data_folder(self.params.data, self.data_root)

    @cached_property
    def questions(self) -> dict[str, dict[str, list[Question]]]:
        """Split → subtask → questions.

        The validation questions are the last training questions. Training and validation have only the subtask "".
        """
        training = [one for file in self.params.training for one in read_questions(self.folder / file)]
        count = self.params.validation
        if count >= len(training):
            raise UserError(
                f"params.yaml: task.validation: {count} of {len(training)} questions leave none to learn from; lower it"
            )
        files = {subtask: self.folder / "dataset" / subtask / "test.json" for subtask in self.params.subtasks}
        return {
            "train": {"": training[:-count]},
            "validation": {"": training[-count:]},
            "test": {subtask: read_questions(file) for subtask, file in files.items()},
        }

    def asked(self, split: str, code: str | None) -> Mapping[str, list[Question]]:
        return self.questions[split]

    def world_tokenizer(self) -> Any:
        return tokenizer()

    def world_sentences(self, draw: np.random.Generator) -> Iterator[tuple[str, str]]:
        return sentences(draw)

    def check(self) -> None:
        assert self.questions
        super().check()
