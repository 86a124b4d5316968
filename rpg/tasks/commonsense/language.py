"""Adapters of a language model: transformers' Trainer trains them, peft applies them.

A network is an adapter. Its state dict is the content of adapter_model.safetensors, under peft's names. Two protocols
score it. *Generated*: the model continues the prompt, and its answer is the choice that the text names first, as in the
evaluations of LLM-Adapters and DoRA. *Likelihood*: its answer is the choice for which "the correct answer is ..." is
most likely.

B questions of a batch, L tokens.
"""

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.tasks.adapters import adapter_state, config_tree, merged, put_adapter, write_adapter
from rpg.tasks.base import Judgement, Save, Task
from rpg.tasks.commonsense.config import AdapterTasks, AdapterZoo, CommonsenseTask, LanguageBase
from rpg.tasks.commonsense.questions import ANSWER, LIKELIHOOD, SUBTASKS, Question
from rpg.tasks.commonsense.training import language_config, text_rows, train_language_model
from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.stack import StateDict, mismatch
from rpg.utils.artifacts import Answers
from rpg.utils.device import device
from rpg.utils.errors import UserError
from rpg.utils.files import RESULTS, read_sealed, write_sealed, write_tensors
from rpg.utils.hub import commit
from rpg.utils.progress import progress
from rpg.utils.rng import derive

# Number of batches per saved file: an interrupted evaluation loses at most so many batches.
BATCHES_KEPT = 16
# Models with the shapes of transformers' defaults: a plan needs no internet access for them.
LLAMA_7B = ("huggyllama/llama-7b",)


