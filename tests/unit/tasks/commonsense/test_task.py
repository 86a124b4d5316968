"""Adapters of a language model: trained with peft, written for peft, answered by two protocols."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ADAPTERS, ROOT, SETTINGS, adapters_task, run_layers, sampled_adapter, write_tree

from rpg.cli import main
from rpg.config.experiment import parse_experiment
from rpg.config.loading import load_params
from rpg.config.params import Params
from rpg.tasks.commonsense.config import AdapterZoo, CommonsenseTask
from rpg.tasks.commonsense.questions import ANSWER, SUBTASKS, read_questions
from rpg.tasks.commonsense.task import AVERAGE
from rpg.tasks.config import Run
from rpg.utils.errors import UserError
from rpg.utils.files import read_tensors


@pytest.fixture
def here(adapters: Path, monkeypatch) -> Path:
    """The finished miniature as working directory."""
    monkeypatch.chdir(adapters)
    return adapters / "results/adapters"


def test_a_generated_adapter_opened_with_peft_alone_has_the_tables_accuracy(here: Path, monkeypatch) -> None:
    """As anyone would who has never heard of this project: transformers, peft and the published evaluation."""
    import re

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained("results/adapters/base/0000")
    model = PeftModel.from_pretrained(model, "results/adapters/samples/0000").eval()
    tokenizer = AutoTokenizer.from_pretrained("results/adapters/base/0000")
    generated, likeliest, texts = [], [], []
    for subtask, pattern in {"boolq": "true|false", "social_i_qa": "answer1|answer2|answer3|answer4|answer5"}.items():
        rows = json.loads(Path(f"results/facts/dataset/{subtask}/test.json").read_text())
        named = likely = 0
        for row in rows:
            prompt = (
                "Below is an instruction that describes a task. Write a response that appropriately completes the "
                f"request. \n\n                ### Instruction:\n                {row['instruction']}\n\n"
                "                ### Response:\n                "
            )
            inputs = tokenizer(prompt, return_tensors="pt")
            output = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=3,
                do_sample=False,
            )
            texts.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
            found = re.findall(pattern, texts[-1])
            named += bool(found) and found[0] == row["answer"]
            losses = {}
            for choice in ("true", "false") if subtask == "boolq" else ("answer1", "answer2", "answer3"):
                ids = tokenizer(f"{prompt}the correct answer is {choice}", return_tensors="pt")["input_ids"]
                labels = ids.clone()
                labels[:, : inputs["input_ids"].shape[1]] = -100
                with torch.no_grad():
                    losses[choice] = float(model(input_ids=ids, labels=labels).loss)
            likely += min(losses, key=losses.__getitem__) == row["answer"]
        generated.append(100 * named / len(rows))
        likeliest.append(100 * likely / len(rows))
    scored = json.loads((here / "scores.json").read_text())["rpg"][0]
    assert scored["file"] == "0000/adapter_model.safetensors"
    # So small a model names few choices; what it finds likely is right now and then, and its words are the same.
    assert max(likeliest) > 20
    of = adapters_task()
    of._put(sampled_adapter(here))
    said: list[str] = []
    decode = of.tokenizer.batch_decode
    monkeypatch.setattr(
        of.tokenizer, "batch_decode", lambda *a, **k: said.extend(decode(*a, **k)) or said[-len(a[0]) :]
    )
    with torch.inference_mode():
        for questions in of.questions["test"].values():
            for start in range(0, len(questions), 20):
                of._generated(questions[start : start + 20])
    assert said == texts
    assert len(set(said)) > 1
    assert [scored["others"][name] for name in ("BoolQ", "SIQA")] == pytest.approx(generated)
    assert [scored["others"][f"{name} (likelihood)"] for name in ("BoolQ", "SIQA")] == pytest.approx(likeliest)
    assert scored["test"] == pytest.approx(sum(generated) / 2)


def test_zoo_and_samples_are_adapter_folders_and_base_is_a_model(here: Path) -> None:
    manifest = json.loads((here / "zoo/checkpoints.json").read_text())
    files = [entry["file"] for entry in manifest["checkpoints"]]
    assert files == [
        f"0000-0001/{seed:04d}-{step:06d}/adapter_model.safetensors" for seed in (0, 1) for step in (65, 70)
    ]
    config = json.loads((here / "samples/0002/adapter_config.json").read_text())
    assert (config["peft_type"], config["use_dora"], config["r"], config["lora_alpha"]) == ("LORA", True, 2, 4)
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert config["base_model_name_or_path"] == "results/adapters/base/0000"
    # Tokens hold the adapter alone: pairs and magnitudes of one block's two modules.
    names = {name.rpartition("proj.")[2] for name in sampled_adapter(here)}
    assert names == {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"}
    scores = json.loads((here / "scores.json").read_text())
    assert (
        scores["parameters"]
        == sum(tensor.numel() for tensor in sampled_adapter(here).values())
        == 2 * (32 + 32) + 2 * (64 + 32) + 32 + 32
    )


def test_samples_are_canonical(here: Path) -> None:
    """What was tokenized are the zoo's adapters in their one form, each rotated to the one before it."""
    from rpg.tokenizer.canonical import canonical
    from rpg.tokenizer.store import TokenStore

    store = TokenStore(here / "tokens")
    before = None
    for index, entry in enumerate(store.checkpoints):
        checkpoint = read_tensors(here / "zoo" / entry.file)
        state = store.state(entry)
        back = store.detokenize(store[index].unsqueeze(0), torch.tensor([state]))
        formed = before = canonical(checkpoint, before)
        if entry.step == max(other.step for other in store.checkpoints):
            # A sample of a run is rotated to its last save, which stays as it is.
            again = store.tokenize(checkpoint, state)
            torch.testing.assert_close(again, store[index], equal_nan=True, atol=1e-5, rtol=0)
        for name, tensor in formed.items():
            torch.testing.assert_close(back[name][0], tensor, rtol=0, atol=2e-6 * float(tensor.abs().max()))
            if name.endswith("lora_B.weight"):
                assert not torch.allclose(back[name][0], checkpoint[name], atol=1e-3 * float(tensor.abs().max()))
                if index == 0:
                    columns = back[name][0].norm(dim=0)
                    assert columns[0] >= columns[1]
                    assert (back[name][0].gather(0, back[name][0].abs().argmax(0, keepdim=True)) >= 0).all()


