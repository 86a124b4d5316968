"""The verb `rpg clean` and the group `rpg ledger`: one function per verb."""

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


def clean(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Folders of results/.")] = None,
    unlisted: Annotated[bool, typer.Option("--unlisted", help="Folders that params.yaml does not have.")] = False,
    states: Annotated[bool, typer.Option("--states", help="Only saved states of stopped jobs.")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them. Without it nothing is deleted.")] = False,
) -> None:
    """List what each folder of results/ takes on the disk, or delete some of them."""
    from rpg.config.loading import load_params
    from rpg.pipeline.clean import clean

    clean(load_params(), names or [], unlisted, states, delete)
