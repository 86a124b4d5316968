"""`rpg clean`: what results/ takes, and what goes."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import write_params

from rpg.cli import main
from rpg.config.loading import load_params
from rpg.pipeline.clean import entries, size
from rpg.utils.errors import UserError
from rpg.utils.files import exclusive


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of the experiment mini and of one that params.yaml no longer has."""
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, count in (
        ("mini/zoo/0000-0001/0000-000042.safetensors", 2_000_000),
        ("mini/rpg/state/state.safetensors", 1_500_000),
        ("mini/kept/score/a-000000.json", 500_000),
        ("mini/config.yaml", 1000),
        ("gone/zoo/0000-0001/0000-000042.safetensors", 3_000_000),
    ):
        path = tmp_path / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(count))
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder / "results").as_posix() for path in folder.rglob("results/**/*") if path.is_file()}


def test_listing_has_sizes_and_what_params_yaml_knows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(here)
    main(["clean"])
    lines = capsys.readouterr().out.splitlines()
    mini, gone = (next(line for line in lines if line.startswith(f"| {name}")) for name in ("mini", "gone"))
    assert [cell.strip() for cell in mini.split("|")[2:6]] == ["experiment, in run", "4.0", "4", "2.0"]
    assert [cell.strip() for cell in gone.split("|")[2:6]] == ["-", "3.0", "1", "0.0"]
    assert lines.index(mini) < lines.index(gone)
    assert lines[-1].startswith("together 7.0 MB; the disk has ")
    assert files(here) == before


def test_nothing_goes_without_delete(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(here)
    main(["clean", "--unlisted"])
    assert "1 file with 3.0 MB would go; add --delete" in capsys.readouterr().out
    assert files(here) == before


def test_unlisted_folders_go_and_the_others_stay(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["clean", "--unlisted", "--delete"])
    assert "deleted 1 file with 3.0 MB" in capsys.readouterr().out
    assert not (here / "results/gone").exists()
    assert len(files(here)) == 4


def test_saved_states_go_and_results_stay(here: Path) -> None:
    main(["clean", "--states", "--delete"])
    assert files(here) == {
        "mini/zoo/0000-0001/0000-000042.safetensors", "mini/config.yaml", "gone/zoo/0000-0001/0000-000042.safetensors"
    }  # fmt: skip
    assert not (here / "results/mini/rpg").exists()


def test_files_that_git_tracks_stay(here: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["git", "add", "results/mini/config.yaml"], check=True)
    main(["clean", "mini", "--delete"])
    assert files(here) == {"mini/config.yaml", "gone/zoo/0000-0001/0000-000042.safetensors"}


def test_unknown_name_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["clean", "mine", "--delete"])
    assert "rpg: error: no folder results/mine; did you mean 'mini'?" in capsys.readouterr().err
    assert len(files(here)) == 5


def test_folder_that_a_job_writes_into_is_refused(here: Path) -> None:
    from rpg.pipeline.clean import clean

    with exclusive(here / "results/mini/rpg"), pytest.raises(UserError, match="results/mini/rpg: a job writes into"):
        clean(load_params(), ["mini"], False, False, True)
    assert len(files(here)) == 5


def test_links_to_one_file_count_once(here: Path) -> None:
    os.link(here / "results/gone/zoo/0000-0001/0000-000042.safetensors", here / "results/gone/again")
    entry = next(entry for entry in entries(load_params()) if entry.name == "gone")
    assert (size(entry.files), len(entry.files)) == (3.0, 2)
