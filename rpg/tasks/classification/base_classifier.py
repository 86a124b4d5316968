"""What a base network, which tells all classes apart, can do for a task code without the zoo."""

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from rpg.tasks.base import BaseAnswers, Judgement
from rpg.tasks.stack import StateDict
from rpg.utils.device import device

if TYPE_CHECKING:
    from rpg.tasks.classification.task import Classification

BATCH = 1000


class BaseClassifier(BaseAnswers):
    """A base network of `task` with the weights `state_dict`."""

    def __init__(self, task: "Classification", state_dict: StateDict) -> None:
        self.task, self.state_dict = task, state_dict
        self._classes: dict[str, Tensor] = {}

    @cached_property
    def network(self) -> nn.Module:
        """The network in evaluation mode."""
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            network = self.task.build(num_classes=len(self.task.data.classes)).to(device()).eval()
        network.load_state_dict(self.state_dict)
        return network

    def look_up(self, split: str, code: str) -> Judgement:
        """Judge the classes that the network answers on a split, each looked up in `code`."""
        if split not in self._classes:
            self._classes[split] = self._outputs(split, features=False).argmax(1)
        answers = self.task.labels(self._classes[split].unsqueeze(0), [code])[0]
        return Judgement.of(self.task.metric, answers, self.task.targets(split, code))

    def probe(self, code: str) -> StateDict:
        """Return the network with a new head for the task of `code`.

        The head is scikit-learn's logistic regression from the network's features to the labels of all training images.
        Its outputs are 0 and the logit of yes.
        """
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(max_iter=2000).fit(self._features, self.task.targets("train", code).numpy())
        head = self.network.get_classifier()  # type: ignore[operator]
        (name,) = (name for name, module in self.network.named_modules() if module is head)
        new = {name: tensor.clone() for name, tensor in self.state_dict.items()}
        for key, numbers in (("weight", fitted.coef_), ("bias", fitted.intercept_)):
            logit = torch.from_numpy(numbers).float()
            new[f"{name}.{key}"] = torch.cat([torch.zeros_like(logit), logit])
        return new

    @cached_property
    def _features(self) -> np.ndarray:
        return self._outputs("train", features=True).double().numpy()

    @torch.inference_mode()
    def _outputs(self, split: str, features: bool) -> Tensor:
        """Return [n, F] the features before the head, or [n, K] the outputs, on the CPU."""
        network = self.network
        parts = self.task.inputs(split).split(BATCH)
        return torch.cat(
            [network.forward_head(network.forward_features(part), pre_logits=features).cpu() for part in parts]  # type: ignore[operator]
        )
