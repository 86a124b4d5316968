"""Commonsense reasoning with adapters of a language model: transformers' Trainer trains them, peft applies them.

A network is an adapter, its state dict what adapter_model.safetensors holds, in peft's names. It is scored by two
protocols. *Generated*: the model goes on from the prompt, and the choice that its words name first is its answer, as
LLM-Adapters and DoRA evaluate. *Likelihood*: its answer is the choice for which "the correct answer is ..." is the most
likely.

B questions of a batch, L tokens.
"""

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rpg.data import data_folder
from rpg.tasks.adapters import adapter_state, merged, put_adapter, write_adapter
from rpg.tasks.base import Judgement, Save, Task
from rpg.tasks.commonsense.config import AdapterZoo, CommonsenseTask, LanguageBase
from rpg.tasks.commonsense.facts import sentences, tokenizer, write_facts
from rpg.tasks.commonsense.packing import IGNORED, Packed
from rpg.tasks.commonsense.questions import ANSWER, LIKELIHOOD, SUBTASKS, Question, read_questions
from rpg.tasks.config import BaseConfig, Run, ZooConfig
from rpg.tasks.stack import StateDict, mismatch
from rpg.utils.artifacts import Answers
from rpg.utils.device import device
from rpg.utils.errors import Diverged, UserError
from rpg.utils.files import RESULTS, read_sealed, write_sealed, write_tensors
from rpg.utils.hub import commit
from rpg.utils.progress import progress
from rpg.utils.rng import derive

FACTS = RESULTS / "facts"
AVERAGE = "average accuracy"
# An evaluation that is interrupted loses no more than so many batches.
BATCHES_KEPT = 16
# Whose shapes are transformers' own defaults, so that a plan needs no network.
LLAMA_7B = ("huggyllama/llama-7b",)


