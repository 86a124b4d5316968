"""What a caller asks a generator for; this module needs no torch."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rpg.generator.describe import describe
from rpg.utils import task_codes
from rpg.utils.condition_requests import NOT_ON_QUESTIONS, States, Vectors
from rpg.utils.errors import UserError, one_line, suggestion

if TYPE_CHECKING:
    from rpg.tasks.config import TaskConfig


class Choices(Protocol):
    """The tasks that a generator knows: those of a task block, or of a packed generator."""

    @property
    def classes(self) -> Sequence[str] | None:
        """The names of a task code's bits; None without task codes."""

    @property
    def in_words(self) -> bool:
        """Whether a sentence about the data set's classes can name a task."""

    @property
    def dataset(self) -> str:
        """The data set's short name."""


def task_code(
    task: Choices,
    classes: Sequence[int | str] | None,
    code: str | None,
    sentence: str | None,
    language_model: Path | None = None,
) -> str | None:
    """Return the task code from classes, code or sentence, or None; UserError for several of them or an invalid one.

    The causal language model in the folder `language_model`, or else a lexicon, reads the sentence.
    """
    options = {"classes": classes, "code": code, "describe": sentence}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} may contradict each other: give one of them")
    if not given:
        return None
    names = task.classes
    if names is None:
        raise UserError(f"--{given[0]}: the networks of this experiment have no tasks to choose from")
    if classes is not None:
        return _of_classes(classes, names)
    if code is not None:
        return check_code(code, len(names))
    if sentence is not None:
        if not task.in_words:
            raise UserError(
                f"--describe: the bits of these tasks are no classes; use --code, or --classes with {names[0]!r}"
            )
        return describe(sentence, task.dataset, language_model)
    return None


def scored_task(task: "TaskConfig", classes: Sequence[int | str] | None, code: str | None) -> str | None:
    """Return the task that a network is to be scored in, as `task_code` does; tasks without bits have names."""
    if task.task_names and code is not None and classes is None:
        if code not in task.task_names:
            raise UserError(f"--code {code}: no such task{suggestion(code, task.task_names)}")
        return code
    return task_code(task, classes, code, None)


def check_code(code: str, classes: int) -> str:
    """Return `code`; UserError unless it has `classes` bits, some 0 and some 1."""
    if not isinstance(code, str) or len(code) != classes or set(code) - {"0", "1"}:
        raise UserError(f"--code {code}: must be {classes} digits 0 or 1, one for each class, class 0 first")
    if not task_codes.valid(code, classes):
        raise UserError(f"--code {code}: all bits are {code[0]}; a task needs classes on both sides")
    return code


def _of_classes(classes: Sequence[int | str], names: Sequence[str]) -> str:
    indices = set()
    for entry in classes:
        text = str(entry).strip().lower()
        if text in names:
            indices.add(names.index(text))
        elif text.isdecimal() and int(text) < len(names):
            indices.add(int(text))
        else:
            raise UserError(f"--classes: no class '{text}'; known: {', '.join(names)}")
    if not 0 < len(indices) < len(names):
        raise UserError(f"--classes: a task needs classes on both sides; name 1 to {len(names) - 1} of {len(names)}")
    return task_codes.of_classes(indices, len(names))


def check_out(out: Path, adapters: bool) -> None:
    """Raise UserError if the path `out` has the wrong suffix for a network, or for one of `adapters`."""
    if not adapters and out.suffix != ".safetensors":
        raise UserError(f"--out {out}: must end in .safetensors")
    if adapters and out.suffix:
        raise UserError(f"--out {out}: an adapter is a folder; name one without a suffix")


class NetworkGenerator(Protocol):
    """What makes networks: a trained RPG, by torch or by an exported graph."""

    @property
    def task(self) -> Choices: ...
    @property
    def language_model(self) -> Path | None: ...
    def networks(
        self,
        count: int,
        code: str | None,
        states: States | None,
        seed: int | None = None,
        steps: int | None = None,
        vectors: Vectors | None = None,
        prompt: Any = None,
    ) -> Sequence[Any]: ...
    @property
    def image_form(self) -> Any: ...
    @property
    def takes_questions(self) -> bool: ...
    def write(self, path: Path, network: Any) -> None: ...
    def zoo_membership(self, code: str) -> str: ...
    def outside(self, vectors: Vectors | None, prompt: Any = None) -> list[str]: ...


