"""The functions that the user names in the block `task`: `build` and `score`."""

import importlib
import math
import sys
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rpg.blocks import PARAMS_FILE
from rpg.utils.errors import UserError
from rpg.utils.metric import PERCENT, MetricKind
from rpg.utils.rng import derive

_PACKAGE = Path(__file__).parent.parent


class UserFunction:
    """A function of the user, module:function, which the key `key` of the block `task` names."""

    def __init__(self, key: str, path: str) -> None:
        self.key, self.path = key, path

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function itself; UserError if the import fails."""
        module, _, name = self.path.partition(":")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        try:
            imported = importlib.import_module(module)
        except (Exception, SystemExit) as error:
            lacking = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
            why = f"there is no module {module} in {here}" if lacking else f"importing it raises {_line(error)}"
            raise self.fault(f"{why}{'' if lacking else _where(error)}") from error
        function = getattr(imported, name, None)
        if not callable(function):
            raise self.fault(f"{module} has no function {name}")
        return function

    def __call__(self, *arguments: Any) -> Any:
        """Return the function's result; UserError if it raises. torch's generators keep their state."""
        function = self.function
        try:
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(derive("custom", self.key))
                return function(*arguments)
        except UserError:
            raise
        except Exception as error:
            raise self.fault(f"raises {_line(error)}{_where(error)}") from error

    def fault(self, what: str) -> UserError:
        """Return the error that says what is wrong with the function."""
        return UserError(f"{PARAMS_FILE}: task.{self.key} '{self.path}': {what}")


class ScoreFunction(UserFunction):
    """The function `score`, whose scores are of the kind `kind`."""

    def __init__(self, path: str, kind: MetricKind) -> None:
        super().__init__("score", path)
        self.kind = kind
        self._targets: dict[str, Tensor] = {}

    def judge(self, network: nn.Module, split: str) -> tuple[Tensor, float]:
        """Return the answers [n] of a network on a split, and its score; a mere number gives n = 0.

        Raises UserError if the function fails or returns something else than a score or answers and targets.
        """
        result = self(network, split)
        if isinstance(result, (tuple, list)) and len(result) == 2:
            answers, targets = result
            return self._accuracy(answers, targets, split)
        try:
            score = float(result)
        except (TypeError, ValueError, RuntimeError) as error:
            wanted = "a percentage or (answers, targets)" if self.kind == PERCENT else "a number"
            raise self.fault(f"must return {wanted}, not {_line(result)}") from error
        if self.kind.is_percent and not 0 <= score <= 100:
            remedy = "; give another unit in task.unit" if math.isfinite(score) else ""
            raise self.fault(f"must return a percentage from 0 to 100, not {score}{remedy}")
        if not math.isfinite(score):
            raise self.fault(f"must return a finite number, not {score}")
        return torch.zeros(0, dtype=torch.int64), score

    def _accuracy(self, answers: Any, targets: Any, split: str) -> tuple[Tensor, float]:
        if self.kind != PERCENT:
            keys = " and ".join(f"task.{key}" for key in self.kind.tree())
            raise self.fault(f"returns (answers, targets), whose score is the accuracy in percent; remove {keys}")
        try:
            answers, targets = (torch.as_tensor(values).cpu() for values in (answers, targets))
        except (TypeError, ValueError, RuntimeError) as error:
            raise self.fault(f"answers and targets are no numbers ({_line(error)})") from error
        whole = not any(values.is_floating_point() or values.is_complex() for values in (answers, targets))
        if not whole or answers.dim() != 1 or answers.shape != targets.shape or not len(answers):
            kinds = " and ".join(f"{values.dtype} {list(values.shape)}" for values in (answers, targets))
            raise self.fault(f"answers and targets must both be whole numbers [n], not {kinds}")
        known = self._targets.setdefault(split, targets.long())
        if not torch.equal(known, targets.long()):
            raise self.fault(f"the targets of {split} differ between calls; do not shuffle them")
        return answers.long(), 100 * float((answers == targets).double().mean())

    def targets(self, split: str, any_network: Callable[[], nn.Module]) -> Tensor:
        """Return the targets [n] of a split; n is 0 if the function returns a mere number."""
        if split not in self._targets:
            # The function returns targets for any weights.
            self.judge(any_network(), split)
        return self._targets.setdefault(split, torch.zeros(0, dtype=torch.int64))


def _line(value: Any) -> str:
    kind = f"{type(value).__name__}: " if isinstance(value, BaseException) else ""
    return f"{kind}{' '.join(str(value).split())[:200]}"


def _where(error: BaseException) -> str:
    """Return the place in the user's own files where an exception was raised."""
    here = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(Path.cwd()) and not Path(frame.filename).is_relative_to(_PACKAGE)
    ]
    if isinstance(error, SyntaxError):
        return f" ({error.filename}, line {error.lineno})"
    return f" ({Path(here[-1].filename).relative_to(Path.cwd())}, line {here[-1].lineno})" if here else ""
