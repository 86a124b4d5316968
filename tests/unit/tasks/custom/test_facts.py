"""The table of a user's own facts: numbers and classes of each checkpoint, and the faults of such a table."""

import json
from pathlib import Path

import pytest

from rpg.model.conditions import KINDS
from rpg.tasks.custom import facts as facts_module
from rpg.tasks.custom.facts import RESERVED, read_facts
from rpg.utils.errors import UserError
from rpg.zoo.manifest import Checkpoint

TABLE = """checkpoint,rate,kind
zoo/a/1.pth,0.1,red
zoo/a/2.pth,1e-3,blue
zoo/b, 5 ,red
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the table."""
    monkeypatch.chdir(tmp_path)
    Path("facts.csv").write_text(TABLE)
    return tmp_path


def test_numbers_and_classes_of_each_checkpoint(here: Path) -> None:
    facts = read_facts(Path("facts.csv"), [])
    assert (facts.names, facts.classes) == (["rate", "kind"], {"kind": ["blue", "red"]})
    assert facts.of_run(["zoo/a"], [Path("zoo/a/1.pth"), Path("zoo/a/2.pth")]) == {
        Path("zoo/a/1.pth"): {"rate": 0.1, "kind": [0.0, 1.0]},
        Path("zoo/a/2.pth"): {"rate": 0.001, "kind": [1.0, 0.0]},
    }
    # A folder names its only checkpoint.
    assert facts.of_run(["zoo/b"], [Path("zoo/b/model.pt")]) == {
        Path("zoo/b/model.pt"): {"rate": 5.0, "kind": [0.0, 1.0]}
    }
    facts.check_runs(["zoo/a", "zoo/b"])


def test_json_rows_are_the_same(here: Path) -> None:
    rows = [
        {"checkpoint": "zoo/a/1.pth", "rate": 0.1, "kind": "red"},
        {"checkpoint": "./zoo/a/2.pth", "rate": 0.001, "kind": "blue"},
        {"checkpoint": str(here / "zoo/b"), "rate": 5, "kind": "red"},
    ]
    Path("facts.json").write_text(json.dumps(rows))
    one, other = read_facts(Path("facts.json"), []), read_facts(Path("facts.csv"), [])
    assert [row.facts for row in one.rows.values()] == [row.facts for row in other.rows.values()]
    assert one.rows.keys() == other.rows.keys()


