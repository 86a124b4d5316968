"""Many tasks for one language model, an adapter for each, and questions without answers that ask for an adapter.

E adapters, B questions of each, L tokens of a question with its answer, F features of a question.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from rpg.data import data_folder
from rpg.tasks.base import BaseAnswers, Judgement, LossCost, TextTask
from rpg.tasks.commonsense.config import AdapterTasks, AdapterZoo
from rpg.tasks.commonsense.fact_tasks import TASKS, VALIDATION, sentences, tokenizer, write_fact_tasks
from rpg.tasks.commonsense.language import LanguageTask, line_of, padded_left
from rpg.tasks.commonsense.packing import IGNORED
from rpg.tasks.commonsense.questions import Question, prompt, read_questions
from rpg.tasks.commonsense.training import text_rows
from rpg.tasks.config import BaseConfig, ZooConfig
from rpg.tasks.stack import StateDict
from rpg.utils.device import device
from rpg.utils.errors import UserError, suggestion
from rpg.utils.files import RESULTS

if TYPE_CHECKING:
    from rpg.config.model import TextCondition

FACT_TASKS = RESULTS / "fact_tasks"
ACCURACY = "accuracy"
# Questions whose features are computed at once, and the most tokens of a question for a model without a limit.
TOGETHER, TOKENS = 64, 512


class AdapterTaskSet(LanguageTask, TextTask):
    """Accuracy on the questions of a task, by both protocols; a task's code is its name."""

    params: AdapterTasks

    def __init__(self, params: AdapterTasks, data_root: str | None) -> None:
        super().__init__(params, data_root, (ACCURACY,))
        self._length: int | None = None
        # Caches, filled as tasks and encoders are asked for.
        self._questions: dict[str, dict[str, list[Question]]] = {}
        self._rows: dict[str, list[dict[str, list[int]]]] = {}
        self._encoders: dict[str, tuple[Any, Callable[..., Any], Any]] = {}

    @cached_property
    def folder(self) -> Path:
        """The folder of the questions; UserError if it does not exist."""
        if self.params.data == "fact_tasks":
            return write_fact_tasks(FACT_TASKS)
        return data_folder(self.params.data, self.data_root)

    def asked(self, split: str, code: str | None) -> Mapping[str, list[Question]]:
        assert code
        if code not in self._questions:
            self._questions[code] = self._read(code)
        return {"": self._questions[code][split]}

    def _read(self, task: str) -> dict[str, list[Question]]:
        if self.params.data == "fact_tasks" and task not in TASKS:
            raise UserError(f"params.yaml: task.seen, task.held_out: no task '{task}'{suggestion(task, TASKS)}")
        folder, count = self.folder / "dataset" / task, self.params.validation
        if self.params.data == "fact_tasks" and count > VALIDATION:
            # The questions before the last VALIDATION ask about facts of the training questions.
            raise UserError(f"params.yaml: task.validation: {count}, but a task of facts has {VALIDATION}; set fewer")
        training = read_questions(folder / "train.json")
        if count >= len(training):
            raise UserError(
                f"params.yaml: task.validation: {count} of {len(training)} questions of {task} leave none to learn from"
            )
        return {
            "train": training[:-count],
            "validation": training[-count:],
            "test": read_questions(folder / "test.json"),
        }

    def world_tokenizer(self) -> Any:
        return tokenizer()

    def world_sentences(self, draw: np.random.Generator) -> Iterator[tuple[str, str]]:
        return sentences(draw)

    def check(self) -> None:
        assert all(self.asked("train", task) for task in (*self.params.seen, *self.params.held_out))
        super().check()

    def references(self) -> dict[str, StateDict]:
        # The language model alone is a rival of each task, in `rpg prompts`.
        return {}

    def majority(self, code: str) -> int:
        return Counter(one.answer for one in self.asked("train", code)[""]).most_common(1)[0][0]

    def base_network(self, state_dict: StateDict) -> BaseAnswers | None:
        """Return None: without an adapter, a language model answers no task."""
        return None

    def recount(self, state_dicts: Sequence[StateDict], codes: Sequence[str | None]) -> list[StateDict]:
        """Return the adapters: there is no BatchNorm to count."""
        return list(state_dicts)

    @cached_property
    def _learner(self) -> nn.Module:
        """The language model with an adapter whose weights are the arguments of a loss."""
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            # torch's fused attention has no rule for a batch of networks.
            model: nn.Module = self._adapted(attn_implementation="eager")
            return model.eval().requires_grad_(False)

    @cached_property
    def _parameters(self) -> dict[str, str]:
        """A tensor of an adapter's state dict → its parameter of the language model."""
        from peft import get_peft_model_state_dict

        learner: Any = self._learner
        place = {parameter.data_ptr(): name for name, parameter in learner.named_parameters()}
        own = get_peft_model_state_dict(learner, adapter_name=learner.active_adapter)
        return {name: place[tensor.data_ptr()] for name, tensor in own.items()}

    def _training_rows(self, code: str) -> list[dict[str, list[int]]]:
        if code not in self._rows:
            questions = self.asked("train", code)[""]
            parts = [(one.prompt, one.output) for one in questions]
            self._rows[code] = text_rows(self.tokenizer, parts, length=self._length)
        return self._rows[code]

    def losses(
        self,
        weights: StateDict,
        codes: Sequence[str | None],
        images: int,
        draw: torch.Generator,
        statistics: float | None = None,
        teachers: StateDict | None = None,
    ) -> Tensor:
        """Return [E] the losses of adapters `weights` [E, ...] on `images` random training questions of their tasks.

        Raises UserError for `teachers`: the loss reads answers.
        """
        if teachers is not None:
            raise UserError("params.yaml: loss: outputs: this task has labels alone; choose labels")
        rows = []
        for code in codes:
            known = self._training_rows(code or "")
            rows += [known[int(pick)] for pick in torch.randint(len(known), (images,), generator=draw)]
        ids, labels = (torch.unflatten(of.to(device()), 0, (len(codes), images)) for of in padded_right(rows))
        named = {self._parameters[name]: tensor for name, tensor in weights.items()}
        return vmap(self._loss)(named, ids, labels)

    def _loss(self, adapter: StateDict, ids_BL: Tensor, labels_BL: Tensor) -> Tensor:
        # The padding is on the right, where no token of a question sees it. So no mask is needed.
        logits_BLV = functional_call(
            self._learner, adapter, args=(), kwargs={"input_ids": ids_BL, "use_cache": False}
        ).logits
        return functional.cross_entropy(
            logits_BLV[:, :-1].flatten(0, 1).float(), labels_BL[:, 1:].flatten(), ignore_index=IGNORED
        )

    def follow(self, zoo: ZooConfig) -> None:
        assert isinstance(zoo, AdapterZoo)
        self._length = zoo.length

    def loss_cost(self, base: BaseConfig | None, zoo: ZooConfig) -> LossCost:
        assert isinstance(zoo, AdapterZoo)
        with torch.device("meta"):
            return LossCost(sum(weight.numel() for weight in self._empty(base).parameters()), zoo.length)

    def prompt_texts(self, split: str, code: str) -> list[str]:
        return [one.prompt for one in self.asked(split, code)[""]]

    def train_together(self, zoo: ZooConfig, codes: Sequence[str], batches: int = 1) -> StateDict:
        assert isinstance(zoo, AdapterZoo)
        saves: list[StateDict] = []
        steps = max(len(codes) * (zoo.steps + zoo.saves * zoo.save_every) // batches, 1)
        changes: dict[str, Any] = {"steps": steps - 1, "saves": 1, "save_every": 1, "batch": zoo.batch * batches}
        if batches > 1:
            changes["learning_rate"] = zoo.learning_rate / 2
        recipe = zoo.model_copy(update=changes)
        questions = [one for code in codes for one in self.asked("train", code)[""]]
        self.train_on(questions, recipe, zoo.seeds[0], "all tasks", lambda step, adapter: saves.append(adapter))
        return saves[-1]

    def score_in_context(self, split: str, code: str, examples: Sequence[int]) -> float:
        known = self.asked("train", code)[""]
        before = "".join(f"{known[index].prompt}{known[index].output}\n\n" for index in examples)
        questions = [replace(one, before=before) for one in self.asked(split, code)[""]]
        # A new adapter changes nothing.
        self._put(self._untrained)
        with torch.inference_mode():
            # The language model alone does not know the names of the choices, so that its own words would be no answer.
            answers = self._answers(questions, self._likeliest, None, ACCURACY)
        return Judgement.of(ACCURACY, torch.tensor(answers), self.targets(split, code)).scores[ACCURACY]

    @cached_property
    def _untrained(self) -> StateDict:
        return super().references()["base_model"]

    def prompt_text(self, instruction: str, given: str = "") -> str:
        return prompt(instruction, given)

    def text_features(self, condition: "TextCondition", texts: Sequence[str]) -> Tensor:
        """Return the features [n, F]: the means of the chosen hidden states over the tokens of each question.

        Raises UserError if the encoder's folder can't be opened, or has fewer hidden states.
        """
        text, states_of, config = self._encoder(condition)
        # A tokenizer without a limit of its own has a huge one; the model has position embeddings for so many tokens.
        most = min(text.model_max_length, getattr(config, "max_position_embeddings", None) or TOKENS)
        parts = []
        for start in range(0, len(texts), TOGETHER):
            part = list(texts[start : start + TOGETHER])
            inputs = text(
                part, padding=True, padding_side="right", truncation=True, max_length=most, return_tensors="pt"
            )
            read = {name: inputs[name].to(device()) for name in ("input_ids", "attention_mask")}
            with torch.inference_mode():
                states = states_of(**read, output_hidden_states=True).hidden_states
            if (last := max(condition.hidden_states)) >= len(states):
                raise UserError(
                    f"params.yaml: model.conditions: text: hidden_states: no {last}, the last is {len(states) - 1}"
                )
            mask_BL1 = read["attention_mask"].unsqueeze(-1)
            means = [(states[index].float() * mask_BL1).sum(1) / mask_BL1.sum(1) for index in condition.hidden_states]
            parts.append(torch.cat(means, 1).cpu())
        return torch.cat(parts)

    def unknown_share(self, condition: "TextCondition", texts: Sequence[str]) -> float:
        text, _, _ = self._encoder(condition)
        tokens = [token for tokens in text(list(texts))["input_ids"] for token in tokens]
        return tokens.count(text.unk_token_id) / len(tokens)

    def _encoder(self, condition: "TextCondition") -> tuple[Any, Callable[..., Any], Any]:
        """Return the tokenizer, the model whose hidden states are the features, and the model's configuration."""
        if condition.encoder is not None:
            if condition.encoder not in self._encoders:
                self._encoders[condition.encoder] = _sentence_encoder(condition.encoder)
            return self._encoders[condition.encoder]
        model: Any = self.network
        # Without the head, whose logits nobody reads.
        body = model.get_base_model().base_model

        def plain(**inputs: Any) -> Any:
            with model.disable_adapter():
                return body(**inputs, use_cache=False)

        return self.tokenizer, plain, body.config


def _sentence_encoder(folder: str) -> tuple[Any, Callable[..., Any], Any]:
    """Return the tokenizer, the encoder and the configuration of a model in a folder; UserError if it can't be opened.

    Of a model with encoder and decoder, such as T5, the encoder is enough.
    """
    from transformers import AutoModel, AutoTokenizer

    where = f"params.yaml: model.conditions: text: encoder '{folder}'"
    if not Path(folder).is_dir():
        raise UserError(f"{where}: no such folder")
    try:
        text = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model = AutoModel.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        # Missing files, unknown architectures and damaged weights raise different exception types.
        raise UserError(f"{where}: cannot be opened ({line_of(error)})") from error
    reader = model.get_encoder() if model.config.is_encoder_decoder else model
    return padded_left(text), reader.to(device()).eval(), model.config


def padded_right(rows: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """Return the tokens and the labels [n, L] of `rows`, each filled up on the right."""
    ids, labels = (
        pad_sequence([torch.tensor(row[key]) for row in rows], batch_first=True, padding_value=fill)
        for key, fill in (("input_ids", 0), ("labels", IGNORED))
    )
    return ids, labels