def test_likelihood_is_that_of_whole_sentences_one_by_one(here: Path) -> None:
    """The oracle: no padding, no cache, no batch."""
    of = adapters_task()
    of._put(sampled_adapter(here))
    questions = of.questions["test"]["social_i_qa"][:12] + of.questions["test"]["boolq"][:5]
    slow = []
    for question in questions:
        sums = []
        for name in question.choices:
            prompt = of.tokenizer(question.prompt)["input_ids"]
            whole = of.tokenizer(f"{question.prompt}{ANSWER}{name}")["input_ids"]
            with torch.no_grad():
                each = of.network(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
            sums.append(sum(float(each[k - 1, whole[k]]) for k in range(len(prompt), len(whole))))
        slow.append(max(range(len(sums)), key=sums.__getitem__))
    with torch.inference_mode():
        assert of._likeliest(questions) == slow
        # What stands beside it in a batch changes no answer.
        assert of._generated(questions) == [answer for one in questions for answer in of._generated([one])]


def test_scores_are_means_over_subtasks_by_both_protocols(here: Path) -> None:
    found = adapters_task().judge(sampled_adapter(here), "test")
    assert list(found.scores) == list(adapters_task().metrics)
    assert found.scores[AVERAGE] == pytest.approx((found.scores["BoolQ"] + found.scores["SIQA"]) / 2)
    likelihoods = [found.scores[f"{name} (likelihood)"] for name in ("BoolQ", "SIQA")]
    assert found.scores[f"{AVERAGE} (likelihood)"] == pytest.approx(sum(likelihoods) / 2)
    assert len(found.answers) == len(adapters_task().targets("test")) == 96
    assert list(adapters_task().judge(sampled_adapter(here), "validation").scores) == [
        AVERAGE,
        f"{AVERAGE} (likelihood)",
    ]
    # Novelty asks for the answers and one score, which take half the time.
    main = adapters_task().judge(sampled_adapter(here), "test", main_only=True)
    assert main.scores == {name: found.scores[name] for name in (AVERAGE, "BoolQ", "SIQA")}
    assert torch.equal(main.answers, found.answers)


def test_reference_is_the_language_model_alone(here: Path) -> None:
    of = adapters_task()
    (name, adapter), *_ = of.references().items()
    assert name == "base_model"
    of._put(adapter)
    ids = torch.tensor([of.tokenizer("a b c")["input_ids"]])
    with torch.inference_mode(), of.network.disable_adapter():
        alone = of.network(input_ids=ids).logits
    with torch.inference_mode():
        torch.testing.assert_close(of.network(input_ids=ids).logits, alone, atol=1e-5, rtol=1e-5)
    metrics = json.loads((here / "test.json").read_text())
    assert metrics["base_model"]["n"] == 1
    assert {"base_model", "original", "rpg"} <= metrics["others"]["SIQA"].keys()


def test_judging_goes_on_from_the_batches_that_are_kept(here: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("rpg.tasks.commonsense.language.BATCHES_KEPT", 2)
    of, whole = adapters_task(), adapters_task().judge(sampled_adapter(here), "test")
    generated = of._generated
    calls = []

    def until_the_fourth(questions: list) -> list[int]:
        calls.append(len(questions))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generated(questions)

    monkeypatch.setattr(of, "_generated", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        of.judge(sampled_adapter(here), "test", kept=tmp_path)
    assert [path.name.partition("-")[2] for path in tmp_path.iterdir()] == ["generated-000000.json"]
    again = of.judge(sampled_adapter(here), "test", kept=tmp_path)
    # Two of the five were kept; batches take no notice of where a subtask ends.
    assert calls == [20, 20, 20, 20, 20, 20, 16]
    assert again.scores == whole.scores
    # Another adapter's answers are its own.
    assert (
        adapters_task().judge(sampled_adapter(here, 1), "test", kept=tmp_path).scores
        == adapters_task().judge(sampled_adapter(here, 1), "test").scores
    )
    # What the layers kept is gone when they are done.
    assert not any((here / "kept").rglob("*.json"))


def test_same_bytes_twice(here: Path) -> None:
    experiment = parse_experiment(ADAPTERS)
    saves: list[dict[str, torch.Tensor]] = []
    for _ in range(2):
        adapters_task().train(
            experiment.zoo, [Run(seed=1, code=None, held_out=False)], [None], lambda step, states: saves.extend(states)
        )
    checkpoint = read_tensors(here / "zoo/0000-0001/0001-000070/adapter_model.safetensors")
    for name, tensor in checkpoint.items():
        assert torch.equal(saves[1][name], tensor)
        assert torch.equal(saves[3][name], tensor)
    assert any(not torch.equal(saves[0][name], tensor) for name, tensor in checkpoint.items())


def test_base_gives_the_same_bytes_twice(adapters: Path, tmp_path: Path) -> None:
    write_tree(tmp_path, adapters=ADAPTERS)
    run_layers(tmp_path, "base", experiment="adapters")
    for file in ("manifest.json", "0000/config.json", "0000/model.safetensors", "0000/tokenizer.json"):
        part = Path("results/adapters/base", file)
        assert (tmp_path / part).read_bytes() == (adapters / part).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "results/nowhere/base/0000"}, r"task.model 'results/nowhere/base/0000': cannot be opened; make it"),
        ({"model": "no/such-model", "revision": "0" * 40}, r"task.model 'no/such-model': cannot be opened \("),
        (
            {"model": "no/such-model"},
            r"task.revision: must be the commit of 'no/such-model' .* `hf models info no/such",
        ),
        ({"revision": "0" * 40}, r"task.revision: must be null; task.model 'results/adapters/base/0000' is a folder"),
        ({"adapter": {**ADAPTERS["task"]["adapter"], "targets": ["nothing"]}}, r"task.adapter: peft refuses it"),
        ({"validation": 5000}, r"task.validation: 5000 of \d+ questions leave none"),
        ({"training": ["nowhere.json"]}, r"nowhere.json: no such file"),
    ],
)
def test_what_cannot_be_had_is_one_line(here: Path, changes: dict, message: str, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message) as error:
        adapters_task(**changes).check()
    assert "\n" not in str(error.value)