def test_a_byte_order_mark_of_a_spreadsheet_is_no_part_of_a_name(here: Path) -> None:
    Path("facts.csv").write_bytes(b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode())
    assert read_facts(Path("facts.csv"), []).names == ["rate", "kind"]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("0.1", "", "facts.csv: line 2: column 'rate' has no value; fill it in"),
        ("1e-3", "nan", "facts.csv: line 3: column 'rate' must be a finite number, not nan"),
        ("1e-3", "-inf", "facts.csv: line 3: column 'rate' must be a finite number, not -inf"),
        ("1e-3", "1e39", "facts.csv: line 3: column 'rate' must be a finite number, not 1e+39"),
        ("1e-3", "fast", "facts.csv: line 3: column 'rate' has numbers, but 'fast' is none"),
        ("blue", "", "facts.csv: line 3: column 'kind' has no value; fill it in"),
        ("zoo/a/2.pth", "zoo//a/./1.pth", "line 3: 'zoo//a/./1.pth' has a row in line 2 already; remove one"),
        (",red\n", "\n", "facts.csv: line 2: has 2 columns, but the first line has 3"),
        ("rate", "seed", "column 'seed': a checkpoint has a key of this name already; rename the column"),
        ("rate", "file", "column 'file': a checkpoint has a key of this name already; rename the column"),
        ("rate", "validation_loss", "column 'validation_loss': a checkpoint has a key of this name already"),
        ("rate", "a=b", "column 'a=b': a name has letters, digits, spaces, and _ . - only; rename it"),
        ("rate", "kind", "facts.csv: column 'kind' is there twice; remove one"),
        ("checkpoint", "path", "facts.csv: needs the column 'checkpoint' and a column for each fact"),
        (TABLE, "", "facts.csv: needs the column 'checkpoint' and a column for each fact"),
        ("red", '"red', "facts.csv: line 4: not CSV (unexpected end of data)"),
    ],
)
def test_a_fault_of_the_table_is_one_line(here: Path, old: str, new: str, line: str) -> None:
    Path("facts.csv").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        read_facts(Path("facts.csv"), ["validation_loss"])
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "facts.json: not JSON ("),
        ("{}", "facts.json: must be a list of rows, such as"),
        ("[1]", "facts.json: must be a list of rows, such as"),
        ('[{"checkpoint": "a", "x": 1}, {"checkpoint": "b"}]', "row 2: column 'x' is in some rows only"),
        ('[{"checkpoint": "a", "x": null}]', "facts.json: row 1: column 'x' has no value; fill it in"),
        ('[{"checkpoint": "a", "x": NaN}]', "facts.json: row 1: column 'x' must be a finite number, not nan"),
        ('[{"checkpoint": "a", "x": [1]}]', "row 1: column 'x' must be a number or a text, not [1.0]"),
        ('[{"checkpoint": 3, "x": 1}]', "facts.json: row 1: column 'checkpoint' must be a path"),
    ],
)
def test_a_fault_of_a_json_table_is_one_line(here: Path, text: str, line: str) -> None:
    Path("facts.json").write_text(text)
    with pytest.raises(UserError) as error:
        read_facts(Path("facts.json"), [])
    assert line in str(error.value)


def test_rows_and_checkpoints_must_fit(here: Path) -> None:
    facts = read_facts(Path("facts.csv"), [])
    with pytest.raises(UserError, match=r"facts\.csv: line 3: 'zoo/a/2\.pth' is no checkpoint of the run zoo/a"):
        facts.of_run(["zoo/a"], [Path("zoo/a/1.pth")])
    with pytest.raises(UserError, match=r"facts\.csv: line 4: 'zoo/b' is in no run of zoo\.runs"):
        facts.check_runs(["zoo/a"])
    Path("facts.csv").write_text(TABLE.replace("zoo/b", "zoo/a"))
    facts = read_facts(Path("facts.csv"), [])
    with pytest.raises(UserError, match=r"line 4: zoo/a is the checkpoint of line 2, too; remove one"):
        facts.of_run(["zoo/a"], [Path("zoo/a/1.pth")])


def test_a_column_of_names_is_no_class(here: Path) -> None:
    rows = "\n".join(f"zoo/{index},run {index}" for index in range(65))
    Path("facts.csv").write_text(f"checkpoint,name\n{rows}\n")
    with pytest.raises(UserError, match="column 'name' has 65 different texts, more than 64 classes"):
        read_facts(Path("facts.csv"), [])


def test_a_manifest_s_own_keys_are_reserved() -> None:
    assert (Checkpoint.model_fields.keys() | KINDS.keys()) - {"vector"} == RESERVED


def test_a_table_of_thousands_of_runs_is_searched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run looks for its own rows alone: all rows for each run took minutes."""
    monkeypatch.chdir(tmp_path)
    Path("facts.csv").write_text("checkpoint,x\n" + "".join(f"zoo/{n}/1.pth,{n}\n" for n in range(3000)))
    facts = read_facts(Path("facts.csv"), [])
    asked: list[str] = []
    monkeypatch.setattr(facts_module, "_within", lambda path, folders: asked.append(path))
    for number in range(3000):
        path = Path(f"zoo/{number}/1.pth")
        assert facts.of_run([f"zoo/{number}"], [path]) == {path: {"x": float(number)}}
    assert asked == []
    assert str(facts.lacks(Path("zoo/x"))) == "facts.csv: no row for the checkpoint zoo/x; add one"