def generate_files(
    generator: NetworkGenerator,
    out: Path,
    *,
    classes: Sequence[str] | None,
    code: str | None,
    sentence: str | None,
    count: int,
    states: States | None,
    seed: int | None,
    steps: int | None,
    vectors: Vectors | None,
    images: Path | None = None,
    prompts: Path | None = None,
) -> None:
    """Write one network to `out`, or `count` to <out>-0, <out>-1, ..., and print each network's states and code.

    An adapter becomes a folder for peft, any other network a .safetensors file. A number outside of the zoo's range, or
    questions of unknown words, give a warning. `images` is a folder of a prompt's pictures, `prompts` a file of a
    prompt's questions.
    """
    task = generator.task
    chosen = task_code(task, classes, code, sentence, generator.language_model)
    if sentence is not None and chosen and task.classes:
        means = ", ".join(name for name, bit in zip(task.classes, chosen, strict=True) if bit == "1")
        translator = generator.language_model or "the lexicon"
        print(f"'{sentence}' is {chosen} for {translator}: {means} (correct it with --code)")
    prompt, lines = _prompt(generator, images, prompts, seed or 0)
    for line in (*lines, *generator.outside(vectors, prompt)):
        print(one_line(f"look: {line}"), file=sys.stderr)
    for index, network in enumerate(generator.networks(count, chosen, states, seed, steps, vectors, prompt)):
        path = out if count == 1 else out.with_stem(f"{out.stem}-{index}")
        generator.write(path, network)
        facts = [" and ".join(f"state {state}" for state in network.states)]
        if network.code:
            facts = [f"code {network.code} ({generator.zoo_membership(network.code)})", *facts]
        print(one_line(f"{path}: {', '.join(facts)}"))


def _prompt(generator: NetworkGenerator, images: Path | None, prompts: Path | None, seed: int) -> tuple[Any, list[str]]:
    """Return the prompt of a folder of pictures or a file of questions, or None, and lines that say what was read."""
    if images and prompts:
        raise UserError("--images and --prompts may contradict each other: give one of them")
    # Pillow and torch are not needed for other requests.
    if images:
        form = generator.image_form
        from rpg.generator.prompt_images import read_prompt

        return read_prompt(images, form, seed)
    if prompts:
        if not generator.takes_questions:
            raise UserError(NOT_ON_QUESTIONS)
        from rpg.generator.prompt_questions import read_question_prompt

        return read_question_prompt(prompts, seed)
    return None, []


def zoo_membership(code: str, learned: Collection[str], held_out: Collection[str]) -> str:
    """Return "seen", "held out" or "not in the zoo": whether the zoo has checkpoints for the task of `code`."""
    if code in learned:
        return "seen"
    return "held out" if code in held_out else "not in the zoo"


def split_classes(text: str | None) -> list[str] | None:
    """Return the classes of the option --classes."""
    return None if text is None else text.split(",")


def _split_vector(text: str) -> tuple[str, list[float]]:
    name, _, numbers = text.partition("=")
    try:
        return name, [float(number) for number in numbers.split(",")]
    except ValueError as error:
        raise UserError(f"--vector {text}: must be NAME=NUMBERS, as validation_top1=98.5") from error


def split_states(text: str | None) -> States | None:
    """Return the permutation states of the option --state; UserError unless they are numbers."""
    try:
        return None if text is None else tuple(int(state) for state in text.split(","))
    except ValueError as error:
        raise UserError(f"--state {text}: must be a number, as 3, or several, as 2,5") from error


def split_vectors(texts: Sequence[str]) -> Vectors:
    """Return name → numbers of the options --vector; UserError unless each is NAME=NUMBERS."""
    return dict(map(_split_vector, texts))
