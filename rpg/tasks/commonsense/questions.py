"""Read the eight commonsense benchmarks in the files of LLM-Adapters (Hu et al. 2023) and DoRA (Liu et al. 2024).

The files are `dataset/<subtask>/test.json` and training files anywhere: JSON lists of objects with the text fields
instruction, input, output and answer. An instruction ends in the names of its choices, "Answer format:
answer1/answer2/answer3".
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpg.utils.errors import UserError

# Folder of a subtask → its usual name, in the order of the published tables.
SUBTASKS = {
    "boolq": "BoolQ",
    "piqa": "PIQA",
    "social_i_qa": "SIQA",
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "ARC-Easy": "ARC-e",
    "ARC-Challenge": "ARC-c",
    "openbookqa": "OBQA",
}
# The name of a score by likelihood. A score of generated answers has the subtask's name.
LIKELIHOOD = "{} (likelihood)"
FIELDS = ("instruction", "input", "output", "answer")
# Names of answers: the published extraction takes the first of these names in an output.
NAMES = {"true": r"true|false", "false": r"true|false"} | {
    f"{stem}1": "|".join(f"{stem}{k}" for k in range(1, most + 1))
    for stem, most in (("solution", 2), ("answer", 5), ("ending", 4), ("option", 2))
}
FORMAT = re.compile(r"Answer format: (\S+)\s*$")
# The prompts of the published evaluation. Blanks matter, because adapters are trained with them.
PROMPT = """\
Below is an instruction that describes a task. Write a response that appropriately completes the request. 

                ### Instruction:
                {instruction}

                ### Response:
                """
PROMPT_WITH_INPUT = """\
Below is an instruction that describes a task, paired with an input that provides further context. Write a response \
that appropriately completes the request.

                ### Instruction:
                {instruction}

                ### Input:
                {input}

                ### Response:
                """
ANSWER = "the correct answer is "


def prompt(instruction: str, given: str = "") -> str:
    """Return the text that a language model continues, for an instruction and its input."""
    return (PROMPT_WITH_INPUT if given else PROMPT).format(instruction=instruction, input=given)


@dataclass(frozen=True)
class Question:
    """A question: `choices` are the names of its possible answers, `answer` is the index of the right one.

    A language model reads the text `before`, such as other questions with answers, in front of the question.
    """

    instruction: str
    input: str
    output: str
    choices: tuple[str, ...]
    answer: int
    before: str = ""

    @property
    def prompt(self) -> str:
        """The text that a language model continues."""
        return self.before + prompt(self.instruction, self.input)

    def extract(self, text: str) -> int:
        """Return the index of the choice that a model's text names first; -1 if it names none.

        The extraction is that of the published evaluation.
        """
        name = re.search(NAMES[self.choices[0]], text)
        return self.choices.index(name[0]) if name and name[0] in self.choices else -1


def read_questions(path: Path) -> list[Question]:
    """Read the questions in a JSON list, or in a file with one JSON object per line.

    Raises UserError that names the first faulty question.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; arrange the data in the folders of LLM-Adapters") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    trees: list[tuple[str, Any]] = []
    line = 1
    try:
        if text.lstrip().startswith("["):
            trees = [(f"question {index}", tree) for index, tree in enumerate(json.loads(text), 1)]
        else:
            for line, row in enumerate(text.splitlines(), 1):
                if row.strip():
                    trees.append((f"line {line}", json.loads(row)))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {line + error.lineno - 1}: not JSON ({error.msg})") from error
    except RecursionError as error:
        raise UserError(f"{path}: not a list of questions; download it again") from error
    if not trees:
        raise UserError(f"{path}: holds no question; download it again")
    return [_question(tree, f"{path}: {where}") for where, tree in trees]


def _question(tree: Any, where: str) -> Question:
    if not isinstance(tree, dict) or not all(isinstance(tree.get(field), str) for field in FIELDS):
        raise UserError(f"{where}: must have the text fields {', '.join(FIELDS)}")
    named = FORMAT.search(tree["instruction"])
    choices = tuple(named[1].split("/")) if named else ()
    if not choices or choices[0] not in NAMES or len(set(choices)) < 2:
        raise UserError(f"{where}: its instruction must end as in 'Answer format: answer1/answer2/answer3'")
    if tree["answer"] not in choices:
        raise UserError(f"{where}: the answer '{tree['answer'][:40]}' is not among {'/'.join(choices)}")
    return Question(tree["instruction"], tree["input"], tree["output"], choices, choices.index(tree["answer"]))
