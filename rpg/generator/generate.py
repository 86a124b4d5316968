"""Generate networks: `rpg generate --experiment digits-tasks --classes 3,8 --out eights.safetensors`.

In Python, `rpg.generate("digits-tasks", classes=[3, 8])` returns a state dict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rpg.blocks import PARAMS_FILE
from rpg.config.experiment import Experiment
from rpg.config.loading import load_params
from rpg.config.params import Params
from rpg.generator.describe import describe
from rpg.generator.sample import sample_networks
from rpg.model.diffusion import T
from rpg.model.rpg import RPG
from rpg.paths import paths_of
from rpg.tasks.loading import load_task
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import States, Vectors
from rpg.training.model_file import load_rpg, read_config
from rpg.utils import task_codes
from rpg.utils.device import device
from rpg.utils.errors import UserError, one_line
from rpg.utils.files import write_tensors


@dataclass(frozen=True)
class GeneratedNetwork:
    """A generated network: its weights, and the permutation states and task code of its request."""

    state_dict: dict[str, Tensor]
    states: States
    code: str | None


class Generator:
    """A trained RPG, loaded once to generate many networks; `root` is the folder of params.yaml."""

    def __init__(self, experiment: str, root: Path = Path()) -> None:
        """Load the RPG; UserError if params.yaml has no such experiment, or if the experiment is not trained."""
        self.name, self.params = experiment, load_params(root / PARAMS_FILE)
        self.experiment = self.params.experiment(experiment)
        paths = paths_of(self.params, experiment, root / "results")
        self.store = TokenStore(paths.folder("tokens"))
        folder = paths.generator(self.experiment)
        self.model: RPG = load_rpg(folder, self.store, device())
        self.conditions = read_config(folder).model.conditions

    def networks(
        self,
        count: int,
        code: str | None,
        states: States | None,
        seed: int | None = None,
        steps: int | None = None,
        vectors: Vectors | None = None,
    ) -> list[GeneratedNetwork]:
        """Generate `count` networks; each network draws a code or states that are None, and omitted vectors.

        Network k depends on the seed and on k alone. Raises UserError for an unknown state or vector, for a code if
        the experiment has no task codes, and for a number of steps outside of 1 to 1000.
        """
        if steps is not None and not 1 <= steps <= T:
            raise UserError(f"--steps {steps}: must be between 1 and {T}")
        chosen = self.experiment.sample
        update = {"seed": chosen.seed if seed is None else seed, "steps": chosen.steps if steps is None else steps}
        requests = [(states, code)] * count
        networks = sample_networks(
            self.model,
            self.conditions,
            self.store,
            chosen.model_copy(update=update),
            requests,
            vectors,
            precision=self.experiment.train.precision,
        )
        return [GeneratedNetwork(*network) for network in networks]

    def zoo_membership(self, code: str) -> str:
        """Return "seen", "held out" or "not in the zoo": whether the zoo has checkpoints for the task of `code`."""
        for membership, checkpoints in (("seen", self.store.checkpoints), ("held out", self.store.held_out)):
            if any(checkpoint.code == code for checkpoint in checkpoints):
                return membership
        return "not in the zoo"


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
    generator = Generator(experiment, Path(root))
    chosen = task_code(generator.params, generator.experiment, classes, code, describe)
    states = (state,) if isinstance(state, int) else state
    return generator.networks(1, chosen, tuple(states) if states else None, seed, steps, vectors)[0].state_dict


def task_code(
    params: Params,
    experiment: Experiment,
    classes: Sequence[int | str] | None,
    code: str | None,
    sentence: str | None,
) -> str | None:
    """Return the task code from classes, code or sentence, or None; UserError for several of them or an invalid one."""
    options = {"classes": classes, "code": code, "describe": sentence}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} may contradict each other: give one of them")
    if not given:
        return None
    names = experiment.task.classes
    if names is None:
        raise UserError(f"--{given[0]}: the networks of this experiment have no tasks to choose from")
    if classes is not None:
        return _of_classes(classes, names)
    if code is not None:
        return check_code(code, len(names))
    if sentence is not None:
        if not experiment.task.in_words:
            raise UserError(
                f"--describe: the bits of these tasks are no classes; use --code, or --classes with {names[0]!r}"
            )
        return describe(
            sentence, experiment.task.dataset, Path(params.language_model) if params.language_model else None
        )
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
    experiment: str,
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

    An adapter becomes a folder for peft, any other network a .safetensors file. Raises UserError if `out` has the wrong
    suffix.
    """
    params = load_params()
    task = params.experiment(experiment).task
    # `rpg tokens` ensures that adapters, and only adapters, have this block.
    adapters = params.experiment(experiment).tokens.canonical is not None
    if not adapters and out.suffix != ".safetensors":
        raise UserError(f"--out {out}: must end in .safetensors")
    if adapters and out.suffix:
        raise UserError(f"--out {out}: an adapter is a folder; name one without a suffix")
    chosen = task_code(params, params.experiment(experiment), classes, code, sentence)
    generator = Generator(experiment)
    if sentence is not None and chosen and task.classes:
        means = ", ".join(name for name, bit in zip(task.classes, chosen, strict=True) if bit == "1")
        translator = params.language_model or "the lexicon"
        print(f"'{sentence}' is {chosen} for {translator}: {means} (correct it with --code)")
    for index, network in enumerate(generator.networks(count, chosen, states, seed, steps, vectors)):
        path = out if count == 1 else out.with_stem(f"{out.stem}-{index}")
        if adapters:
            load_task(task, params.data_root).write(path, network.state_dict)
        else:
            write_tensors(path, network.state_dict, {"task_code": network.code} if network.code else None)
        facts = [" and ".join(f"state {state}" for state in network.states)]
        if network.code:
            facts = [f"code {network.code} ({generator.zoo_membership(network.code)})", *facts]
        print(one_line(f"{path}: {', '.join(facts)}"))