class LanguageTask(Task):
    """Questions that a language model with an adapter answers.

    `names` are the metrics of generated answers, the main one first; each has a twin by likelihood.
    """

    def __init__(self, params: CommonsenseTask | AdapterTasks, data_root: str | None, names: Sequence[str]) -> None:
        self.params, self.data_root = params, data_root
        self.average = names[0]
        self.metrics = (*names, *map(LIKELIHOOD.format, names))
        # Caches of tokens of prompts and sentences, because every network gets the same questions.
        self._prompts: dict[str, list[int]] = {}
        self._tokens: dict[Question, tuple[list[int], list[list[int]]]] = {}

    @abstractmethod
    def asked(self, split: str, code: str | None) -> Mapping[str, list[Question]]:
        """Return subtask → questions; a single list without a score of its own has the name ""."""

    @abstractmethod
    def world_tokenizer(self) -> Any:
        """Return the tokenizer of the language model that `train_base` trains."""

    @abstractmethod
    def world_sentences(self, draw: np.random.Generator) -> Iterator[tuple[str, str]]:
        """Yield endless texts (start, end) for `train_base`."""

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return padded_left(self._loaded(AutoTokenizer))

    def _loaded(self, loader: Any, **arguments: Any) -> Any:
        model = self.params.model
        revision = None if self.params.in_folder else commit("task.revision", model, self.params.revision)
        try:
            return loader.from_pretrained(model, revision=revision, trust_remote_code=False, **arguments)
        except Exception as error:
            # A missing or incomplete folder and a hub failure raise different exception types.
            made = "; make it with `rpg base`" if Path(model).is_relative_to(RESULTS) else ""
            raise UserError(f"params.yaml: task.model '{model}': cannot be opened{made} ({line_of(error)})") from error

    def _adapted(self, dropout: float = 0.0, **arguments: Any) -> Any:
        """Return the language model with a new random adapter."""
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        # Progress bars for each file of weights, and peft's warnings, would clutter the log.
        logging.disable_progress_bar()
        model = self._loaded(AutoModelForCausalLM, dtype="auto", **arguments).to(device())
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                return get_peft_model(model, self._config(dropout))
        except ValueError as error:
            raise UserError(f"params.yaml: task.adapter: peft refuses it ({line_of(error)})") from error

    def skeleton(self, base: BaseConfig | None) -> StateDict:
        from peft import get_peft_model, get_peft_model_state_dict

        with torch.device("meta"), warnings.catch_warnings(action="ignore", category=FutureWarning):
            model = get_peft_model(self._empty(base), self._config())
            return get_peft_model_state_dict(model, save_embedding_layers=False)

    def _empty(self, base: BaseConfig | None) -> Any:
        """Return the language model, or the one that `base` will train, with random weights."""
        from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

        if isinstance(base, LanguageBase):
            config = language_config(base, self.world_tokenizer())
        else:
            config = LlamaConfig() if self.params.model in LLAMA_7B else self._loaded(AutoConfig)
        return AutoModelForCausalLM.from_config(config)

    def _config(self, dropout: float = 0.0) -> Any:
        from peft import LoraConfig

        adapter = self.params.adapter
        return LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            target_modules=adapter.targets,
            use_dora=adapter.kind == "dora",
            lora_dropout=dropout,
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.params.model,
            revision=self.params.revision,
        )

    @cached_property
    def network(self) -> nn.Module:
        # Building the network must not advance the generator that a training draws from.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            return self._adapted().eval()

    def build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            return self._adapted().cpu()

    def adapter_config(self) -> dict[str, Any]:
        return config_tree(self._config())

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in adapter_state(self.network).values())

    def references(self) -> dict[str, StateDict]:
        """Return the language model alone: an adapter that was never trained changes nothing."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("reference"))
            return {"base_model": adapter_state(self._adapted())}

    def check(self) -> None:
        assert self.tokenizer
        assert self.network

    def check_base(self) -> None:
        assert self.world_tokenizer()

    def write(self, stem: Path, state_dict: StateDict) -> Path:
        """Write a folder that `PeftModel.from_pretrained` opens; return the path of its weights."""
        return write_adapter(stem, self.adapter_config(), state_dict)

    def write_base(self, stem: Path, base: BaseConfig, state_dict: StateDict) -> Path:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer` open."""
        assert isinstance(base, LanguageBase)
        path = stem / "model.safetensors"
        self.world_tokenizer().save_pretrained(stem)
        language_config(base, self.world_tokenizer()).save_pretrained(stem)
        # transformers before version 5 opens only files whose metadata names the framework.
        write_tensors(path, state_dict, {"format": "pt"})
        return path

    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        from transformers import LlamaForCausalLM

        assert isinstance(base, LanguageBase)
        torch.manual_seed(derive("base", "weights", seed))
        model: Any = LlamaForCausalLM(language_config(base, self.world_tokenizer()))
        model, text = model.to(device()), self.world_tokenizer()
        draw = np.random.default_rng(derive("base", "text", seed))
        rows = text_rows(text, list(islice(self.world_sentences(draw), base.steps * base.batch)))
        saved: list[StateDict] = []

        def save(_: int) -> None:
            saved.append({name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()})

        train_language_model(
            model, rows, text, base, base.steps, f"base: seed {seed}", derive("base", "order", seed), [base.steps], save
        )
        return saved[0]

    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        assert isinstance(zoo, AdapterZoo)
        (run,) = runs
        questions = [*chain(*self.asked("train", run.code).values())]
        self.train_on(questions, zoo, run.seed, f"zoo: {run}", lambda step, adapter: save(step, [adapter]))

    def train_on(
        self,
        questions: Sequence[Question],
        zoo: AdapterZoo,
        seed: int,
        what: str,
        save: Callable[[int, StateDict], None],
    ) -> None:
        """Train a new adapter on questions by the zoo's recipe; Diverged if the loss is no longer finite."""
        torch.manual_seed(derive("zoo", "weights", seed))
        model = self._adapted(zoo.dropout)
        text = self.tokenizer
        rows = text_rows(text, [(one.prompt, one.output) for one in questions], zoo.learn_prompt, zoo.length)
        at = [zoo.steps + zoo.save_every * (k + 1) for k in range(zoo.saves)]
        order = derive("zoo", "order", seed)
        keep = lambda step: save(step, adapter_state(model))  # noqa: E731
        train_language_model(model, rows, text, zoo, at[-1], what, order, at, keep)

    def _put(self, state_dict: StateDict) -> None:
        if why := mismatch(state_dict, adapter_state(self.network)):
            adapter = self.params.adapter
            raise UserError(f"the adapter does not fit: {why} (task.adapter: {adapter.kind}, rank {adapter.rank})")
        put_adapter(self.network, state_dict)

    def judge(
        self,
        state_dict: StateDict,
        split: str,
        code: str | None = None,
        kept: Path | None = None,
        main_only: bool = False,
    ) -> Judgement:
        self._put(state_dict)
        key = self._key(state_dict, split, code) if kept else ""
        protocols = {"generated": ("{}", self._generated)}
        if not main_only:
            protocols["likelihood"] = (LIKELIHOOD, self._likeliest)
        by_subtask = self.asked(split, code)
        answers: list[int] = []
        scores: dict[str, float] = {}
        with torch.inference_mode(), merged(self.network):
            for protocol, (form, answer) in protocols.items():
                file = kept / f"{key}-{protocol}" if kept else None
                # All subtasks share batches, so that there are fewer batches.
                protocol_answers = self._answers(
                    list(chain(*by_subtask.values())), answer, file, form.format(self.average)
                )
                rest, accuracies = iter(protocol_answers), []
                for subtask, questions in by_subtask.items():
                    right = [a == one.answer for a, one in zip(islice(rest, len(questions)), questions, strict=True)]
                    accuracies.append(100 * float(np.mean(right)))
                    if subtask:
                        scores[form.format(SUBTASKS[subtask])] = accuracies[-1]
                scores[form.format(self.average)] = float(np.mean(accuracies))
                if protocol == "generated":
                    answers = protocol_answers
        return Judgement({name: scores[name] for name in self.metrics if name in scores}, torch.tensor(answers))

    def _answers(
        self,
        questions: Sequence[Question],
        answer: Callable[[Sequence[Question]], list[int]],
        stem: Path | None,
        label: str,
    ) -> list[int]:
        """Return the answers to all questions.

        Each BATCHES_KEPT batches are saved in a file whose name begins with `stem`. An interrupted evaluation reads its
        saved answers from there.
        """
        size = self.params.batch
        batches = [questions[start : start + size] for start in range(0, len(questions), size)]
        shown = progress(batches, label, total=len(batches)) if stem else iter(batches)
        answers: list[int] = []
        for number in range(0, len(batches), BATCHES_KEPT):
            part = list(islice(shown, BATCHES_KEPT))
            file = stem.with_name(f"{stem.name}-{number:06d}.json") if stem else None
            if file and file.is_file():
                answers += read_sealed(file, "rpg score", Answers).answers
                continue
            new_answers = [one for batch in part for one in answer(batch)]
            if file:
                write_sealed(file, {"answers": new_answers})
            answers += new_answers
        return answers

    def _key(self, state_dict: StateDict, split: str, code: str | None) -> str:
        """Return a digest of everything that the answers on a split depend on."""
        digest = hashlib.sha256(f"{self.params.model_dump_json()} {split}{f' {code}' if code else ''}".encode())
        for name, tensor in state_dict.items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:32]

    def _generated(self, questions: Sequence[Question]) -> list[int]:
        """Return [B] the choices that the model's continuations name; -1 where a text names no choice."""
        if new_prompts := [one.prompt for one in questions if one.prompt not in self._prompts]:
            self._prompts |= zip(new_prompts, self.tokenizer(new_prompts)["input_ids"], strict=True)
        rows = [self._prompts[one.prompt] for one in questions]
        inputs = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(device())
        output = self.network.generate(  # type: ignore[operator]
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=self.params.new_tokens,
            num_beams=self.params.beams,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        texts = self.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [one.extract(text) for one, text in zip(questions, texts, strict=True)]

    def _likeliest(self, questions: Sequence[Question]) -> list[int]:
        """Return [B] the most likely choices under the model.

        The model reads the common start of a question's sentences only once.
        """
        heads, tails = zip(*(self._sentences(one) for one in questions), strict=True)
        inputs = self.tokenizer.pad({"input_ids": [head[:-1] for head in heads]}, return_tensors="pt").to(device())
        mask_BL = inputs["attention_mask"]
        read = self.network(
            input_ids=inputs["input_ids"], attention_mask=mask_BL, position_ids=_positions(mask_BL), use_cache=True
        )
        owners = torch.tensor([b for b, tail in enumerate(tails) for _ in tail], device=mask_BL.device)
        read.past_key_values.batch_select_indices(owners)
        rows = [[heads[b][-1], *choice] for b, tail in enumerate(tails) for choice in tail]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=mask_BL.device)
        counts = mask_BL.sum(1)[owners]
        mask = torch.cat([mask_BL[owners], torch.ones_like(ids)], 1)
        logits = self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=counts[:, None] + torch.arange(longest, device=ids.device),
            past_key_values=read.past_key_values,
        ).logits
        each = functional.log_softmax(logits[:, :-1].float(), -1).gather(2, ids[:, 1:, None])[..., 0]
        sums = [float(one[: len(row) - 1].sum()) for one, row in zip(each, rows, strict=True)]
        choices, start = [], 0
        for tail in tails:
            choices.append(int(np.argmax(sums[start : start + len(tail)])))
            start += len(tail)
        return choices

    def _sentences(self, question: Question) -> tuple[list[int], list[list[int]]]:
        """Return the tokens that all choices' sentences start with, and each choice's remaining tokens."""
        if question not in self._tokens:
            self._tokens[question] = self._tokenized(question)
        return self._tokens[question]

    def _tokenized(self, question: Question) -> tuple[list[int], list[list[int]]]:
        whole = [self.tokenizer(f"{question.prompt}{ANSWER}{name}")["input_ids"] for name in question.choices]
        common = 0
        while len({tokens[common] for tokens in whole}) == 1 and common < min(map(len, whole)) - 1:
            common += 1
        return whole[0][:common], [tokens[common:] for tokens in whole]

    def targets(self, split: str, code: str | None = None) -> Tensor:
        return torch.tensor([one.answer for questions in self.asked(split, code).values() for one in questions])


def padded_left(text: Any) -> Any:
    """Set a tokenizer to pad on the left, with token 0 if it has no padding token, as published."""
    text.padding_side = "left"
    if text.pad_token is None:
        text.pad_token_id = 0
    return text


def line_of(error: Exception) -> str:
    """Return the start of an error's message, in one line."""
    return " ".join(str(error).split())[:200]


def _positions(mask_BL: Tensor) -> Tensor:
    """Return [B, L] the position of each token in its text; padding has no meaningful position."""
    return (mask_BL.cumsum(1) - 1).clamp(min=0)
