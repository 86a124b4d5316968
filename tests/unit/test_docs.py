"""The README and docs/: every link and file exists, blocks parse, numbers agree, and forbidden words are absent."""

import argparse
import ast
import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from conftest import ROOT

DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", *DOCS]
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
# The pages that show files of results/ get their text when the site is built.
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
# Words that say what only its writers know, and steps of the pipeline under another name than "stage".
FORBIDDEN = re.compile(r"\bsessions?\b|\bissues?\b|\blayers?\b", re.I)
# A layer is one of a network.
ALLOWED = re.compile(
    r"linear layer|transformer layer|a \*layer\* is always a layer of a network|python -m benchmarks layers", re.I
)


def prose(page: str) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", TEXTS[page])


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as the site and code hosts make them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """docs/hooks.py, as the site's builder loads it."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_stays_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page)) + re.findall(r'(?:src|href)="([^"]+)"', prose(page))
    for target in targets:
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (folder / path).resolve() if path else ROOT / page
        assert file.is_file(), f"{page}: {target}"
        assert page == "README.md" or file.is_relative_to(ROOT / "docs"), f"{page}: {target} is not on the site"
        if anchor:
            assert anchor in anchors(file.relative_to(ROOT).as_posix()), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_in_the_text_exists(page: str) -> None:
    """Paths of the repository, tests by their names, and benchmarks; artifacts of runs are not checked."""
    spans = re.findall(r"`([^`\n]+)`", prose(page))
    for span in spans:
        if re.fullmatch(r"(docs|workflow|examples|benchmarks|requirements|tests|rpg)/[\w./-]*", span):
            assert (ROOT / span).exists(), f"{page}: {span}"
        for name in re.findall(r"\btest_\w+\.py", span):
            assert list((ROOT / "tests").rglob(name)), f"{page}: {name}"
    names = re.findall(r"python -m benchmarks (\w[\w-]*)", TEXTS[page])
    known = (ROOT / "benchmarks/__main__.py").read_text()
    assert [name for name in names if f'"{name}"' not in known] == [], page


@pytest.mark.parametrize("page", PAGES)
def test_forbidden_words_are_absent(page: str) -> None:
    text = re.sub(r"^```python\n.*?^```", "", TEXTS[page], flags=re.S | re.M)
    found = [match.group() for match in FORBIDDEN.finditer(ALLOWED.sub("", text))]
    assert found == [], page


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language_and_parses(page: str) -> None:
    for language, text in FENCE.findall(TEXTS[page]):
        assert language in {"bash", "sh", "python", "yaml", "text", "mermaid"}, f"{page}: {language or text}"
        if language == "python":
            ast.parse(text)
        elif language == "yaml":
            assert isinstance(yaml.safe_load(text), dict)
        elif language in {"bash", "sh"} and "<this repository>" not in text:
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_every_page_is_in_the_navigation_once() -> None:
    def leaves(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [leaf for part in (node.values() if isinstance(node, dict) else node) for leaf in leaves(part)]

    assert sorted(f"docs/{leaf}" for leaf in leaves(SITE["nav"])) == DOCS


def test_the_readme_s_small_table_is_that_of_the_results() -> None:
    """Mean and n of every experiment in the first table of results/tables.md, as it is committed."""

    def rows(text: str) -> list[list[str]]:
        table = re.search(r"(?:^\|.*\n)+", text, re.M)
        assert table
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.group().splitlines()[2:]]

    command = ["git", "show", "HEAD:results/tables.md"]
    committed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    expected = [
        [row[0], row[1], row[3].split(" ±")[0], row[5], row[6].split(" ±")[0], row[9]]
        for row in rows(committed)
        if ", between" not in row[0]
    ]
    assert len(expected) == 8
    assert rows(TEXTS["README.md"]) == expected


def test_verbs_in_the_docs_exist(hooks: ModuleType) -> None:
    known = {
        line.removeprefix("## rpg ").split()[0] for line in hooks.cli_reference().splitlines() if line[:6] == "## rpg"
    }
    for page in PAGES:
        for language, text in FENCE.findall(TEXTS[page]):
            if language in {"bash", "sh"}:
                used = set(re.findall(r"^rpg (\w+)", text, re.M))
                assert used <= known, f"{page}: {used - known}"


def test_the_reference_has_every_option_of_argparse(hooks: ModuleType) -> None:
    parser = argparse.ArgumentParser(prog="rpg")
    verbs = parser.add_subparsers()
    train = verbs.add_parser("train", help="train RPG on the tokens")
    train.add_argument("--experiment", required=True, help="an experiment | of params.yaml")
    train.add_argument("--threads", type=int, default=1, help="CPU threads")
    train.add_argument("--quiet", action="store_true", help="print nothing")
    pull = verbs.add_parser("ledger", help="records").add_subparsers().add_parser("pull", help="fetch")
    pull.add_argument("name", help="what to fetch")
    found = {name: (text, rows) for name, text, rows in hooks.argparse_verbs(parser)}
    assert found.keys() == {"train", "ledger", "ledger pull"}
    assert found["train"] == (
        "train RPG on the tokens",
        [
            ["--experiment", "EXPERIMENT", "required", "an experiment | of params.yaml"],
            ["--threads", "THREADS", "`1`", "CPU threads"],
            ["--quiet", "", "", "print nothing"],
        ],
    )
    section = hooks.verb_section("train", *found["train"])
    assert "## rpg train\n\nTrain RPG on the tokens.\n" in section
    assert "rpg train --experiment EXPERIMENT\n" in section
    assert "| `--experiment` | `EXPERIMENT` | required | an experiment \\| of params.yaml |" in section


def test_the_reference_has_every_option_of_typer(hooks: ModuleType) -> None:
    typer = pytest.importorskip("typer")
    app, ledger = typer.Typer(), typer.Typer(help="DVC's records.")
    app.add_typer(ledger, name="ledger")

    @app.command()
    def train(
        experiment: str = typer.Option(..., help="An experiment."),
        threads: int = typer.Option(1, help="CPU threads."),
        quiet: bool = typer.Option(False, "--quiet", help="Print nothing."),
    ) -> None:
        """Train RPG on the tokens.

        A killed training
        resumes.
        """

    @ledger.command()
    def pull(name: str = typer.Argument(..., help="What to fetch.")) -> None:
        """Fetch."""

    found = {name: (text, rows) for name, text, rows in hooks.typer_verbs(app)}
    assert found.keys() == {"train", "ledger", "ledger pull"}
    assert found["train"][1] == [
        ["--experiment", "str", "required", "An experiment."],
        ["--threads", "int", "`1`", "CPU threads."],
        ["--quiet", "", "", "Print nothing."],
    ]
    assert found["ledger pull"] == ("Fetch.", [["name", "str", "required", "What to fetch."]])
    assert "Train RPG on the tokens.\n\nA killed training resumes.\n" in hooks.verb_section("train", *found["train"])


def test_the_reference_has_every_key_of_params(hooks: ModuleType) -> None:
    text = hooks.params_reference()
    schema = json.loads((ROOT / "workflow/schemas/params.schema.json").read_text())
    for name, block in {"params.yaml": schema, **schema["$defs"]}.items():
        section = text[text.index(f"## {name}\n") :].split("\n## ")[0]
        for key in block.get("properties", {}):
            assert f"| `{key}` |" in section, f"{name}.{key}"
    for anchor in re.findall(r"\(#(\w+)\)", text):
        assert re.search(rf"^## {anchor}$", text, re.M | re.I), anchor


def test_hooks_import_nothing_heavy() -> None:
    """The site's own environment has no torch."""
    tree = ast.parse((ROOT / "docs/hooks.py").read_text())
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not names & {"torch", "timm", "pydantic", "numpy"}


def test_included_files_lose_their_heading_alone(hooks: ModuleType) -> None:
    text = (ROOT / "results/tables.md").read_text()
    assert hooks.repository_file("results/tables.md") == text.partition("\n")[2]
    assert Path(hooks.SCHEMA).is_file()
