"""Macros of the documentation site, which Zensical calls while it builds the pages.

The reference pages and the tables are made here, so that every option, key and number is written once. No macro
imports torch: the CLI is read from its parser, and params.yaml from its JSON schema.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "workflow/schemas/params.schema.json"


def define_env(env: Any) -> None:
    """Register the macros; Zensical calls this once per page."""
    env.macro(cli_reference)
    env.macro(params_reference)
    env.macro(repository_file)


def repository_file(path: str) -> str:
    """The text of a Markdown file of the repository, without its first heading."""
    return re.sub(r"\A# .*\n", "", (ROOT / path).read_text(encoding="utf-8"))


def cli_reference() -> str:
    """Every verb of `rpg` with its options, from the argparse parser or the Typer application of `rpg.cli`."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import rpg.cli as cli

    verbs = typer_verbs(cli.app) if hasattr(cli, "app") else argparse_verbs(cli.parser())
    return "\n".join(verb_section(name, text, options) for name, text, options in verbs)


def argparse_verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, list[list[str]]]]:
    """(verb, help, rows of its options) for each verb of a parser, actions such as `ledger pull` included."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, verb in action.choices.items():
            nested = list(argparse_verbs(verb))
            rows = [
                [
                    ", ".join(option.option_strings) or option.dest,
                    "" if option.nargs == 0 else _choices(option.choices) or option.metavar or option.dest.upper(),
                    "required" if option.required else _default(option.default),
                    option.help or "",
                ]
                for option in verb._actions
                if not isinstance(option, argparse._HelpAction | argparse._SubParsersAction)
            ]
            yield name, helps.get(name, verb.description or ""), rows
            for action_name, text, action_rows in nested:
                yield f"{name} {action_name}", text, action_rows


def typer_verbs(app: Any) -> Iterator[tuple[str, str, list[list[str]]]]:
    """(verb, help, rows of its options) for each command of a Typer application."""
    from typer.main import get_command

    yield from _click_verbs(get_command(app), "")


def _click_verbs(group: Any, prefix: str) -> Iterator[tuple[str, str, list[list[str]]]]:
    for name, command in group.commands.items():
        if getattr(command, "hidden", False):
            continue
        rows = [
            [
                ", ".join([*option.opts, *option.secondary_opts]),
                _value(option),
                "required" if option.required else _default(option.default),
                getattr(option, "help", None) or "",
            ]
            for option in command.params
            if option.name != "help" and not getattr(option, "hidden", False)
        ]
        yield f"{prefix}{name}", command.help or "", rows
        if hasattr(command, "commands"):
            yield from _click_verbs(command, f"{prefix}{name} ")


def _value(option: Any) -> str:
    """The placeholder of an option's value; empty for a flag."""
    if getattr(option, "is_flag", False):
        return ""
    if option.metavar:
        return str(option.metavar)
    # Typer has a copy of click of its own, whose parameters have no `type`.
    return option.display_type(None).strip("<>") if hasattr(option, "display_type") else option.type.name


def verb_section(name: str, text: str, options: list[list[str]]) -> str:
    """The Markdown section of one verb."""
    usage = " ".join(
        ["rpg", name, *(f"{row[0].split(',')[0]} {row[1]}".strip() for row in options if row[2] == "required")]
    )
    # A Typer docstring may wrap its lines; two line breaks are a paragraph.
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    sentences = "\n\n".join(_plain(_sentence(part)) for part in paragraphs if part)
    rows = [[f"`{row[0]}`", f"`{row[1]}`" if row[1] else "", row[2], _plain(row[3])] for row in options]
    table = _table(["option", "value", "default", "meaning"], rows) if rows else ""
    return f"## rpg {name}\n\n{sentences}\n\n```text\n{usage}\n```\n\n{table}"


def params_reference(path: Path = SCHEMA) -> str:
    """The keys of params.yaml and of every block, from the JSON schema that `rpg schema` prints."""
    schema = json.loads(path.read_text(encoding="utf-8"))
    definitions = schema["$defs"]
    blocks = [("params.yaml", schema), *((name, definitions[name]) for name in _by_reference(schema, definitions))]
    return "\n".join(_block_section(name, block) for name, block in blocks)


def _block_section(name: str, block: dict[str, Any]) -> str:
    required = set(block.get("required", ()))
    rows = [
        [
            f"`{key}`",
            _type(value),
            "required" if key in required else _default(value.get("default")),
            _plain(_meaning(value)),
        ]
        for key, value in block.get("properties", {}).items()
    ]
    table = _table(["key", "value", "default", "meaning"], rows) if rows else ""
    return f"## {name}\n\n{_plain(block.get('description', ''))}\n\n{table}"


def _by_reference(node: Any, definitions: dict[str, Any]) -> list[str]:
    """Names of all definitions, first those that `node` refers to, in the order in which a reader meets them."""
    found: list[str] = []
    waiting = [node]
    while waiting:
        names = [name for name in _references(waiting.pop(0)) if name not in found]
        found += dict.fromkeys(names)
        waiting += [definitions[name] for name in dict.fromkeys(names)]
    return [*found, *(name for name in definitions if name not in found)]


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$defs":
                continue
            if key == "$ref":
                yield value.rpartition("/")[2]
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _type(value: dict[str, Any]) -> str:
    """A value's type in words, with links to the blocks."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in value:
            return " or ".join(dict.fromkeys(_type(choice) for choice in value[key]))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return _choices(value["enum"], "`", ", ")
    if value.get("type") == "array":
        return f"list ({_type(value['items'])})" if value.get("items") else "list"
    if value.get("type") == "object":
        inner = [*value.get("patternProperties", {}).values(), value.get("additionalProperties")]
        blocks = [_type(block) for block in inner if isinstance(block, dict) and block]
        return f"names, each with {' or '.join(blocks)}" if blocks else "block"
    names = {"null": "`null`", "boolean": "true or false", "integer": "whole number", "string": "text"}
    return names.get(value.get("type", "any"), value.get("type", "any"))


def _meaning(value: dict[str, Any]) -> str:
    """A key's description and its bounds."""
    signs = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "multipleOf": "multiple of",
    }
    bounds = ", ".join(f"{sign} {value[key]}" for key, sign in signs.items() if key in value)
    text = value.get("description", "")
    return f"{text} ({bounds})" if text and bounds else text or bounds


def _choices(values: Iterable[Any] | None, quote: str = "", separator: str = ", ") -> str:
    return separator.join(f"{quote}{value}{quote}" for value in values) if values else ""


def _default(value: Any) -> str:
    """A default as a table shows it; empty for none."""
    if value is None or value is False or value in ("", [], ()) or callable(value) or value is argparse.SUPPRESS:
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", ":")) else ".")


def _table(heads: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(heads), line([":--"] * len(heads)), *map(line, rows)]) + "\n"


def _plain(text: str) -> str:
    """Text whose `<out>` outside of code is no HTML tag."""
    return "".join(
        part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(re.split("(`[^`]*`)", text))
    )
