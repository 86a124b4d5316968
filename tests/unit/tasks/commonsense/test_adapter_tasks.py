"""Many tasks for one language model: losses, features of questions and scores."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import ASKED, adapters_task

from rpg.config.experiment import parse_experiment
from rpg.config.loading import load_params
from rpg.config.model import TextCondition
from rpg.tasks.commonsense.adapter_tasks import AdapterTaskSet, padded_right
from rpg.tasks.commonsense.config import AdapterTasks
from rpg.tasks.commonsense.fact_tasks import TASKS, VALIDATION, facts_of, relation
from rpg.tasks.stack import stack
from rpg.utils.errors import UserError
from rpg.utils.files import read_tensors

SEEN = ASKED["task"]["seen"]


@pytest.fixture
def task(asked: Path, monkeypatch: pytest.MonkeyPatch) -> AdapterTaskSet:
    monkeypatch.chdir(asked)
    made = load_params().experiment("asked").task.load(None)
    assert isinstance(made, AdapterTaskSet)
    return made


def adapters_of(folder: Path, task: AdapterTaskSet) -> list[dict[str, torch.Tensor]]:
    files = sorted((folder / "results/asked/zoo").rglob("adapter_model.safetensors"))
    return [read_tensors(file) for file in files]


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_loss_of_several_adapters_is_peft_s(asked: Path, task: AdapterTaskSet, kind: str) -> None:
    """The oracle: peft's own forward pass with one adapter at a time, and transformers' own loss."""
    params = task.params.model_copy(update={"adapter": task.params.adapter.model_copy(update={"kind": kind})})
    of = AdapterTaskSet(params, None)
    own = of._untrained
    torch.manual_seed(1)
    moved = [{name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in own.items()} for _ in range(3)]
    codes = [SEEN[0], SEEN[3], SEEN[0]]
    weights = {name: tensor.requires_grad_() for name, tensor in stack(moved).items()}
    losses = of.losses(weights, codes, 5, torch.Generator().manual_seed(2))
    draw = torch.Generator().manual_seed(2)
    expected = []
    for adapter, code in zip(moved, codes, strict=True):
        known = of._training_rows(code)
        rows = [known[int(pick)] for pick in torch.randint(len(known), (5,), generator=draw)]
        ids, labels = padded_right(rows)
        of._put(adapter)
        expected.append(of.network(input_ids=ids, labels=labels).loss)
    torch.testing.assert_close(losses, torch.stack(expected), atol=1e-5, rtol=1e-5)
    losses.sum().backward()
    for tensor in weights.values():
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


def test_the_answer_alone_is_learned(task: AdapterTaskSet) -> None:
    row = task._training_rows(SEEN[0])[0]
    learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    question = task.asked("train", SEEN[0])[""][0]
    assert task.tokenizer.decode(learned, skip_special_tokens=True).split() == question.output.lower().split()


def test_features_are_means_of_hidden_states(asked: Path, task: AdapterTaskSet) -> None:
    """The oracle reads one question at a time, without padding, in the model of transformers alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("results/asked/base/0000")
    condition = load_params().experiment("asked").model.text
    assert condition
    texts = [*task.prompt_texts("train", SEEN[0])[:3], *task.prompt_texts("train", SEEN[3])[:2]]
    task._put(adapters_of(asked, task)[0])
    found = task.text_features(condition, texts)
    for text, features in zip(texts, found, strict=True):
        with torch.no_grad():
            read = model(**task.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        expected = torch.cat([read.hidden_states[index][0].mean(0) for index in (0, 1)])
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_a_hidden_state_that_is_none(task: AdapterTaskSet) -> None:
    condition = TextCondition(kind="text", encoder=None, hidden_states=[9], features=2, hidden=2, reach="all")
    with pytest.raises(UserError, match="hidden_states: no 9, the last is 1"):
        task.text_features(condition, ["a question"])


def test_a_sentence_encoder_in_a_folder(task: AdapterTaskSet, tmp_path: Path) -> None:
    from transformers import AutoModel, BertConfig, BertModel

    task.tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(task.tokenizer), **sizes)).save_pretrained(tmp_path)
    condition = TextCondition(kind="text", encoder=str(tmp_path), hidden_states=[1], features=8, hidden=2, reach="all")
    texts = task.prompt_texts("train", SEEN[0])[:2]
    found = task.text_features(condition, texts)
    inputs = task.tokenizer(texts[1], return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(tmp_path)(input_ids=inputs["input_ids"]).last_hidden_state[0].mean(0)
    torch.testing.assert_close(found[1], expected, atol=1e-5, rtol=1e-5)
    missing = condition.model_copy(update={"encoder": str(tmp_path / "none")})
    with pytest.raises(UserError, match=r"encoder '.*none': no such folder"):
        task.text_features(missing, texts)
    (tmp_path / "config.json").write_text("{}")
    damaged = AdapterTaskSet(task.params, None)
    with pytest.raises(UserError, match=r"encoder '.*': cannot be opened"):
        damaged.text_features(condition, texts)


@pytest.mark.parametrize("kind", ["T5 has an encoder and a decoder", "BERT has 12 positions", "GPT-2 has no padding"])
def test_sentence_encoders_of_other_kinds(task: AdapterTaskSet, tmp_path: Path, kind: str) -> None:
    """Whatever the model, a question has the same features alone and beside a longer one."""
    import transformers

    own = transformers.AutoTokenizer.from_pretrained(task.params.model)
    sizes = {"vocab_size": len(own)}
    if kind.startswith("T5"):
        config = transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, **sizes)
        model = transformers.T5Model(config)
    elif kind.startswith("BERT"):
        few = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "hidden_size": 8}
        model = transformers.BertModel(transformers.BertConfig(max_position_embeddings=12, **few, **sizes))
    else:
        model = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, **sizes))
        own.pad_token = None
    own.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    condition = TextCondition(kind="text", encoder=str(tmp_path), hidden_states=[1], features=8, hidden=2, reach="all")
    text = task.prompt_texts("train", SEEN[0])[0]
    alone = task.text_features(condition, [text])
    beside = task.text_features(condition, [text, text * 5])
    assert alone.shape == (1, 8)
    torch.testing.assert_close(alone[0], beside[0], atol=1e-5, rtol=1e-5)
    assert beside.isfinite().all()
    if kind.startswith("BERT"):
        ids = own(text, return_tensors="pt")["input_ids"]
        assert ids.shape[1] > 12
        expected = model.eval()(input_ids=ids[:, :12]).last_hidden_state[0].mean(0)
        torch.testing.assert_close(alone[0], expected, atol=1e-5, rtol=1e-5)


