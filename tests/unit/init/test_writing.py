"""The experiment in params.yaml, and folders of what `rpg init` writes."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from foreign import save, state, told, write_presets, write_runs

from rpg.init.writing import add_experiment, added, check_name, experiment_lines, make_folder
from rpg.utils.errors import UserError

LINES = experiment_lines("new", {"extends": "mini", "sample": {"count": 2}}, "A comment.")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with params.yaml."""
    monkeypatch.chdir(tmp_path)
    write_presets(tmp_path)
    return tmp_path


def test_a_line_for_each_block() -> None:
    assert LINES == ["  # A comment.", "  new:", "    extends: mini", "    sample: {count: 2}"]
    odd = {"runs": ["a: b, [1]", "ü #x", "*"], "state_from": r"(\d+)/'", "flag": True, "long": ["x" * 300] * 3}
    (_, _, *lines) = experiment_lines("n", odd, "")
    assert len(lines) == 4
    assert yaml.safe_load("\n".join(line.strip() for line in lines)) == odd


def test_no_other_line_changes(here: Path) -> None:
    text = Path("params.yaml").read_text()
    # The block is not the last one, and what stands before the next block belongs to that one.
    text = text.replace("run:", "# Of run.\nrun:")
    block = text[text.index("experiments:") :]
    text = block + "\n" + text[: text.index("experiments:")]
    Path("params.yaml").write_text(text)
    assert add_experiment("new", {"extends": "mini"}, "A comment.") == LINES[:3]
    new = Path("params.yaml").read_text()
    own = "\n".join(["", *LINES[:3]]) + "\n"
    assert new.count(own) == 1
    assert new.replace(own, "", 1) == text
    assert new.index(own) < new.index("# Of run.")


def test_line_ends_of_windows_and_a_deeper_block_stay(here: Path) -> None:
    tree = yaml.safe_load(Path("params.yaml").read_text())
    text = yaml.safe_dump(tree, sort_keys=False, indent=4).replace("\n", "\r\n")
    Path("params.yaml").write_bytes(text.encode())
    add_experiment("new", {"extends": "mini"}, "A comment.")
    new = Path("params.yaml").read_bytes().decode()
    assert new.replace("\r\n", "").count("\n") == 4
    assert new.startswith(text.rstrip("\r\n"))
    assert "\n    new:\n      extends: mini\n" in new


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("experiments: {}", "p.yaml: experiments: must be a block of lines, so that `rpg init` can add one"),
        ("experiments:\n  a: {}\n   b: {}", "p.yaml: experiments: can't take one more; indent its names alike"),
    ],
)
def test_a_block_of_another_form_is_refused(text: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        added(text, LINES, Path("p.yaml"))
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mini", "params.yaml: experiments.mini is there already; choose another name"),
        ("any-zoo", "params.yaml: presets.any-zoo is there already; choose another name"),
    ],
)
def test_a_name_that_is_taken(here: Path, name: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        check_name(name)
    assert str(error.value) == line


def test_params_without_the_preset(here: Path) -> None:
    tree = yaml.safe_load(Path("params.yaml").read_text())
    del tree["presets"]["any-zoo"]
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    write_runs()
    with pytest.raises(UserError) as error:
        told("zoo/*")
    assert str(error.value) == (
        "params.yaml: presets.any-zoo: missing; copy it from the params.yaml of RPG's repository"
    )


def test_a_folder_is_removed_if_a_later_step_fails(here: Path) -> None:
    with ExitStack() as undo:
        make_folder(Path("zoos/new"), undo)
        Path("zoos/new/x").touch()
    assert not Path("zoos").exists()
    Path("zoos/old").mkdir(parents=True)
    with ExitStack() as undo:
        make_folder(Path("zoos/new"), undo)
    assert [path.name for path in Path("zoos").iterdir()] == ["old"]
    with ExitStack() as undo:
        make_folder(Path("zoos/new"), undo)
        undo.pop_all()
    assert Path("zoos/new").is_dir()


def test_a_user_s_own_folder_of_that_name_is_left_alone(here: Path) -> None:
    save("zoos/new/a.pth", state(0, 1))
    with ExitStack() as undo, pytest.raises(UserError) as error:
        make_folder(Path("zoos/new"), undo)
    assert str(error.value) == "zoos/new: is there already; move it, or choose another name"
    assert Path("zoos/new/a.pth").is_file()
