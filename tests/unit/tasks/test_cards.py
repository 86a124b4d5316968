from conftest import MINIATURE

from rpg.tasks.cards import eval_result
from rpg.tasks.registry import task_blocks


def test_record_of_a_mean_score() -> None:
    task = task_blocks()["classification"].model_validate(MINIATURE["task"])
    found = eval_result(task, "all samples", "all", "mean top-1 accuracy", 97.25)
    assert (found.task_type, found.dataset_type, found.dataset_split) == ("image-classification", "digits", "test")
    assert found.dataset_name == f"{task.dataset_title}, all samples"
    assert (found.dataset_config, found.metric_type) == ("all", "accuracy")
    assert (found.metric_name, found.metric_value) == ("mean top-1 accuracy", 97.25)
