"""The portable generator in Python:

    from rpg import Generator

    generator = Generator.from_pretrained("folder")
    state_dict = generator.generate(classes=[3, 8], seed=1)

`rpg pack` writes the folder. It may lie on the Hugging Face hub: `Generator.from_pretrained("org/name", revision=...)`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, snapshot_download
from torch import nn

from rpg.generator.card import card
from rpg.generator.packed import check_folder, read_packed, write_packed
from rpg.generator.trained import TrainedRPG
from rpg.tasks.stack import StateDict
from rpg.utils.condition_requests import Vectors
from rpg.utils.errors import UserError


class Generator(ModelHubMixin):
    """A trained RPG that needs neither its zoo nor params.yaml."""

    def __init__(self, trained: TrainedRPG) -> None:
        self._trained = trained
        self._card: str | None = None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, **options: Any
    ) -> "Generator":
        """Load a generator from a folder, or from the hub at the commit `revision`; no code of the folder runs.

        `options` are those of `huggingface_hub.ModelHubMixin`: token, cache_dir, force_download, local_files_only.
        Raises UserError for a name on the hub without revision, and if the folder holds no generator, was changed, or
        was packed by a later version.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            if revision is None:
                hub = "a model on the hub needs revision=, the commit; `hf models info` prints it as sha"
                raise UserError(f"{folder}: no such folder; {hub}")
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), revision=revision, **options))
        generator = cls(read_packed(folder))
        readme = folder / "README.md"
        generator._card = readme.read_text(encoding="utf-8") if readme.is_file() else None
        return generator

    @classmethod
    def from_experiment(cls, name: str, root: Path | str = ".") -> "Generator":
        """Load the generator of a trained experiment; `root` is the folder of params.yaml.

        Raises UserError if params.yaml has no such experiment, or if the experiment is not trained.
        """
        return cls(TrainedRPG.of_experiment(name, Path(root)))

    @property
    def name(self) -> str:
        """The experiment that trained the generator."""
        return self._trained.name

    @property
    def conditions(self) -> dict[str, Any]:
        """What a caller may ask for: the number of permutation states, the classes of task codes, ranges of vectors.

        A vector's range is the least and the greatest of each of its numbers in the zoo.
        """
        return self._trained.vocabulary()

    def generate(
        self,
        *,
        classes: Sequence[int | str] | None = None,
        code: str | None = None,
        describe: str | None = None,
        state: int | Sequence[int] | None = None,
        seed: int | None = None,
        steps: int | None = None,
        vectors: Vectors | None = None,
        images: Any = None,
        labels: Sequence[Any] | None = None,
        prompts: Sequence[Any] | None = None,
    ) -> StateDict:
        """Return the state dict of one new network, on the CPU.

        Choose the task by `classes` (indices or names), by a task `code` ("0001000010") or in words (`describe`).
        `state` chooses one permutation state, or several to mix in equal shares. `vectors` sets conditions of the kind
        `vector` by name. `images` [n, C, H, W] with `labels` [n], 0 for no and 1 for yes, show the task to an RPG that
        takes images. `prompts`, a list of questions without answers, show it to an RPG that takes questions. Omitted
        values are drawn. An omitted seed or number of steps is that of the experiment.

        Raises UserError if the request is contradictory or unknown.
        """
        return self._trained.generate(classes, code, describe, state, seed, steps, vectors, images, labels, prompts)

    def network(
        self, state_dict: StateDict | None = None, *, build: Callable[[], nn.Module] | None = None, **request: Any
    ) -> nn.Module:
        """Return a new network in evaluation mode, on the CPU: a timm, mmdet or mmseg network, or a PeftModel.

        Its weights are `state_dict`, or those of `generate(**request)`. `build` returns the network of a zoo of one's
        own, whose module is not a part of the generator; other networks need none. Raises UserError as `generate` does,
        and if the network's library is missing.
        """
        state_dict = self.generate(**request) if state_dict is None else state_dict
        return self._trained.built(state_dict, build)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write the generator into a folder, as `rpg pack` does; UserError if the folder holds other files.

        `options` are those of `huggingface_hub.ModelHubMixin`: repo_id, push_to_hub and so on.
        """
        check_folder(Path(save_directory))
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_packed(self._trained, save_directory, self._card or card(self._trained))
