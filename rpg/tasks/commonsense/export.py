"""Export an experiment's questions as tasks of lm-evaluation-harness, for a cross-check: `rpg export --format harness`.

The harness scores by likelihood: its `acc` is the score "(likelihood)" in scores.json.
"""

import json
from pathlib import Path

import yaml

from rpg.tasks.commonsense.config import CommonsenseTask
from rpg.tasks.commonsense.questions import ANSWER
from rpg.tasks.commonsense.task import Commonsense
from rpg.tasks.config import TaskConfig
from rpg.utils.errors import UserError
from rpg.utils.files import write_text


def write_harness(name: str, block: TaskConfig, data_root: str | None, out: Path) -> None:
    """Write <out>/rpg_<subtask>.yaml and .jsonl for each subtask and print the harness's command for a sample.

    `block` is the `task` block of the experiment `name`. Raises UserError if the experiment has no commonsense
    questions or if their files are missing.
    """
    if not isinstance(block, CommonsenseTask):
        raise UserError(f"params.yaml: experiments.{name}: no questions to export; task.kind must be commonsense")
    tasks = []
    for subtask, questions in Commonsense(block, data_root).questions["test"].items():
        task = f"rpg_{subtask.lower().replace('-', '_')}"
        tasks.append(task)
        # The harness puts a blank between prompt and choice, but it does not strip the prompt's own blank.
        rows = [
            {
                "prompt": question.prompt + ANSWER.rstrip(),
                "choices": list(question.choices),
                "label": question.answer,
            }
            for question in questions
        ]
        file = out / f"{task}.jsonl"
        write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        config = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file.resolve())}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "label",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        write_text(out / f"{task}.yaml", yaml.safe_dump(config, sort_keys=False))
    commit = f",revision={block.revision}" if block.revision else ""
    model = f"pretrained={block.model}{commit},peft=results/{name}/samples/0000"
    print(f"lm_eval --model hf --model_args {model} --include_path {out} --tasks {','.join(tasks)}")