class Commonsense(Task):
    """Accuracy on the subtasks, and its mean over them, by either protocol."""

    def __init__(self, params: CommonsenseTask, data_root: str | None) -> None:
        self.params, self.data_root = params, data_root
        names = (AVERAGE, *(SUBTASKS[subtask] for subtask in params.subtasks))
        self.metrics = (*names, *map(LIKELIHOOD.format, names))
        # Of prompts and of questions' sentences, since every network is asked the same.
        self._prompts: dict[str, list[int]] = {}
        self._tokens: dict[Question, tuple[list[int], list[list[int]]]] = {}

    @cached_property
    def folder(self) -> Path:
        """Where the questions lie; UserError if there is no such folder."""
        if self.params.data == "facts":
            return write_facts(FACTS)
        return data_folder(self.params.data, self.data_root)

    @cached_property
    def questions(self) -> dict[str, dict[str, list[Question]]]:
        """Split → subtask → questions; those to train on, and of these the last, for validation, know no subtask."""
        training = [one for file in self.params.training for one in read_questions(self.folder / file)]
        count = self.params.validation
        if count >= len(training):
            raise UserError(f"params.yaml: task.validation: {count} of {len(training)} questions leave none to learn")
        files = {subtask: self.folder / "dataset" / subtask / "test.json" for subtask in self.params.subtasks}
        return {
            "train": {"": training[:-count]},
            "validation": {"": training[-count:]},
            "test": {subtask: read_questions(file) for subtask, file in files.items()},
        }

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return _padded(self._loaded(AutoTokenizer))

    def _loaded(self, loader: Any, **arguments: Any) -> Any:
        model = self.params.model
        revision = None if self.params.in_folder else commit("task.revision", model, self.params.revision)
        try:
            return loader.from_pretrained(model, revision=revision, trust_remote_code=False, **arguments)
        except Exception as error:
            # A folder that is missing or half there, a hub that does not know it or can't be reached: all differ.
            made = "; make it with `rpg base`" if Path(model).is_relative_to(RESULTS) else ""
            raise UserError(f"params.yaml: task.model '{model}': cannot be opened{made} ({_line(error)})") from error

    def _adapted(self, dropout: float = 0.0) -> Any:
        """The language model with a new adapter, whose first matrices come from torch's global generator."""
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        # A bar for each file of weights, and what peft is warned of, would stand between the lines of a log.
        logging.disable_progress_bar()
        model = self._loaded(AutoModelForCausalLM, dtype="auto").to(device())
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                return get_peft_model(model, self._config(dropout))
        except ValueError as error:
            raise UserError(f"params.yaml: task.adapter: peft refuses it ({_line(error)})") from error

    def skeleton(self, base: BaseConfig | None) -> StateDict:
        from peft import get_peft_model, get_peft_model_state_dict
        from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

        if isinstance(base, LanguageBase):
            config = _language_config(base)
        else:
            config = LlamaConfig() if self.params.model in LLAMA_7B else self._loaded(AutoConfig)
        with torch.device("meta"), warnings.catch_warnings(action="ignore", category=FutureWarning):
            model = get_peft_model(AutoModelForCausalLM.from_config(config), self._config())
            return get_peft_model_state_dict(model, save_embedding_layers=False)

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
        # Making one must not move the generator that a training draws from.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            return self._adapted().eval()

    @property
    def parameters(self) -> int:
        return sum(tensor.numel() for tensor in adapter_state(self.network).values())

    def references(self) -> dict[str, StateDict]:
        """The language model alone: an adapter that was never trained changes nothing."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("reference"))
            return {"base_model": adapter_state(self._adapted())}

    def check(self) -> None:
        assert self.questions
        assert self.tokenizer
        assert self.network

    def check_base(self) -> None:
        assert tokenizer()

    def write(self, stem: Path, state_dict: StateDict) -> Path:
        """A folder that `PeftModel.from_pretrained` opens."""
        return write_adapter(stem, self._config(), state_dict)

    def write_base(self, stem: Path, base: BaseConfig, state_dict: StateDict) -> Path:
        """A folder that `AutoModelForCausalLM.from_pretrained` opens, and `AutoTokenizer`."""
        assert isinstance(base, LanguageBase)
        path = stem / "model.safetensors"
        tokenizer().save_pretrained(stem)
        _language_config(base).save_pretrained(stem)
        # transformers opens no file that does not say whose it is.
        write_tensors(path, state_dict, {"format": "pt"})
        return path

    def train_base(self, base: BaseConfig, seed: int) -> StateDict:
        from transformers import LlamaForCausalLM

        assert isinstance(base, LanguageBase)
        torch.manual_seed(derive("base", "weights", seed))
        model: Any = LlamaForCausalLM(_language_config(base))
        model, text = model.to(device()), tokenizer()
        draw = np.random.default_rng(derive("base", "text", seed))
        rows = _rows(text, list(islice(sentences(draw), base.steps * base.batch)))
        found: list[StateDict] = []

        def save(_: int) -> None:
            found.append({name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()})

        _train(
            model, rows, text, base, base.steps, f"base: seed {seed}", derive("base", "order", seed), [base.steps], save
        )
        return found[0]

    def train(self, zoo: ZooConfig, runs: Sequence[Run], bases: Sequence[StateDict | None], save: Save) -> None:
        assert isinstance(zoo, AdapterZoo)
        (run,) = runs
        torch.manual_seed(derive("zoo", "weights", run.seed))
        model = self._adapted(zoo.dropout)
        text, asked = self.tokenizer, self.questions["train"][""]
        rows = _rows(text, [(one.prompt, one.output) for one in asked], zoo.learn_prompt, zoo.length)
        at = [zoo.steps + zoo.save_every * (k + 1) for k in range(zoo.saves)]
        what, order = f"zoo: seed {run.seed}", derive("zoo", "order", run.seed)
        _train(model, rows, text, zoo, at[-1], what, order, at, lambda step: save(step, [adapter_state(model)]))

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
        key = self._key(state_dict, split) if kept else ""
        protocols = {"generated": ("{}", self._generated)}
        if not main_only:
            protocols["likelihood"] = (LIKELIHOOD, self._likeliest)
        asked = self.questions[split]
        answers: list[int] = []
        scores: dict[str, float] = {}
        with torch.inference_mode(), merged(self.network):
            for protocol, (form, answer) in protocols.items():
                file = kept / f"{key}-{protocol}" if kept else None
                # Of all subtasks together: there are fewer batches then.
                found = self._answers(list(chain(*asked.values())), answer, file, form.format(AVERAGE))
                rest, of_subtask = iter(found), []
                for subtask, questions in asked.items():
                    right = [a == one.answer for a, one in zip(islice(rest, len(questions)), questions, strict=True)]
                    of_subtask.append(100 * float(np.mean(right)))
                    if subtask:
                        scores[form.format(SUBTASKS[subtask])] = of_subtask[-1]
                scores[form.format(AVERAGE)] = float(np.mean(of_subtask))
                if protocol == "generated":
                    answers = found
        return Judgement({name: scores[name] for name in self.metrics if name in scores}, torch.tensor(answers))

    def _answers(
        self,
        questions: Sequence[Question],
        answer: Callable[[Sequence[Question]], list[int]],
        stem: Path | None,
        label: str,
    ) -> list[int]:
        """The answers to all questions; those of every BATCHES_KEPT batches are kept in a file that begins with `stem`.

        An interrupted evaluation has put some of them there.
        """
        size = self.params.batch
        batches = [questions[start : start + size] for start in range(0, len(questions), size)]
        shown = progress(batches, label, total=len(batches)) if stem else iter(batches)
        found: list[int] = []
        for number in range(0, len(batches), BATCHES_KEPT):
            part = list(islice(shown, BATCHES_KEPT))
            file = stem.with_name(f"{stem.name}-{number:06d}.json") if stem else None
            if file and file.is_file():
                found += read_sealed(file, "rpg score", Answers)["answers"]
                continue
            answered = [one for batch in part for one in answer(batch)]
            if file:
                write_sealed(file, {"answers": answered})
            found += answered
        return found

    def _key(self, state_dict: StateDict, split: str) -> str:
        """What the answers on a split depend on, in short."""
        digest = hashlib.sha256(f"{self.params.model_dump_json()} {split}".encode())
        for name, tensor in state_dict.items():
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()[:32]

    def _generated(self, questions: Sequence[Question]) -> list[int]:
        """[B] what the words name that the model goes on with; -1 where they name no choice."""
        if unread := [one.prompt for one in questions if one.prompt not in self._prompts]:
            self._prompts |= zip(unread, self.tokenizer(unread)["input_ids"], strict=True)
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
        """[B] the choices that the model would most likely name.

        What the sentences of a question's choices have in common is read once, for all of them.
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
        found, start = [], 0
        for tail in tails:
            found.append(int(np.argmax(sums[start : start + len(tail)])))
            start += len(tail)
        return found

    def _sentences(self, question: Question) -> tuple[list[int], list[list[int]]]:
        """Tokens of the prompt and of what all choices' sentences begin with, and the rest of each choice's."""
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
        return torch.tensor([one.answer for questions in self.questions[split].values() for one in questions])


