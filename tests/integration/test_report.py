import re
import shutil
from pathlib import Path

import pytest
from checkouts import make_checkout
from conftest import FEW, SCENES, run_layers, write_tree
from playwright.sync_api import sync_playwright

from rpg.data import scenes

SECTIONS = [
    "Tables",
    "Accuracy and distance",
    "Samples beside their nearest original",
    "Zoo and samples in one plane",
    "Training loss",
    "Rules",
    "Run times",
]


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the miniature."""
    folder = make_checkout(tmp_path_factory.mktemp("report"))
    shutil.copytree(finished / "results", folder / "results")
    run_layers(folder, "report")
    return folder / "results/report.html"


def test_page_is_whole_and_alone(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"<h2>(.+?)</h2>", text) == SECTIONS
    # Every image is in the page, and nothing is fetched.
    assert re.findall(r'(?:src|href)="(?!data:|#|https://arxiv.org/)([^"]+)"', text) == []
    assert text.count("<img ") == 3 + 2
    assert '<img src="data:image/svg+xml;base64,' in text
    tables = (page.parent / "tables.md").read_text()
    cells = [
        cell.strip() for line in tables.splitlines() if line.startswith("| mini") for cell in line.split("|")[1:-1]
    ]
    assert len(cells) > 10
    for cell in cells:
        assert f">{cell}</td>" in text


def test_page_shows_what_networks_see(found: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in FEW.items():
        monkeypatch.setattr(scenes, name, count)
    folder = make_checkout(tmp_path)
    write_tree(folder, scenes=SCENES)
    shutil.copytree(found / "results", folder / "results")
    run_layers(folder, "report")
    text = (folder / "results/report.html").read_text()
    titles = re.findall(r"<h2>(.+?)</h2>", text)
    assert titles == [*SECTIONS[:2], "What networks see", *SECTIONS[2:]]
    (section,) = re.findall(r'<section id="what-networks-see">.+?</section>', text, re.S)
    assert section.count("<img ") == 1
    assert "scenes: original 0001-000002.safetensors, sample 0000.safetensors" in section


def test_missing_tables_are_named(tmp_path: Path, finished: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copy(finished / "params.yaml", tmp_path)
    with pytest.raises(SystemExit) as stop:
        run_layers(tmp_path, "report")
    assert stop.value.code == 2
    assert "results/metrics.json" in capsys.readouterr().err


@pytest.mark.integration
def test_browser_shows_every_section_without_complaint(page: Path) -> None:
    """In a real browser: no message in its console, and every image has a width."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page()
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(page.as_uri())
        tab.wait_for_load_state("networkidle")
        widths = tab.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        headings = tab.eval_on_selector_all("h2", "headings => headings.map(heading => heading.innerText)")
        # A narrow window scrolls its tables, not the page.
        tab.set_viewport_size({"width": 500, "height": 800})
        wide = tab.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert said == []
    assert headings == SECTIONS
    assert len(widths) == 5
    assert min(widths) > 100
    assert wide <= 500
