"""The functions that the user names in the block `task`."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rpg.tasks.custom.functions import ScoreFunction, UserFunction
from rpg.utils.errors import UserError
from rpg.utils.metric import PERCENT, MetricKind

DECIBEL = MetricKind("dB", False)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory for the module `yours`."""
    monkeypatch.chdir(tmp_path)


def scoring(body: str, kind: MetricKind = PERCENT) -> ScoreFunction:
    """The function score(network, split) with this body."""
    Path("yours.py").write_text(f"import torch\n\ndef score(network, split):\n    {body}\n")
    return ScoreFunction("yours:score", kind)


def test_a_function_of_the_working_directory() -> None:
    Path("yours.py").write_text("def build(x=1):\n    return x + 1\n")
    function = UserFunction("build", "yours:build")
    assert function(4) == 5
    assert str(function.fault("is odd")) == "params.yaml: task.build 'yours:build': is odd"


def test_the_function_draws_the_same_each_time_and_moves_no_generator() -> None:
    function = scoring("return 100 * torch.rand(()).item()")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, other = (function.judge(nn.ReLU(), split)[1] for split in ("validation", "test"))
    assert one == other
    assert torch.equal(torch.rand(2), expected)


def test_a_function_runs_without_gradients() -> None:
    layer = nn.Linear(2, 1)
    assert scoring("return 50.0 + (not network.weight.sum().requires_grad)").judge(layer, "test")[1] == 51.0


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("", "yours has no function build"),
        ("build = 1", "yours has no function build"),
        ("import not_there", "importing it raises ModuleNotFoundError: No module named 'not_there' (yours.py, line 1)"),
        ("raise SystemExit(3)", "importing it raises SystemExit: 3 (yours.py, line 1)"),
        ("def build():\n    return 1 / 0", "raises ZeroDivisionError: division by zero (yours.py, line 2)"),
    ],
)
def test_a_fault_names_the_function_and_the_line(code: str, line: str) -> None:
    Path("yours.py").write_text(code)
    with pytest.raises(UserError) as error:
        UserFunction("build", "yours:build")()
    assert str(error.value) == f"params.yaml: task.build 'yours:build': {line}"


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(UserError) as error:
        UserFunction("build", "nowhere.net:build")()
    assert str(error.value) == (
        f"params.yaml: task.build 'nowhere.net:build': there is no module nowhere.net in {Path.cwd()}"
    )


def test_a_number_is_a_score_without_answers() -> None:
    answers, score = scoring("return torch.tensor(97.5)").judge(nn.ReLU(), "test")
    assert (answers.tolist(), score) == ([], 97.5)
    sys.modules.pop("yours")
    own = scoring("return -3", DECIBEL)
    assert own.judge(nn.ReLU(), "test")[1] == -3.0
    assert own.targets("test", nn.ReLU).tolist() == []


def test_answers_and_targets_give_the_accuracy() -> None:
    function = scoring("return [1, 2, 0, 3], torch.tensor([1, 2, 3, 3])")
    assert function.targets("test", nn.ReLU).tolist() == [1, 2, 3, 3]
    answers, score = function.judge(nn.ReLU(), "test")
    assert isinstance(answers, Tensor)
    assert (answers.tolist(), score) == ([1, 2, 0, 3], 75.0)


@pytest.mark.parametrize(
    ("body", "kind", "line"),
    [
        ("return None", PERCENT, "must return a percentage or (answers, targets), not None"),
        ("return 'x'", DECIBEL, "must return a number, not x"),
        ("return 100.5", PERCENT, "must return a percentage from 0 to 100, not 100.5; give another unit in task.unit"),
        ("return float('nan')", PERCENT, "must return a percentage from 0 to 100, not nan"),
        ("return float('inf')", DECIBEL, "must return a finite number, not inf"),
        (
            "return [1], [1]",
            DECIBEL,
            "returns (answers, targets), whose score is the accuracy in percent; remove task.unit",
        ),
        (
            "return torch.zeros(2), torch.zeros(2)",
            PERCENT,
            "answers and targets must both be whole numbers [n], not torch.float32 [2] and torch.float32 [2]",
        ),
        (
            "return torch.arange(2), torch.arange(3)",
            PERCENT,
            "answers and targets must both be whole numbers [n], not torch.int64 [2] and torch.int64 [3]",
        ),
    ],
)
def test_results_that_are_no_score(body: str, kind: MetricKind, line: str) -> None:
    with pytest.raises(UserError) as error:
        scoring(body, kind).judge(nn.ReLU(), "test")
    assert str(error.value).removeprefix("params.yaml: task.score 'yours:score': ").startswith(line)


def test_targets_that_differ_between_calls() -> None:
    Path("yours.py").write_text(
        "k = []\n\ndef score(network, split):\n    k.append(0)\n    return [1, 1], [1, len(k)]\n"
    )
    function = ScoreFunction("yours:score", PERCENT)
    function.judge(nn.ReLU(), "test")
    with pytest.raises(UserError, match="the targets of test differ between calls; do not shuffle them"):
        function.judge(nn.ReLU(), "test")
