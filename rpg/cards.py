"""Model cards, in Hugging Face's format, for the samples of an experiment; `rpg tables` writes them.

One stands beside each experiment's samples, as results/<experiment>/README.md.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from rpg.params import CommonsenseTask, CustomTask, Experiment, FineTuningTask, GivenZoo, OpenMMLabTask
from rpg.score import SETS

DATASETS = {
    "digits": "scikit-learn's digits",
    "cifar10": "CIFAR-10",
    "imagenet": "ImageNet-1K",
    "scenes": "scenes of scikit-learn's digits",
    "ade20k": "ADE20K",
    "coco": "COCO 2017",
    "facts": "questions on a generated world of facts",
    "commonsense": "eight commonsense benchmarks",
    "custom": "data of their own",
}
METRICS = {"top1": "top-1 accuracy"}
ADAPTERS = {"dora": "DoRA", "lora": "LoRA"}
# Task kind → Hugging Face's name of it, and of its metric.
KINDS = {
    "classification": ("image-classification", "accuracy"),
    "task_codes": ("image-classification", "accuracy"),
    "fine_tuning": ("image-classification", "accuracy"),
    "segmentation": ("image-segmentation", "mean_iou"),
    "detection": ("object-detection", "mean_average_precision"),
    "commonsense": ("text-generation", "accuracy"),
    "custom": ("other", "score"),
}
CARD = """---
{front}
---

# {name}: {network} networks for {data}, sampled by RPG

