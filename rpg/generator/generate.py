"""Generate networks: `rpg generate --experiment digits-tasks --classes 3,8 --out eights.safetensors`.

In Python, `rpg.generate("digits-tasks", classes=[3, 8])` returns a state dict.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from rpg.generator.describe import describe
from rpg.generator.trained import TrainedRPG
from rpg.tasks.config import TaskConfig
from rpg.training.conditions import States, Vectors
from rpg.utils import task_codes
from rpg.utils.errors import UserError, one_line


def generate(
    experiment: str,
    *,
    classes: Sequence[int | str] | None = None,
    code: str | None = None,
    describe: str | None = None,
    state: int | Sequence[int] | None = None,
    seed: int | None = None,
    steps: int | None = None,
    vectors: Vectors | None = None,
    root: Path | str = ".",
) -> dict[str, Tensor]:
    """Return the state dict of one new network, on the CPU.

    Choose the task by `classes` (indices or names), by a task `code` ("0001000010") or in words (`describe`). `state`
    chooses one permutation state, or several to mix in equal shares. `vectors` sets conditions of the kind `vector` by
    name. Omitted values are drawn. An omitted seed or number of steps comes from params.yaml in the folder `root`.

    Raises UserError if the experiment is not trained, or if the request is contradictory or unknown.
    """
    generator = TrainedRPG.of_experiment(experiment, Path(root))
    chosen = task_code(generator.task, classes, code, describe, generator.language_model)
    states = (state,) if isinstance(state, int) else state
    return generator.networks(1, chosen, tuple(states) if states else None, seed, steps, vectors)[0].state_dict


def task_code(
    task: TaskConfig,
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


def generate_files(
    trained: TrainedRPG,
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
) -> None:
    """Write one network to `out`, or `count` to <out>-0, <out>-1, ..., and print each network's states and code.

    An adapter becomes a folder for peft, any other network a .safetensors file.
    """
    task = trained.task
    chosen = task_code(task, classes, code, sentence, trained.language_model)
    if sentence is not None and chosen and task.classes:
        means = ", ".join(name for name, bit in zip(task.classes, chosen, strict=True) if bit == "1")
        translator = trained.language_model or "the lexicon"
        print(f"'{sentence}' is {chosen} for {translator}: {means} (correct it with --code)")
    for index, network in enumerate(trained.networks(count, chosen, states, seed, steps, vectors)):
        path = out if count == 1 else out.with_stem(f"{out.stem}-{index}")
        trained.write(path, network)
        facts = [" and ".join(f"state {state}" for state in network.states)]
        if network.code:
            facts = [f"code {network.code} ({trained.zoo_membership(network.code)})", *facts]
        print(one_line(f"{path}: {', '.join(facts)}"))


def check_out(out: Path, adapters: bool) -> None:
    """Raise UserError if the path `out` has the wrong suffix for a network, or for one of `adapters`."""
    if not adapters and out.suffix != ".safetensors":
        raise UserError(f"--out {out}: must end in .safetensors")
    if adapters and out.suffix:
        raise UserError(f"--out {out}: an adapter is a folder; name one without a suffix")
