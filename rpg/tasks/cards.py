"""What all model cards say of scores."""

from huggingface_hub import EvalResult

from rpg.tasks.config import TaskConfig


def eval_result(task: TaskConfig, networks: str, config: str, metric: str, mean: float) -> EvalResult:
    """Return Hugging Face's record of the mean score of some networks of a task.

    Each kind of networks needs a `config` of its own, because Hugging Face merges results of the same one.
    """
    return EvalResult(
        task_type=task.pipeline_tag,
        dataset_type=task.dataset,
        dataset_name=f"{task.dataset_title}, {networks}",
        dataset_config=config,
        dataset_split="test",
        metric_type=task.card_metric,
        metric_name=metric,
        metric_value=mean,
    )
