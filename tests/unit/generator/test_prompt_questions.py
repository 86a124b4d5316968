"""Questions as a prompt: files, texts in Python, and what is refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import equal, pack_in

from rpg import Generator, generate
from rpg.cli import main
from rpg.evaluation.score import read_samples
from rpg.generator.packed import write_packed
from rpg.generator.prompt_questions import QuestionPrompt, chosen, given_questions, read_question_prompt
from rpg.generator.trained import TrainedRPG
from rpg.tasks.adapters import WEIGHTS
from rpg.training.prompts import MOST_QUESTIONS
from rpg.utils.errors import UserError
from rpg.utils.files import read_tensors

QUESTIONS = ["is the fobo bigger than the dusa? Answer format: true/false", "is it?"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "one\n\n  two \n"),
        ("a.json", '["one", {"instruction": "two", "input": "", "answer": "never read"}]'),
        ("a.jsonl", '"one"\n{"instruction": "two"}\n'),
        ("a.txt", "\ufeffone\ntwo"),
        ("a.json", '\ufeff[\n  "one",\n  {\n    "instruction": "two"\n  }\n]\n'),
        ("a.jsonl", '\n{"instruction": "one"}\n\n{"instruction": "two"}\n'),
    ],
)
def test_files_of_questions(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    prompt, lines = read_question_prompt(tmp_path / name)
    assert prompt == QuestionPrompt([("one", ""), ("two", "")])
    assert lines == []


@pytest.mark.parametrize(
    "text", ['{"instruction": "one"}', '{\n  "instruction": "one",\n  "input": ""\n}\n', '["one"]']
)
def test_a_json_file_of_one_question(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert read_question_prompt(tmp_path / "a.json")[0] == QuestionPrompt([("one", "")])


def test_an_instruction_may_have_an_input() -> None:
    assert given_questions([{"instruction": "shorten", "input": "a text"}]).questions == [("shorten", "a text")]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("none.txt", None, "no such file; write a question on each line"),
        ("empty.txt", b"\n \n", "holds no question"),
        ("picture.txt", b"\xff\xfe\x00\x01\x80", "cannot be read as text"),
        ("broken.json", b"[1,", "is no JSON"),
        ("broken.jsonl", b'"one"\n"two', "is no JSON"),
        ("nothing.json", b"", "holds no question"),
        ("numbers.json", b"[1]", "question 1: must be a text, or an object"),
        ("blank.json", b'["  "]', "question 1: is empty"),
        ("lists.jsonl", b'{"input": "x"}', "question 1: must be a text"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, name: str, content: bytes | None, fault: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read_question_prompt(tmp_path / name)
    assert fault in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", ["a question", 3, {"a": 1}, []])
def test_bad_values(values: Any) -> None:
    with pytest.raises(UserError, match="prompts: "):
        given_questions(values)


def test_too_many_questions_are_drawn_by_the_seed(tmp_path: Path) -> None:
    (tmp_path / "many.txt").write_text("\n".join(f"question {k}" for k in range(10_000)))
    prompt, (line,) = read_question_prompt(tmp_path / "many.txt", 3)
    assert len({*prompt.questions}) == MOST_QUESTIONS
    assert "has 10000 questions; RPG takes 128 of them" in line
    everything = QuestionPrompt([(f"question {k}", "") for k in range(10_000)])
    assert prompt == chosen(everything, 3) != chosen(everything, 4)


def test_a_prompt_makes_an_adapter_everywhere_alike(asked: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """The command line, Python and a packed generator make one adapter; the order of the questions does not matter."""
    monkeypatch.chdir(asked)
    file = tmp_path / "questions.json"
    file.write_text(json.dumps(QUESTIONS))
    main(["generate", "--experiment", "asked", "--prompts", str(file), "--out", str(tmp_path / "made"), "--seed", "4"])
    made = read_tensors(tmp_path / "made" / WEIGHTS)
    in_python = generate("asked", prompts=QUESTIONS, seed=4)
    # A file has its tensors in another order.
    assert equal(made, {name: in_python[name] for name in made})
    turned = generate("asked", prompts=QUESTIONS[::-1], seed=4)
    for name, tensor in made.items():
        torch.testing.assert_close(turned[name], tensor)
    other = generate("asked", prompts=["What is its home? Answer format: option1/option2"], seed=4)
    assert any(not torch.equal(tensor, other[name]) for name, tensor in made.items())
    packed = pack_in(asked, "asked", tmp_path / "packed")
    generator = Generator.from_pretrained(packed)
    assert generator.conditions["prompts"] == MOST_QUESTIONS
    for name, tensor in generator.generate(prompts=QUESTIONS, seed=4).items():
        torch.testing.assert_close(tensor, made[name])
    assert "`prompts`: 1 to 128 questions of a task, without answers" in (packed / "README.md").read_text()


def test_unknown_words_give_a_warning(asked: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(asked)
    file = tmp_path / "questions.txt"
    file.write_text("Which quantum computer factors integers fastest?")
    main(["generate", "--experiment", "asked", "--prompts", str(file), "--out", str(tmp_path / "made")])
    assert re.search(r"look: the language model does not know \d+ % of the questions' words", capsys.readouterr().err)
    with pytest.warns(UserWarning, match="does not know"):
        generate("asked", prompts=["Which quantum computer factors integers fastest?"])


def test_a_generated_adapter_has_a_score(asked: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """The folder of the adapter, and the name of a task; from the checkout and from a packed generator."""
    monkeypatch.chdir(asked)
    sampled = next(one for one in read_samples(Path("results/asked/samples"), 1) if one.model == "rpg")
    scores = json.loads(Path("results/asked/scores.json").read_text())["rpg"]
    expected = next(one["test"] for one in scores if one["code"] == sampled.code)
    folder = Path("results/asked/samples", sampled.file).parent
    arguments = ["score", "--experiment", "asked", "--weights", str(folder)]
    main([*arguments, "--code", sampled.code or ""])
    assert capsys.readouterr().out == f"{folder}: accuracy {expected:.2f} %\n".replace(" %", "")
    with pytest.raises(SystemExit):
        main([*arguments, "--code", "size-biger-truth"])
    assert "--code size-biger-truth: no such task; did you mean 'size-bigger-truth'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(arguments)
    assert "names no task; add --code with the name of a task" in capsys.readouterr().err
    packed = pack_in(asked, "asked", tmp_path / "packed")
    main(["score", "--generator", str(packed), "--weights", str(folder), "--code", sampled.code or ""])
    assert f"accuracy {expected:.2f}" in capsys.readouterr().out


def test_a_packed_generator_brings_the_models_that_read_and_answer(asked: Path, tmp_path: Path, monkeypatch) -> None:
    """The language model that the adapter opens with, and a sentence encoder."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    monkeypatch.chdir(asked)
    trained = TrainedRPG.of_experiment("asked")
    text = AutoTokenizer.from_pretrained("results/asked/base/0000")
    text.save_pretrained(tmp_path / "reader")
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(text), **sizes)).save_pretrained(tmp_path / "reader")
    read = trained.settings.model.with_encoder(str(tmp_path / "reader"))
    read.conditions[1] = read.conditions[1].model_copy(update={"hidden_states": [1]})
    trained.settings = replace(trained.settings, model=read)
    expected = trained.generate(None, None, None, 0, 1, None, None, prompts=QUESTIONS)
    write_packed(trained, tmp_path / "packed", "card", graph=False)
    shutil.move(tmp_path / "reader", tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    generator = Generator.from_pretrained("packed")
    assert equal(generator.generate(prompts=QUESTIONS, state=0, seed=1), expected)
    (tmp_path / "questions.txt").write_text("\n".join(QUESTIONS))
    main(["generate", "--generator", "packed", "--prompts", "questions.txt", "--out", "made"])
    config = json.loads(Path("made/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "packed/language_model")


def test_requests_that_do_not_fit(asked: Path, shown: Path, tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("one")
    monkeypatch.chdir(asked)
    with pytest.raises(UserError, match="needs questions of the task: add --prompts FILE"):
        generate("asked")
    with pytest.raises(UserError, match="was not trained on images"):
        generate("asked", images=torch.zeros(2, 1, 8, 8), labels=[0, 1])
    with pytest.raises(UserError, match="contradict"):
        generate("asked", images=torch.zeros(2, 1, 8, 8), labels=[0, 1], prompts=["one"])
    monkeypatch.chdir(shown)
    with pytest.raises(UserError, match="was not trained on questions"):
        generate("shown", prompts=["one"])
    with pytest.raises(SystemExit) as ended:
        main(["generate", "--experiment", "shown", "--prompts", str(file), "--out", str(tmp_path / "a.safetensors")])
    assert ended.value.code == 2
