"""Measure networks for prompts beside rivals that see the same images: `rpg prompts --experiment digits-prompts`.

Writes prompts.csv, a row for each method, support set and number of epochs of fine-tuning, prompts.md, the table, and
prompts.json with the seconds of each method for one support set. The support sets are training images of held-out
tasks, or of other data.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from rpg.config.experiment import Experiment
from rpg.config.prompts import PromptEvaluation
from rpg.evaluation.prompt_table import PromptTrial, prompt_table
from rpg.evaluation.refinement import refined
from rpg.evaluation.supports import Support, best_on, nearest_mean, probed, steps_of, tuned, voted
from rpg.generator.sample import sample_networks
from rpg.model.rpg import RPG
from rpg.model.set_encoder import support_values
from rpg.paths import Paths
from rpg.tasks.base import Judgement, PromptedTask
from rpg.tasks.config import Run
from rpg.tasks.loading import load_prompted
from rpg.tasks.stack import StateDict
from rpg.tokenizer.store import TokenStore
from rpg.training.conditions import ConditionTable
from rpg.training.model_file import load_rpg, read_config
from rpg.training.prompts import draw_support, prompts_base
from rpg.utils.device import describe, device
from rpg.utils.files import file_entry, read_tensors, write_sealed, write_text
from rpg.utils.progress import progress
from rpg.utils.rng import derive, generator

SPLITS = ("validation", "test")
# Support sets that a method's seconds are measured on, one by one.
TIMED = 3
# What makes networks or answers for support sets.
Networks = Callable[[Sequence[Support]], list[StateDict]]
Answers = Callable[[Support, str], Tensor]


@dataclass(frozen=True)
class PromptMethod:
    """A method's name, and the epochs of fine-tuning on the support set that follow it."""

    name: str
    epochs: int


