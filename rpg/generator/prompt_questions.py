"""A prompt of questions without answers: a file of them, or texts in Python.

A text file has a question on each line. A JSON file holds a question, a list of them, or one on each line. There a
question is a text, or an object of LLM-Adapters with the texts instruction and input; an answer in it is never read.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpg.training.prompts import MOST_QUESTIONS
from rpg.utils.errors import UserError

EXAMPLE = "write a question on each line"


@dataclass(frozen=True)
class QuestionPrompt:
    """Questions, each an instruction and its input, which is often empty."""

    questions: Sequence[tuple[str, str]]


def read_question_prompt(file: Path, seed: int = 0) -> tuple[QuestionPrompt, list[str]]:
    """Return the questions in a file, and lines that say what was read.

    Of more than MOST_QUESTIONS questions, MOST_QUESTIONS are drawn by `seed`. Raises UserError for a file that can't be
    read, that holds no question, or that holds something else.
    """
    try:
        # Windows' editors put a byte order mark before the text.
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"--prompts {file}: no such file; {EXAMPLE}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts {file}: cannot be read as text ({type(error).__name__}); {EXAMPLE}") from error
    try:
        values = _values(text, file.suffix.lower() in (".json", ".jsonl"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"--prompts {file}: is no JSON ({str(error)[:80]}); {EXAMPLE} of a .txt file") from error
    prompt = given_questions(values, f"--prompts {file}")
    count = len(prompt.questions)
    lines = []
    if count > MOST_QUESTIONS:
        lines.append(f"{file.name} has {count} questions; RPG takes {MOST_QUESTIONS} of them, drawn by the seed")
    return chosen(prompt, seed), lines


def _values(text: str, is_json: bool) -> list[Any]:
    if not is_json:
        return [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and not lines[0].lstrip().startswith("[") and _is_json(lines[0]):
        return [json.loads(line) for line in lines]
    whole = json.loads(text) if lines else []
    return whole if isinstance(whole, list) else [whole]


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def given_questions(values: Any, name: str = "prompts") -> QuestionPrompt:
    """Return the prompt of a list of texts, or of objects with the texts instruction and input.

    Raises UserError for another type, for an empty question and for an empty list; `name` says where they come from.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UserError(f"{name}: must be a list of questions")
    if not values:
        raise UserError(f"{name}: holds no question; {EXAMPLE}")
    return QuestionPrompt([_question(value, f"{name}: question {index}") for index, value in enumerate(values, 1)])


def _question(value: Any, where: str) -> tuple[str, str]:
    instruction, given = (value.get("instruction"), value.get("input", "")) if isinstance(value, dict) else (value, "")
    if not isinstance(instruction, str) or not isinstance(given, str):
        raise UserError(f"{where}: must be a text, or an object with the texts instruction and input")
    if not instruction.strip():
        raise UserError(f"{where}: is empty; remove it")
    return instruction, given


def chosen(prompt: QuestionPrompt, seed: int) -> QuestionPrompt:
    """Return at most MOST_QUESTIONS of the questions, drawn by `seed`."""
    if len(prompt.questions) <= MOST_QUESTIONS:
        return prompt
    return QuestionPrompt(random.Random(seed).sample(list(prompt.questions), MOST_QUESTIONS))