def test_the_share_of_unknown_words(task: AdapterTaskSet) -> None:
    condition = load_params().experiment("asked").model.text
    assert condition
    assert task.unknown_share(condition, task.prompt_texts("train", SEEN[0])) == 0.0
    (tokens,) = task.tokenizer(["quantum is"])["input_ids"]
    assert task.unknown_share(condition, ["quantum is"]) == tokens.count(task.tokenizer.unk_token_id) / len(tokens) > 0


def test_more_validation_than_training_questions(task: AdapterTaskSet, tmp_path: Path) -> None:
    folder = tmp_path / "commonsense/dataset/boolq"
    folder.mkdir(parents=True)
    instruction = "is it?\n\nAnswer format: true/false"
    row = {"instruction": instruction, "input": "", "output": "true", "answer": "true"}
    for part in ("train", "test"):
        (folder / f"{part}.json").write_text(json.dumps([row] * 3))
    params = task.params.model_copy(update={"data": "commonsense", "seen": ["boolq"] * 2, "validation": 3})
    with pytest.raises(UserError, match="3 of 3 questions of boolq leave none to learn from"):
        AdapterTaskSet(params, str(tmp_path)).check()


def test_a_score_is_the_share_of_right_answers(asked: Path, task: AdapterTaskSet) -> None:
    adapter = adapters_of(asked, task)[0]
    for split in ("validation", "test"):
        judged = task.judge(adapter, split, SEEN[0])
        targets = task.targets(split, SEEN[0])
        assert judged.scores["accuracy"] == pytest.approx(100 * float((judged.answers == targets).float().mean()))
    assert {*task.judge(adapter, "test", SEEN[0]).scores} == {"accuracy", "accuracy (likelihood)"}
    assert len(task.targets("test", SEEN[0])) == len(task.asked("test", SEEN[0])[""])
    majority = task.majority(SEEN[0])
    answers = [one.answer for one in task.asked("train", SEEN[0])[""]]
    assert answers.count(majority) == max(answers.count(0), answers.count(1))


def test_answers_of_two_tasks_are_kept_apart(asked: Path, task: AdapterTaskSet, tmp_path: Path) -> None:
    """One adapter may be scored in several tasks, such as the mean of all adapters."""
    adapter = adapters_of(asked, task)[0]
    for code in (SEEN[0], SEEN[3]):
        kept = task.judge(adapter, "test", code, tmp_path)
        assert kept.scores == task.judge(adapter, "test", code).scores


