import json
import multiprocessing
import queue
from argparse import Namespace
from pathlib import Path
from typing import Annotated

import pytest
import torch
from pydantic import Field

from rpg.utils.artifacts import Form, MayLack, Number
from rpg.utils.errors import UserError
from rpg.utils.files import (
    SEAL,
    atomic,
    exclusive,
    file_entry,
    read_json,
    read_sealed,
    read_tensors,
    sha256,
    verified_file,
    write_json,
    write_sealed,
    write_tensors,
    write_text,
)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_new_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder/a.txt"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_was_writing_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    path, left = tmp_path / "a.json", tmp_path / ".a.json.killed"
    left.write_text("half")
    other = tmp_path / ".b.json.killed"
    other.write_text("half")
    with atomic(path) as outer:
        assert not left.exists()
        outer.write_text("first")
        write_text(path, "second")
        assert outer.read_text() == "first"
    assert path.read_text() == "first"
    assert sorted(file.name for file in tmp_path.iterdir()) == [".b.json.killed", "a.json"]


def test_json_bytes_do_not_depend_on_key_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    write_json(tmp_path / "b.json", {"a": [1.5], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json", "rpg zoo") == {"a": [1.5], "b": 1}


def test_missing_and_broken_json_name_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make it with `rpg zoo`"):
        read_json(tmp_path / "a.json", "rpg zoo")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="delete it and run `rpg zoo`"):
        read_json(tmp_path / "a.json", "rpg zoo")


def test_sealed_json_is_read_as_it_was_written_and_not_with_another_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    tree = {"b": [0.1, 1e-30, float("nan")], "a": {"1": "é"}}
    write_sealed(path, tree)
    assert str(read_sealed(path, "rpg zoo")) == str({"a": tree["a"], "b": tree["b"]})
    # Of numbers as keys, of which JSON makes text, too.
    write_sealed(path, {"a": {10: 1, 9: 2}})
    assert read_sealed(path, "rpg zoo") == {"a": {"9": 2, "10": 1}}
    whole = path.read_text()
    for old, new in (('"9": 2', '"9": 3'), ('"9"', '"8"'), (json.loads(whole)[SEAL][:4], "0000"), (f'"{SEAL}"', '"b"')):
        assert old in whole
        path.write_text(whole.replace(old, new))
        with pytest.raises(
            UserError, match=r"a\.json: changed since `rpg zoo` wrote it; delete it and run the command"
        ):
            read_sealed(path, "rpg zoo")


def test_vouched_file_is_the_one_that_was_written(tmp_path: Path) -> None:
    rows, by = tmp_path / "rows.csv", tmp_path / "summary.json"
    write_text(rows, "a\n1\n")
    write_sealed(by, {"files": [file_entry(rows)]})
    assert verified_file(rows, by, "rpg novelty") == rows
    write_text(rows, "a\n2\n")
    with pytest.raises(UserError, match=r"rows\.csv: missing or changed since it was written; run `rpg novelty` again"):
        verified_file(rows, by, "rpg novelty")
    with pytest.raises(UserError, match=r"other\.csv: missing or changed"):
        verified_file(tmp_path / "other.csv", by, "rpg novelty")


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "safetensors"])
def test_state_dicts_of_every_kind_are_read(tmp_path: Path, suffix: str) -> None:
    state_dict, path = {"a": torch.randn(2, 3), "b": torch.tensor(4)}, tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        write_tensors(path, state_dict)
    else:
        torch.save(state_dict, path)
    read = read_tensors(path)
    assert read.keys() == state_dict.keys()
    assert all(torch.equal(read[name], state_dict[name]) for name in read)


def test_a_training_state_names_what_to_save(tmp_path: Path) -> None:
    """timm's checkpoints hold the options as argparse.Namespace, other tools' the weights beside the optimizer."""
    path, weights = tmp_path / "last.pth", {"a": torch.zeros(2)}
    torch.save({"state_dict": weights, "args": Namespace(lr=0.1)}, path)
    with pytest.raises(UserError, match=r"refused, because it holds more than weights \(argparse.Namespace\); save"):
        read_tensors(path)
    torch.save({"epoch": 3, "state_dict": weights, "state_dict_ema": weights, "optimizer": {"state": {}}}, path)
    with pytest.raises(UserError, match=r"optimizer; save its \['state_dict'\] or its \['state_dict_ema'\] alone"):
        read_tensors(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {"a": torch.zeros(1)}}, {"epoch": 3}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not a state dict"):
        read_tensors(tmp_path / "w.pth")


def test_unknown_suffix_and_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "w.ckpt").touch()
    with pytest.raises(UserError, match="unknown kind of checkpoint"):
        read_tensors(tmp_path / "w.ckpt")
    with pytest.raises(UserError, match="no such file"):
        read_tensors(tmp_path / "x.pth")


def test_safetensors_bytes_do_not_depend_on_order_or_layout(tmp_path: Path) -> None:
    a, b = torch.randn(3, 4), torch.randn(5)
    write_tensors(tmp_path / "1.safetensors", {"a": a, "b": b}, {"note": "x"})
    write_tensors(tmp_path / "2.safetensors", {"b": b, "a": a.T.contiguous().T}, {"note": "x"})
    assert sha256(tmp_path / "1.safetensors") == sha256(tmp_path / "2.safetensors")


def _try(folder: Path, results) -> None:
    results.put("started")
    with exclusive(folder):
        results.put("taken")


def test_a_folder_has_one_writing_process_and_the_other_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_try, args=(tmp_path, results))
    with exclusive(tmp_path):
        process.start()
        assert results.get(timeout=60) == "started"
        with pytest.raises(queue.Empty):
            results.get(timeout=1)
    assert results.get(timeout=60) == "taken"
    process.join()


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.safetensors.ab12cd34").write_bytes(b"half")
    (tmp_path / "model.safetensors").write_bytes(b"whole")
    with exclusive(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


class Part(Form):
    share: Number
    copy_: Annotated[MayLack[str], Field(alias="copy")] = None


class Whole(Form):
    parts: list[Part]
    name: MayLack[str] = None


def test_form_gives_back_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    tree = {"parts": [{"share": 1, "copy": "x", "more": [1, 2.0]}, {"share": 0.5}], "other": {"b": None, "a": 1}}
    write_sealed(path, tree)
    found = read_sealed(path, "rpg zoo", Whole)
    assert (found.name, found.parts[0].copy_, found.parts[1].share) == (None, "x", 0.5)
    assert json.dumps(found.tree(), sort_keys=True) == json.dumps(tree, sort_keys=True)
    write_json(path, found.tree())
    assert read_json(path, "rpg zoo", Whole) == found
    # An optional key may be absent, but not null.
    for key, fault in (("name", "name: Input should be a valid string"), ("parts", "parts: Input should be a valid")):
        write_json(path, {**tree, key: None})
        with pytest.raises(UserError, match=rf"a\.json: not written by `rpg zoo` \({fault}"):
            read_json(path, "rpg zoo", Whole)