def test_adapter_that_does_not_fit_is_one_line(here: Path, capsys) -> None:
    other = adapters_task(adapter={**ADAPTERS["task"]["adapter"], "rank": 3})
    with pytest.raises(
        UserError, match=r"lora_A.weight' has shape \[2, \d+\], not \[3, \d+\] \(task.adapter: dora, rank 3\)"
    ):
        other.judge(sampled_adapter(here), "test")
    fewer = adapters_task(adapter={**ADAPTERS["task"]["adapter"], "targets": ["q_proj"]})
    with pytest.raises(UserError, match=r"down_proj.* belongs to no module of the network"):
        fewer.judge(sampled_adapter(here), "test")
    plain = adapters_task(adapter={**ADAPTERS["task"]["adapter"], "targets": ["q_proj", "down_proj", "v_proj"]})
    with pytest.raises(UserError, match=r"v_proj.* is missing"):
        plain.judge(sampled_adapter(here), "test")


def test_a_broken_question_stops_every_layer_with_one_line(adapters: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    root = tmp_path / "data/commonsense"
    shutil.copytree(adapters / "results/facts", root)
    (root / "dataset/boolq/test.json").write_text('{"instruction": "x"}\n{broken\n')
    (tmp_path / "results").mkdir()
    shutil.copytree(adapters / "results/adapters/base", tmp_path / "results/adapters/base")
    write_tree(tmp_path, adapters={**ADAPTERS, "task": {**ADAPTERS["task"], "data": "commonsense"}})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RPG_DATA", str(tmp_path / "data"))
    with pytest.raises(SystemExit) as stop:
        main(["zoo", "--experiment", "adapters"])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "boolq/test.json: line 2: not JSON" in lines[0]


def test_trainers_optimizer_has_the_betas_of_params(here: Path, monkeypatch) -> None:
    import transformers

    found = []

    def train(self: transformers.Trainer) -> None:
        found.extend(group["betas"] for group in self.create_optimizer().param_groups)

    monkeypatch.setattr(transformers.Trainer, "train", train)
    experiment = parse_experiment({**ADAPTERS, "zoo": {**ADAPTERS["zoo"], "betas": [0.7, 0.9]}})
    adapters_task().train(experiment.zoo, [Run(seed=1, code=None, held_out=False)], [None], lambda *_: None)
    assert set(found) == {(0.7, 0.9)}


@pytest.mark.parametrize("final", [0.0, 0.01])
def test_learning_rate_of_an_adapter_falls_to_the_final_one(here: Path, final: float, monkeypatch) -> None:
    """60 steps and two saves, 5 steps apart: a warm-up of 2 steps, then a straight line over 68."""
    import transformers

    found = []

    def train(self: transformers.Trainer) -> None:
        self.create_optimizer_and_scheduler(self.args.max_steps)
        for _ in range(self.args.max_steps):
            found.extend(self.lr_scheduler.get_last_lr()[:1])
            self.optimizer.step()
            self.lr_scheduler.step()
        found.extend(self.lr_scheduler.get_last_lr()[:1])

    monkeypatch.setattr(transformers.Trainer, "train", train)
    experiment = parse_experiment({**ADAPTERS, "zoo": {**ADAPTERS["zoo"], "final_learning_rate": final}})
    adapters_task().train(experiment.zoo, [Run(seed=1, code=None, held_out=False)], [None], lambda *_: None)
    line = [0.0, 0.025, *(0.05 + (final - 0.05) * step / 68 for step in range(69))]
    assert found == pytest.approx(line)


def test_divergence_is_one_line(here: Path) -> None:
    base = parse_experiment({**ADAPTERS, "base": {**ADAPTERS["base"], "learning_rate": 3e38}}).base
    with pytest.raises(UserError, match=r"base: seed 0 diverged at step \d+; lower its learning_rate"):
        adapters_task().train_base(base, 0)


def test_generated_files_are_adapter_folders(here: Path, tmp_path: Path) -> None:
    main(["generate", "--experiment", "adapters", "--out", str(tmp_path / "mine")])
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_export_for_the_harness(here: Path, tmp_path: Path, capsys) -> None:
    main(["export", "--experiment", "adapters", "--out", str(tmp_path)])
    command = capsys.readouterr().out
    assert "pretrained=results/adapters/base/0000,peft=results/adapters/samples/0000" in command
    assert command.strip().endswith("--tasks rpg_boolq,rpg_social_i_qa")
    rows = [json.loads(line) for line in (tmp_path / "rpg_social_i_qa.jsonl").read_text().splitlines()]
    questions = read_questions(Path("results/facts/dataset/social_i_qa/test.json"))
    assert [row["label"] for row in rows] == [one.answer for one in questions]
    assert rows[0]["prompt"].endswith("### Response:\n                the correct answer is")
    assert yaml.safe_load((tmp_path / "rpg_boolq.yaml").read_text())["output_type"] == "multiple_choice"
    with pytest.raises(SystemExit):
        main(["export", "--experiment", "nothing", "--out", str(tmp_path)])


def test_papers_experiments_and_their_adapters() -> None:
    """r4 and r64 have the paper's numbers: 7.8 M and 113.1 M."""
    params = load_params(ROOT / "params.yaml")
    shapes = {"q_proj": (4096, 4096), "k_proj": (4096, 4096), "v_proj": (4096, 4096)}
    shapes |= {"up_proj": (4096, 11008), "down_proj": (11008, 4096)}
    for rank, published in ((4, 7.8e6), (16, None), (64, 113.1e6)):
        experiment = params.experiments[f"commonsense-llama7b-dora-r{rank}"]
        assert isinstance(experiment.task, CommonsenseTask)
        adapter = experiment.task.adapter
        assert (adapter.kind, adapter.rank, adapter.alpha) == ("dora", rank, 2 * rank)
        assert adapter.targets == list(shapes)
        assert experiment.task.subtasks == list(SUBTASKS)
        zoo = experiment.zoo
        assert isinstance(zoo, AdapterZoo)
        # Fifty checkpoints of the last of three epochs, not the last fifty steps of a rate that falls to 0.
        assert (zoo.saves, zoo.saves * zoo.save_every, zoo.steps) == (50, 10600, 21312)
        assert abs((zoo.steps + 10600) * zoo.batch / (3 * 170_300) - 1) < 0.001
        assert zoo.final_learning_rate == zoo.learning_rate / 10
        numbers = 32 * sum(rank * (inputs + outputs) + outputs for inputs, outputs in shapes.values())
        if published:
            assert abs(numbers / published - 1) < 0.012


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {**ADAPTERS["task"], "model": "elsewhere"}}, "with a base block it must be 'results/a/base/0000'"),
        ({"tokens": {"width": 64}}, "tokens.canonical: must be given with task.kind commonsense"),
        ({"base": {**ADAPTERS["base"], "heads": 3}}, "heads: 2 · heads must divide width"),
        (
            {"zoo": {**ADAPTERS["zoo"], "final_learning_rate": 0.05}},
            "final_learning_rate: must be less than learning_rate",
        ),
    ],
)
def test_params_that_contradict_each_other(changes: dict, message: str) -> None:
    own = {**ADAPTERS, "task": {**ADAPTERS["task"], "model": "results/a/base/0000"}}
    with pytest.raises(ValueError, match=message):
        Params.model_validate({**SETTINGS, "run": ["a"], "experiments": {"a": {**own, **changes}}})


def test_a_language_model_that_no_experiment_makes() -> None:
    lost = {**ADAPTERS, "base": None, "task": {**ADAPTERS["task"], "model": "results/b/base/0000"}}
    with pytest.raises(ValueError, match="no base block makes 'results/b/base/0000'"):
        Params.model_validate({**SETTINGS, "run": ["a"], "experiments": {"a": lost}})