def test_examples_stand_before_each_question(task: AdapterTaskSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        task, "_likeliest", lambda questions: seen.extend(one.prompt for one in questions) or [0] * len(questions)
    )
    score = task.score_in_context("test", SEEN[0], [2, 0])
    known, asked = task.asked("train", SEEN[0])[""], task.asked("test", SEEN[0])[""]
    examples = "".join(f"{known[index].prompt}{known[index].output}\n\n" for index in (2, 0))
    assert seen == [examples + one.prompt for one in asked]
    assert score == pytest.approx(100 * sum(one.answer == 0 for one in asked) / len(asked))


def test_faults_are_one_line(task: AdapterTaskSet) -> None:
    unknown = AdapterTaskSet(task.params.model_copy(update={"seen": ["size-bigger-truth", "size-biger-truth"]}), None)
    with pytest.raises(UserError, match=r"task 'size-biger-truth'.*'size-bigger-truth'"):
        unknown.check()
    with pytest.raises(UserError, match="outputs"):
        task.losses({}, [], 1, torch.Generator(), teachers={})


def test_no_two_splits_share_a_fact(task: AdapterTaskSet) -> None:
    """The names in a question tell its facts; for comparisons, whose question names two creatures, exactly."""
    params = task.params.model_copy(update={"validation": VALIDATION})
    for code in TASKS:
        questions = AdapterTaskSet(params, None)._read(code)
        assert len(questions["validation"]) == VALIDATION
        if not code.startswith(("size", "weight", "age", "speed")):
            continue
        facts = {split: {frozenset(fact) for fact in facts_of(relation(code), split)} for split in questions}
        creatures = {name for of in facts.values() for fact in of for name in fact}
        for split, of_split in questions.items():
            asked = {frozenset(creatures & {*re.findall(r"\w+", one.prompt)}) for one in of_split}
            assert asked <= facts[split], (code, split)
    many = AdapterTaskSet(task.params.model_copy(update={"validation": VALIDATION + 1}), None)
    with pytest.raises(UserError, match=r"task\.validation: 9, but a task of facts has 8; set fewer"):
        many.check()


def test_runs_have_the_held_out_tasks_first() -> None:
    experiment = parse_experiment(ASKED)
    assert isinstance(experiment.task, AdapterTasks)
    runs = experiment.runs()
    assert [run.code for run in runs.values()] == [*experiment.task.held_out, *experiment.task.seen]
    assert [run.held_out for run in runs.values()] == [True, True, False, False, False, False]
    assert {*experiment.task.seen} < {*TASKS}


def test_the_eight_benchmarks_are_unchanged(adapters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(adapters)
    of = adapters_task()
    assert of.asked("test", None) == of.questions["test"]


def test_one_adapter_for_all_tasks_takes_the_zoo_s_steps_and_questions(
    task: AdapterTaskSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rpg.tasks.commonsense.language as language

    seen: list[tuple[int, int, int, float]] = []
    learn = language.train_language_model

    def few(model, rows, text, zoo, steps, *rest):
        seen.append((steps, len(rows), zoo.batch, zoo.learning_rate))
        return learn(model, rows, text, zoo, 2, *rest[:2], [2], rest[-1])

    monkeypatch.setattr(language, "train_language_model", few)
    zoo = load_params().experiment("asked").zoo
    made = task.train_together(zoo, SEEN)
    questions = sum(len(task.asked("train", code)[""]) for code in SEEN)
    task.train_together(zoo, SEEN, batches=4)
    # 20 steps, and 5 more up to the only checkpoint; then a quarter of the steps with four times the questions.
    assert seen == [
        (4 * 25, questions, zoo.batch, zoo.learning_rate),
        (25, questions, 4 * zoo.batch, zoo.learning_rate / 2),
    ]
    assert {*made} == {*task._untrained}
    assert any(not torch.equal(tensor, task._untrained[name]) for name, tensor in made.items())


def test_the_loss_cuts_questions_as_the_zoo_does(task: AdapterTaskSet) -> None:
    longest = max(len(row["input_ids"]) for row in task._training_rows(SEEN[0]))
    zoo = load_params().experiment("asked").zoo
    few = AdapterTaskSet(task.params, None)
    few.follow(zoo.model_copy(update={"length": longest - 3}))
    assert max(len(row["input_ids"]) for row in few._training_rows(SEEN[0])) == longest - 3
