"""The command line's group `rpg ledger`: one function per verb."""

from typing import Annotated, Any

import typer

OPTIONS: dict[str, Any] = {
    "rich_markup_mode": "rich",
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}
ledger = typer.Typer(help="Keep DVC's records of every artifact and table.", **OPTIONS)


@ledger.command()
def write(
    check: Annotated[bool, typer.Option("--check", help="Only check whether dvc.yaml would change.")] = False,
) -> None:
    """Write dvc.yaml from params.yaml and the stages."""
    from rpg.pipeline.ledger import write

    write(check)


@ledger.command()
def status() -> None:
    """Print for each experiment: current, stale because of a key or file, or missing."""
    from rpg.pipeline.ledger import status

    status()


@ledger.command()
def pull() -> None:
    """Fetch the artifacts of dvc.lock, check every byte, and mark them as finished in Snakemake."""
    from rpg.pipeline.ledger import pull

    pull()


@ledger.command()
def adopt() -> None:
    """Mark the artifacts of dvc.lock as finished in Snakemake. `dvc repro` calls this command."""
    from rpg.pipeline.ledger import adopt

    adopt()


@ledger.command()
def push() -> None:
    """Record all artifacts that Snakemake finished in dvc.lock, and upload them."""
    from rpg.pipeline.ledger import push

    push()
