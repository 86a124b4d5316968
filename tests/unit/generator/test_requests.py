"""Requests for networks, without a model."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from rpg.generator.requests import check_out, task_code, zoo_membership
from rpg.utils.errors import UserError


@dataclass
class Digits:
    classes: tuple[str, ...] | None = tuple("0123456789")
    in_words: bool = True
    dataset: str = "digits"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ((None, None, None), None),
        (([3, "8"], None, None), "0001000010"),
        ((None, "0001000010", None), "0001000010"),
        ((None, None, "three or eight"), "0001000010"),
    ],
)
def test_classes_code_and_words(request_: tuple, code: str | None) -> None:
    assert task_code(Digits(), *request_) == code


def test_tasks_whose_bits_are_no_classes_have_no_words() -> None:
    with pytest.raises(UserError, match="the bits of these tasks are no classes"):
        task_code(Digits(in_words=False), None, None, "even numbers")
    with pytest.raises(UserError, match="have no tasks to choose from"):
        task_code(Digits(classes=None), [3], None, None)


def test_a_network_is_a_file_and_an_adapter_a_folder() -> None:
    check_out(Path("w.safetensors"), adapters=False)
    check_out(Path("adapter"), adapters=True)
    with pytest.raises(UserError, match=r"--out w.pth: must end in .safetensors"):
        check_out(Path("w.pth"), adapters=False)
    with pytest.raises(UserError, match="an adapter is a folder"):
        check_out(Path("w.safetensors"), adapters=True)


def test_membership() -> None:
    found = [zoo_membership(code, {"01"}, ["10"]) for code in ("01", "10", "11")]
    assert found == ["seen", "held out", "not in the zoo"]
