"""What a base network, which tells all classes apart, can do for a task code without the zoo."""

from functools import cached_property
from typing import TYPE_CHECKING

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
        self._known: dict[tuple[str, str, bool], Tensor] = {}

    @cached_property
    def network(self) -> nn.Module:
        """The network in evaluation mode."""
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            network = self.task.build_base().to(device()).eval()
        network.load_state_dict(self.state_dict)
        return network

    def look_up(self, split: str, code: str) -> Judgement:
        """Judge the classes that the network answers on a split, each looked up in `code`."""
        answers = self.task.meaning.from_base(self._outputs(split, code, features=False).argmax(1), code)
        return Judgement.of(self.task.metric, answers, self.task.targets(split, code))

    def probe(self, code: str) -> StateDict:
        """Return the network with a new head for the task of `code`.

        The head is scikit-learn's logistic regression from the network's features to the labels of all training images.
        Its outputs are 0 and the logit of yes.
        """
        from sklearn.linear_model import LogisticRegression

        features = self._outputs("train", code, features=True).double().numpy()
        fitted = LogisticRegression(max_iter=2000).fit(features, self.task.targets("train", code).numpy())
        head = self.network.get_classifier()  # type: ignore[operator]
        (name,) = (name for name, module in self.network.named_modules() if module is head)
        new = {name: tensor.clone() for name, tensor in self.state_dict.items()}
        for key, numbers in (("weight", fitted.coef_), ("bias", fitted.intercept_)):
            logit = torch.from_numpy(numbers).float()
            new[f"{name}.{key}"] = torch.cat([torch.zeros_like(logit), logit])
        return new

    @torch.inference_mode()
    def _outputs(self, split: str, code: str, features: bool) -> Tensor:
        """Return [n, F] the features before the head, or [n, K] the outputs, on the CPU."""
        # Outputs are kept where all tasks see the same images.
        key = split, code if self.task.meaning.own_images else "", features
        if key not in self._known:
            inputs = self.task.split_inputs(split, [code])
            network = self.network
            parts = (inputs[0] if inputs.ndim == 5 else inputs).split(BATCH)
            self._known[key] = torch.cat(
                [network.forward_head(network.forward_features(part), pre_logits=features).cpu() for part in parts]  # type: ignore[operator]
            )
        return self._known[key]