The {n} state dicts in `samples/` were not trained. They were sampled by RPG (recurrent diffusion for parameter
generation, [arXiv 2501.11587](https://arxiv.org/abs/2501.11587)), which had learned from {checkpoints} checkpoints of
{runs} training runs of the same network{tuned}. `samples/manifest.json` lists them with
their hashes, and what each was asked for.

## Use

```python
{use}
```

{answer}

## Scores

The {metric} in percent on the test split, {split}, over all
networks: mean with its 95 % bootstrap interval, smallest and largest.

{scores}

## Are they new?

{novelty}

## Limits

Made to study weight generation, on a task that needs no generated network. A sample inherits what its zoo's networks
get wrong. To make the same files: `snakemake --cores all results/{name}/samples/manifest.json`.
"""
TIMM = """import timm{registered}
from safetensors.torch import load_file

network = timm.create_model({call})
network.load_state_dict(load_file("samples/0000.safetensors"))"""
# Run in the folder of params.yaml, which has the network's config.
OPENMMLAB = """from rpg.params import load_params
from rpg.tasks import load_task
from safetensors.torch import load_file

params = load_params()
network = load_task(params.experiment("{name}").task, params.data_root).network
network.load_state_dict(load_file("results/{name}/samples/0000.safetensors"))"""
# Run in the same folder, where the language model is one of this project's own.
PEFT = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({model})
network = PeftModel.from_pretrained(model, "results/{name}/samples/0000")
tokenizer = AutoTokenizer.from_pretrained({model})"""
# Run in the same folder, where the network's own module is found.
CUSTOM = """from {module} import {function}
from safetensors.torch import load_file

network = {function}()
network.load_state_dict(load_file("results/{name}/samples/0000.safetensors"))"""
CUSTOM_ADAPTER = """from {module} import {function}
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

network = {function}()
set_peft_model_state_dict(network, load_file("results/{name}/samples/0000/adapter_model.safetensors"))"""
VERDICTS = {
    "replica": "nearer to a checkpoint of the zoo than another training run would be, in all or in part copies of one",
    "interpolation": "for the most part combinations of checkpoints of the zoo",
    "inaccurate": "far from every checkpoint of the zoo, and less accurate than they are",
    "novel": "about as far from the checkpoints as these are from each other, no combination of them, and accurate",
    "none": "not to be judged: the zoo has one checkpoint alone",
}


def card(name: str, experiment: Experiment, entry: dict[str, Any]) -> str:
    """The card of an experiment, from its entry in metrics.json."""
    task = experiment.task
    data = task.kind if isinstance(task, CustomTask) else task.data
    split = "which neither the zoo's networks nor RPG ever saw"
    if isinstance(task, OpenMMLabTask):
        network, library = Path(task.config).stem, "mmsegmentation" if task.kind == "segmentation" else "mmdet"
        use = OPENMMLAB.format(name=name)
        answer = f"Run it in the folder of `params.yaml`; `network` is what `{task.config}` describes."
    elif isinstance(task, CommonsenseTask):
        network, library = f"{ADAPTERS[task.adapter.kind]} adapter (r = {task.adapter.rank})", "peft"
        commit = f', revision="{task.revision}"' if task.revision else ""
        use = PEFT.format(name=name, model=f'"{task.model}"{commit}')
        answer = "Run it in the folder of `params.yaml`; `rpg.data.commonsense` has the prompt that it is used to."
    elif isinstance(task, FineTuningTask):
        network, library = task.network.name, "timm"
        use = TIMM.format(registered="", call=_call(network, task.network.arguments))
        answer = (
            "Images go through `timm.data.create_transform` with `resolve_data_config({}, model=network,"
            " use_test_size=True)`; the answer is the class."
        )
    elif isinstance(task, CustomTask):
        module, _, function = task.build.partition(":")
        adapters = experiment.tokens.canonical is not None
        network, library = f"`{task.build}`", "peft" if adapters else "pytorch"
        use = (CUSTOM_ADAPTER if adapters else CUSTOM).format(module=module, function=function, name=name)
        answer = f"Run it in the folder of `params.yaml`; `{task.score}` knows what goes in and comes out."
        split = f"as `{task.score}` has it"
    else:
        network, library = task.network.name, "timm"
        outputs = {"num_classes": 2} if task.kind == "task_codes" else {}
        # The folder of params.yaml has the module that gives timm these networks.
        registered = "\nimport rpg.tasks.networks" if network in ("cnn_small", "cnn_medium") else ""
        use = TIMM.format(registered=registered, call=_call(network, {**task.network.arguments, **outputs}))
        answer = f"Images are resized to {task.resolution} × {task.resolution} pixels; " + (
            "answer 1 says that the image's class is one of those whose bit in the task code is 1."
            if task.kind == "task_codes"
            else "the answer is the class."
        )
    kind, metric = KINDS[task.kind]
    sets = {key: entry["rpg" if key == "all" else key] for key in SETS if key in entry["novelty"]["rpg"]}
    front = ModelCardData(
        license="apache-2.0",
        library_name=library,
        pipeline_tag=kind,
        tags=["rpg", "weight-generation"],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=kind,
                dataset_type=data,
                dataset_name=f"{DATASETS[data]}, {SETS[key]}",
                # Results of one configuration would be merged.
                dataset_config=key,
                dataset_split="test",
                metric_type=metric,
                metric_name=f"mean {METRICS.get(entry['metric'], entry['metric'])} of all samples",
                metric_value=of["mean"],
            )
            for key, of in sets.items()
        ],
    )
    rows = ["| networks | mean | interval | min | best | n |", "|:--|--:|--:|--:|--:|--:|"]
    rows += [_row("originals", entry["original"]), *(_row(f"samples, {SETS[key]}", of) for key, of in sets.items())]
    verdicts = [
        f"- {SETS[key]}: **{of['verdict']}**, that is, {VERDICTS[of['verdict']]}."
        for key in SETS
        if (of := entry["novelty"]["rpg"].get(key))
    ]
    learned = [run for run in experiment.runs().values() if not run.held_out]
    return CARD.format(
        front=front.to_yaml().strip(),
        name=name,
        network=network,
        data=DATASETS[data],
        n=sum(of["n"] for of in sets.values()),
        # How many a given zoo has is known of its scores alone; none of them is held out.
        checkpoints=entry["original"]["n"]
        if isinstance(experiment.zoo, GivenZoo)
        else len(learned) * experiment.zoo.saves,
        runs=len(learned),
        tuned=", and was then tuned on training images" if experiment.tune else "",
        use=use,
        answer=answer,
        split=split,
        metric=METRICS.get(entry["metric"], entry["metric"]),
        scores="\n".join(rows),
        novelty="By the rule that results/tables.md states, the samples are\n\n" + "\n".join(verdicts),
    )


def _call(network: str, arguments: dict[str, Any]) -> str:
    return ", ".join([repr(network), *(f"{key}={value!r}" for key, value in arguments.items())])


def _row(label: str, of: dict[str, Any]) -> str:
    low, high = of["interval"]
    cells = [label, f"{of['mean']:.2f}", f"{low:.2f} to {high:.2f}", f"{of['min']:.2f}", f"{of['best']:.2f}", of["n"]]
    return "| " + " | ".join(map(str, cells)) + " |"