class PromptRivals:
    """RPG and its rivals for support sets of one data set."""

    def __init__(self, experiment: Experiment, paths: Paths, task: PromptedTask, data: str) -> None:
        assert isinstance(experiment.prompts, PromptEvaluation)
        self.experiment, self.paths, self.params = experiment, paths, experiment.prompts
        self.task, self.data = task, data
        # The task as the data set's images ask it; its networks are those of `task`.
        self.on = task if data == "own" else task.on(data)
        self.base = prompts_base(experiment, paths.folder("base"))
        self.features = task.image_features(self.base)
        self.store = TokenStore(paths.folder("tokens"))

    @cached_property
    def codes(self) -> list[str]:
        """The held-out tasks; for hidden classes, each of them against the others."""
        return self.task.prompted_codes(self.data)

    @cached_property
    def prompts(self) -> int:
        """The number of support sets of a task."""
        # Other data may have fewer tasks, and get as many support sets.
        sets = self.params.prompts * len(self.task.prompted_codes("own"))
        return max(1, sets // len(self.codes))

    @cached_property
    def known(self) -> dict[str, Tensor]:
        """Split → features [n, F] of its images."""
        return {split: self.features(self.on.labeled_images(split)[0]) for split in ("train", *SPLITS)}

    def supports(self, count: int, evenly: bool) -> list[Support]:
        """Return `prompts` support sets of each task, with `count` images of no and of yes each."""
        images, classes_n = self.on.labeled_images("train")
        sets = []
        for code, number in product(self.codes, range(self.prompts)):
            draw = generator(self.params.seed, "prompts", code, number, count, int(evenly))
            no, yes = draw_support(classes_n, code, count, evenly, draw)
            answers = torch.tensor([0] * len(no) + [1] * len(yes))
            sets.append(Support(code, images[no + yes], answers, self.known["train"][no + yes]))
        return sets

    def inputs(self, supports: Sequence[Support]) -> Tensor:
        """Return the networks' inputs [E, n, C, H, W]."""
        images = torch.stack([support.images for support in supports])
        return self.on.network_inputs(images, [support.code for support in supports]).to(device())

    def generated(self, model: RPG, table: ConditionTable, steps: int, supports: Sequence[Support]) -> list[StateDict]:
        """Return a network of the generator for each support set."""
        values = support_values([support.sides() for support in supports])
        sample = self.experiment.sample.model_copy(update={"steps": steps, "seed": self.params.seed})
        requests = [((0,), None)] * len(supports)
        return [one for one, *_ in sample_networks(model, table, self.store, sample, requests, prompts=values)]

    def refined(self, model: RPG, supports: Sequence[Support]) -> list[StateDict]:
        """Return networks that are refined through the generator."""
        values = {
            "permutation_state": torch.eye(len(self.store.seeds))[:1].expand(len(supports), -1),
            "images": support_values([support.sides() for support in supports]),
        }
        answers_En = torch.stack([support.answers for support in supports])
        return refined(
            model,
            self.store,
            self.on,
            values,
            self.inputs(supports),
            answers_En,
            steps=self.params.refinement,
            learning_rate=self.params.refinement_rate,
            seed=derive(self.params.seed, "refined"),
        )

    def retrieved(self, supports: Sequence[Support]) -> list[StateDict]:
        """Return the zoo's network that answers each support set best."""
        inputs = self.inputs(supports)
        return [
            dict(self._stored[best_on(self.on, self._stored, own, support.answers)])
            for own, support in zip(inputs, supports, strict=True)
        ]

    @cached_property
    def _stored(self) -> list[StateDict]:
        folder = self.paths.folder("zoo")
        return [read_tensors(folder / checkpoint.file) for checkpoint in self.store.checkpoints]

    def based(self, supports: Sequence[Support]) -> list[StateDict]:
        """Return the base network with a head of zeros, for each support set."""
        own = self.task.network.state_dict()
        fitting = {name: self.base[name] if self.base[name].shape == of.shape else 0 * of for name, of in own.items()}
        return [{name: of.clone() for name, of in fitting.items()} for _ in supports]

    def random(self, supports: Sequence[Support]) -> list[StateDict]:
        """Return networks with random weights."""
        networks = []
        for index in range(len(supports)):
            torch.manual_seed(derive(self.params.seed, "random", index))
            networks.append(self.task.build().state_dict())
        return networks

    def tuned(self, steps: int, state_dicts: Sequence[StateDict], supports: Sequence[Support]) -> list[StateDict]:
        """Return the networks after `steps` steps on their support sets."""
        return tuned(
            self.on,
            state_dicts,
            self.inputs(supports),
            torch.stack([support.answers for support in supports]),
            steps=steps,
            batch=self.params.batch,
            learning_rate=self.params.learning_rate,
            seed=derive(self.params.seed, "tuned"),
        )

    def trained(self) -> dict[str, StateDict]:
        """Return code → a network that the zoo's recipe trains for the task, on all training images."""
        if self.data == "own":
            folder = self.paths.folder("zoo")
            return {one.code or "": read_tensors(folder / one.file) for one in self.store.held_out}
        seed = self.experiment.zoo.seeds[0]
        runs = [Run(seed=seed, code=code, held_out=True) for code in self.codes]
        last: list[StateDict] = []

        def keep(step: int, state_dicts: list[StateDict]) -> None:
            last[:] = state_dicts

        self.on.train(self.experiment.zoo, runs, [self.base] * len(runs), keep)
        return dict(zip(self.codes, last, strict=True))

    def judged(self, networks: Sequence[StateDict], codes: Sequence[str]) -> list[dict[str, float]]:
        """Return split → score of each network."""
        scores: list[dict[str, float]] = [{} for _ in networks]
        for split in SPLITS:
            for start in range(0, len(networks), self.on.judge_batch):
                part = slice(start, start + self.on.judge_batch)
                found = self.on.judge_all(networks[part], split, codes[part])
                for score, judgement in zip(scores[part], found, strict=True):
                    score[split] = judgement.scores[self.on.metric]
        return scores

    def answered(self, answers: Answers, supports: Sequence[Support]) -> list[dict[str, float]]:
        """Return split → score of each support set's answers."""
        return [
            {
                split: Judgement.of(
                    self.on.metric, answers(support, split), self.on.targets(split, support.code)
                ).scores[self.on.metric]
                for split in SPLITS
            }
            for support in supports
        ]

    def answers(self) -> dict[str, Answers]:
        """Return the methods that answer from the base network's features."""
        classes = self.features.classes
        return {
            "probe": lambda support, split: probed(support, self.known[split]),
            "prototypes": lambda support, split: nearest_mean(support, self.known[split]),
            "votes": lambda support, split: voted(
                support, support.features[:, -classes:], self.known[split][:, -classes:]
            ),
        }


class PromptTable:
    """The rows of prompts.csv, and the seconds of each method."""

    def __init__(self, rivals: PromptRivals) -> None:
        self.rivals, self.rows, self.seconds = rivals, [], []  # type: ignore[var-annotated]

    def add(self, method: PromptMethod, count: int, evenly: bool, codes: Sequence[str], scores: Sequence[Any]) -> None:
        """Add the scores of a method, one for each support set or code."""
        facts = {"data": self.rivals.data, "evenly": evenly, "images": count, "method": method.name}
        self.rows += [
            {**facts, "epochs": method.epochs, "code": code, **score} for code, score in zip(codes, scores, strict=True)
        ]

    def time(
        self, method: PromptMethod, count: int, work: Callable[[Support], Any], supports: Sequence[Support]
    ) -> float:
        """Measure and return the seconds of `work` for one support set; the first call warms up."""
        work(supports[0])
        started = time.perf_counter()
        for support in supports[:TIMED]:
            work(support)
        seconds = (time.perf_counter() - started) / min(TIMED, len(supports))
        self.seconds.append(
            {"data": self.rivals.data, "images": count, "method": method.name, "epochs": method.epochs}
            | {"seconds": round(seconds, 5)}
        )
        return seconds

    def networks(self, name: str, makes: Networks, count: int, evenly: bool, supports: Sequence[Support]) -> None:
        """Add a method that makes networks: as made, and after each number of epochs."""
        rivals, codes = self.rivals, [support.code for support in supports]
        made = makes(supports)
        self.add(PromptMethod(name, 0), count, evenly, codes, rivals.judged(made, codes))
        spent = self.time(PromptMethod(name, 0), count, partial(_alone, makes), supports) if evenly else 0.0
        # Fine-tuning and seconds are measured for support sets that show the classes in turn.
        for epochs in rivals.params.epochs if evenly else ():
            steps = steps_of(epochs, 2 * count, rivals.params.batch)
            scores = rivals.judged(rivals.tuned(steps, made, supports), codes)
            self.add(PromptMethod(name, epochs), count, evenly, codes, scores)
            more = self.time(
                PromptMethod(name, epochs), count, partial(_tuned_alone, rivals, made, supports, steps), supports
            )
            self.seconds[-1]["seconds"] = round(spent + more, 5)


def _tuned_alone(
    rivals: PromptRivals, made: Sequence[StateDict], supports: Sequence[Support], steps: int, support: Support
) -> list[StateDict]:
    place = next(index for index, other in enumerate(supports) if other is support)
    return rivals.tuned(steps, [made[place]], [support])


def generators(
    experiment: Experiment, paths: Paths, store: TokenStore
) -> Iterator[tuple[str, RPG, ConditionTable, int]]:
    """Yield name, model, table and sampler's steps of RPG and, if it is trained, the hypernetwork."""
    folders = {"rpg": (paths.generator(experiment), experiment.sample.steps)}
    if experiment.hypernetwork:
        folders["hypernetwork"] = (paths.folder("hypernetwork"), 1)
    for name, (folder, steps) in folders.items():
        model = load_rpg(folder, store, device())
        yield name, model, ConditionTable.of(read_config(folder).model.conditions, store), steps


def measure(rivals: PromptRivals) -> PromptTable:
    """Return the table of one data set."""
    table, params = PromptTable(rivals), rivals.params
    trained = rivals.trained()
    table.add(PromptMethod("trained", 0), 0, True, [*trained], rivals.judged([*trained.values()], [*trained]))
    lookup = rivals.task.base_network(rivals.base)
    if rivals.data == "own" and lookup:
        looked_up = [
            {split: lookup.look_up(split, code).scores[rivals.on.metric] for split in SPLITS} for code in rivals.codes
        ]
        table.add(PromptMethod("lookup", 0), 0, True, rivals.codes, looked_up)
    known = list(generators(rivals.experiment, rivals.paths, rivals.store))
    draws = list(product(params.images, (True, False)))
    for count, evenly in progress(draws, f"prompts {rivals.data}", total=len(draws)):
        supports = rivals.supports(count, evenly)
        codes = [support.code for support in supports]
        for name, model, conditions, steps in known:
            table.networks(name, partial(rivals.generated, model, conditions, steps), count, evenly, supports)
        table.networks("retrieval", rivals.retrieved, count, evenly, supports)
        if evenly:
            table.networks("base", rivals.based, count, evenly, supports)
            table.networks("random", rivals.random, count, evenly, supports)
        for name, answers in rivals.answers().items():
            table.add(PromptMethod(name, 0), count, evenly, codes, rivals.answered(answers, supports))
            if evenly:
                table.time(PromptMethod(name, 0), count, partial(_on_test, answers), supports)
        for steps in params.steps if evenly else ():
            name = f"base, {steps} step{'s' if steps > 1 else ''}"
            makes = partial(_based, rivals, steps)
            table.add(PromptMethod(name, 0), count, evenly, codes, rivals.judged(makes(supports), codes))
            table.time(PromptMethod(name, 0), count, partial(_alone, makes), supports)
        if evenly:
            _refine(table, known[0][1], known[0][2], count, supports)
    return table


def _on_test(answers: Answers, support: Support) -> Tensor:
    return answers(support, "test")


def _alone(makes: Networks, support: Support) -> list[StateDict]:
    return makes([support])


def _based(rivals: PromptRivals, steps: int, supports: Sequence[Support]) -> list[StateDict]:
    return rivals.tuned(steps, rivals.based(supports), supports)


def _refine(
    table: PromptTable, model: RPG, conditions: ConditionTable, count: int, supports: Sequence[Support]
) -> None:
    """Add refinement through the generator, and fine-tuning for as many seconds."""
    rivals, codes = table.rivals, [support.code for support in supports]
    name = PromptMethod("refined", 0)
    table.add(name, count, True, codes, rivals.judged(rivals.refined(model, supports), codes))
    seconds = table.time(name, count, lambda support: rivals.refined(model, [support]), supports)
    made = rivals.generated(model, conditions, rivals.experiment.sample.steps, supports)
    probe = 10
    started = time.perf_counter()
    rivals.tuned(probe, made[:1], supports[:1])
    steps = max(1, round(seconds / ((time.perf_counter() - started) / probe)))
    method = PromptMethod("tuned as long as refined", 0)
    table.add(method, count, True, codes, rivals.judged(rivals.tuned(steps, made, supports), codes))
    table.time(method, count, partial(_tuned_alone, rivals, made, supports, steps), supports)
    table.seconds[-1]["steps"] = steps


def evaluate_prompts(experiment: Experiment, paths: Paths, data_root: str | None) -> None:
    """Measure RPG and its rivals for the prompts of the block `prompts`; write the files of the stage."""
    if experiment.model.text:
        from rpg.evaluation.question_prompts import evaluate_questions

        evaluate_questions(experiment, paths, data_root)
        return
    params = experiment.prompts
    task = load_prompted(experiment.task, data_root)
    assert isinstance(params, PromptEvaluation)
    tables = [measure(PromptRivals(experiment, paths, task, data)) for data in ("own", *params.data)]
    rows = pd.DataFrame([row for table in tables for row in table.rows])
    write_measured(paths, PromptTrial(rows, [entry for table in tables for entry in table.seconds]), prompt_table)


def write_measured(paths: Paths, trial: PromptTrial, table: Callable[[Sequence[PromptTrial], str], str]) -> None:
    """Write prompts.csv, prompts.md, whose text `table` returns, and, last, prompts.json."""
    on = describe(device())
    rows = trial.rows.to_csv(index=False, float_format="%.4f", lineterminator="\n")
    write_text(paths.file("prompts.rows"), rows)
    write_text(paths.file("prompts.table"), table([trial], on))
    files = [file_entry(paths.file(f"prompts.{name}")) for name in ("rows", "table")]
    write_sealed(paths.file("prompts.summary"), {"device": on, "seconds": trial.seconds, "files": files})