def _padded(text: Any) -> Any:
    """A tokenizer that fills batches up on the left, with token 0 if it has none of its own, as published."""
    text.padding_side = "left"
    if text.pad_token is None:
        text.pad_token_id = 0
    return text


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _positions(mask_BL: Tensor) -> Tensor:
    """[B, L] the place of each token in its text; what fills a batch up stands nowhere."""
    return (mask_BL.cumsum(1) - 1).clamp(min=0)


def _rows(
    text: Any, parts: Sequence[tuple[str, str]], learn_start: bool = False, length: int | None = None
) -> list[dict[str, list[int]]]:
    """Tokens of texts, at most `length` of each, of whose ends alone there is something to learn, or of all."""
    starts = text([start for start, _ in parts])["input_ids"]
    wholes = text([start + end if start[-1:].isspace() else f"{start} {end}" for start, end in parts])["input_ids"]
    rows = []
    for first, whole in zip(starts, wholes, strict=True):
        tokens = [*whole, text.eos_token_id]
        labels = tokens if learn_start else [IGNORED] * len(first) + tokens[len(first) :]
        rows.append({"input_ids": tokens[:length], "labels": labels[:length]})
    return rows


def _language_config(base: LanguageBase) -> Any:
    from transformers import LlamaConfig

    text = tokenizer()
    return LlamaConfig(
        vocab_size=len(text),
        hidden_size=base.width,
        intermediate_size=base.hidden,
        num_hidden_layers=base.blocks,
        num_attention_heads=base.heads,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
        # With transformers' 0.02 so narrow a model takes thousands of steps to learn its first fact.
        initializer_range=0.1,
        architectures=["LlamaForCausalLM"],
        dtype="float32",
    )


def _train(
    model: Any,
    rows: list[dict[str, list[int]]],
    text: Any,
    recipe: LanguageBase | AdapterZoo,
    steps: int,
    what: str,
    seed: int,
    at: Sequence[int],
    save: Any,
) -> None:
    """Train for `steps` steps by transformers' Trainer, AdamW and a linear schedule; call `save` at those `at`."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    shown = progress(range(steps), what, total=steps)

    class Kept(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in at:
                save(state.global_step)
            next(shown, None)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            next(shown, None)

    class Finite(Trainer):
        def training_step(self, *arguments: Any, **named: Any) -> Tensor:
            loss = super().training_step(*arguments, **named)
            if not torch.isfinite(loss):
                raise Diverged(f"{what} diverged at step {self.state.global_step + 1}; lower its learning_rate")
            return loss

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=recipe.batch,
            learning_rate=recipe.learning_rate,
            warmup_steps=recipe.warmup,
            weight_decay=recipe.weight_decay,
            adam_beta1=recipe.betas[0],
            adam_beta2=recipe.betas[1],
            seed=seed % 2**32,
            bf16=device().type == "cuda",
            use_cpu=device().type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        Finite(model, arguments, Packed(text.pad_token_id), rows, callbacks=[Kept()]).train()
