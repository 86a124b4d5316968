"""Zoos in one array, a row for each network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import network
from safetensors.torch import load_file, save_file
from torch import nn

from rpg.init.arrays import read_array, split_row, with_checkpoints, write_facts, write_rows
from rpg.utils.errors import UserError

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.npy", lambda: np.save("x.npy", ROWS)),
        ("x.npz", lambda: np.savez("x.npz", weights=ROWS)),
        ("x.pt", lambda: torch.save(torch.tensor(ROWS), "x.pt")),
        ("x.pth", lambda: torch.save({"weights": torch.tensor(ROWS)}, "x.pth")),
        ("x.safetensors", lambda: save_file({"weights": torch.tensor(ROWS)}, "x.safetensors")),
        # The bytes of another machine, and the order of another language.
        ("x.npy", lambda: np.save("x.npy", np.asfortranarray(ROWS.astype(">f4")))),
    ],
)
def test_an_array_of_every_kind(name: str, write) -> None:
    write()
    array = read_array(Path(name))
    assert array is not None
    assert torch.equal(array, torch.tensor(ROWS))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_type_of_numbers_stays(dtype) -> None:
    np.save("x.npy", ROWS.astype(dtype))
    array = read_array(Path("x.npy"))
    assert array is not None
    assert array.numpy().dtype == dtype


@pytest.mark.parametrize(
    "tree", [{"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, {"a": torch.zeros(4)}, torch.zeros(2, 2).int(), [1]]
)
def test_other_contents_are_no_array(tree: object) -> None:
    torch.save(tree, "x.pt")
    assert read_array(Path("x.pt")) is None
    Path("x.txt").touch()
    assert read_array(Path("x.txt")) is None
    assert read_array(Path()) is None


NONE = "holds no single array [networks, weights] of floats with two rows or more"


@pytest.mark.parametrize(
    ("write", "line"),
    [
        (lambda: np.save("x.npy", ROWS.astype(int)), NONE),
        (lambda: np.save("x.npy", ROWS[:1]), NONE),
        (lambda: np.save("x.npy", ROWS[0]), NONE),
        (lambda: np.save("x.npy", ROWS.astype(np.longdouble)), NONE),
        (
            lambda: np.save("x.npy", np.array([{}], dtype=object), allow_pickle=True),
            "can't be read (Object arrays cannot be loaded when allow_pickle=False); save the array by numpy.save",
        ),
        (lambda: Path("x.npy").touch(), "can't be read (No data left in file); save the array by numpy.save"),
        (
            lambda: Path("x.npy").write_bytes(b"PK\3\4xx"),
            "can't be read (File is not a zip file); save the array by numpy.save",
        ),
    ],
)
def test_a_file_of_numpy_without_an_array(write, line: str) -> None:
    write()
    with pytest.raises(UserError) as error:
        read_array(Path("x.npy"))
    assert str(error.value) == f"x.npy: {line}"


def test_a_row_is_in_the_order_of_parameters_to_vector() -> None:
    own = network()
    row = nn.utils.parameters_to_vector(own.parameters()).detach() + 1
    split = split_row(row, own)
    assert list(split) == list(own.state_dict())
    for name, parameter in own.named_parameters():
        assert torch.equal(split[name], parameter + 1)
    # Buffers are those of the network.
    assert torch.equal(split["1.running_var"], torch.ones(8))
    assert list(split_row(row, None)) == ["weights"]
    assert torch.equal(split_row(row, None)["weights"], row)


def test_each_row_is_a_file() -> None:
    paths = write_rows(Path("x.npy"), torch.tensor(ROWS), None, Path("new"))
    assert list(map(str, paths)) == [f"new/0000{row}.safetensors" for row in range(3)]
    assert torch.equal(load_file(paths[2])["weights"], torch.tensor([8.0, 9, 10, 11]))


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (torch.zeros(3, 4), "x.npy: a row has 4 weights, but the network of --build has 83 parameters"),
        (
            torch.zeros(3, 83).index_fill(0, torch.tensor([1]), torch.inf),
            "x.npy: row 1 holds NaN or Inf; remove the row",
        ),
    ],
)
def test_rows_that_are_no_networks(array: torch.Tensor, line: str) -> None:
    with pytest.raises(UserError) as error:
        write_rows(Path("x.npy"), array, network(), Path("new"))
    assert str(error.value) == line
    assert not Path("new").exists()


def test_the_table_s_rows_are_those_of_the_array() -> None:
    Path("t.csv").write_text("rate,checkpoint,kind\n0.1,run-7,a\n0.2,run-8,b b\n")
    rows = with_checkpoints(Path("t.csv"), [Path("0.st"), Path("1.st")])
    write_facts(Path("new.csv"), rows)
    assert Path("new.csv").read_text() == "checkpoint,rate,kind\n0.st,0.1,a\n1.st,0.2,b b\n"
    with pytest.raises(UserError) as error:
        with_checkpoints(Path("t.csv"), [Path("0.st")])
    assert str(error.value) == "t.csv: has 2 rows, but the array has 1"
