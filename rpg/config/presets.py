"""Presets of params.yaml: `extends` names the presets and experiments that an experiment inherits from.

A variant of an ablation may extend presets, too; their keys become its changes.

This module works on the plain dicts that YAML gives. It knows only the key `extends` and the blocks in KEYS_OF_KINDS,
whose keys depend on the block's `kind`. rpg.config validates the merged experiments.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpg.config.model import KEYS_OF_KINDS
from rpg.utils.errors import UserError, suggestion


def resolve(tree: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """Return `merged` with copies of all mappings and lists, so that changing one experiment changes no other."""
    return _copied(merged(tree, path))


def merged(tree: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """Return `tree` without `presets` and `extends`, each experiment and variant with its inherited keys.

    Raises UserError, whose line begins with `path`, if a preset is no mapping, if a preset and an experiment have the
    same name, or if `extends` names an unknown parent, names a parent twice, makes a cycle or is no name or list of
    names. The validation of the experiments reports every other fault.
    """
    presets, experiments = tree.get("presets", {}), tree.get("experiments")
    rest = {key: value for key, value in tree.items() if key != "presets"}
    if not isinstance(presets, dict):
        raise UserError(f"{path}: presets: must be a mapping, not {_short(presets)}; write `presets: {{}}`")
    if not isinstance(experiments, dict):
        return rest
    for name in presets:
        if name in experiments:
            raise UserError(f"{path}: presets.{name}: an experiment has the same name; rename one of them")
    family = _Family(path, presets, experiments)
    for name in presets:
        family.merge(name)
    merged_experiments = {
        name: family.merge(name) if isinstance(own, dict) else own for name, own in experiments.items()
    }
    if isinstance(ablations := tree.get("ablations"), dict):
        rest["ablations"] = {name: _with_variants(family, name, ablation) for name, ablation in ablations.items()}
    return {**rest, "experiments": merged_experiments}


def _with_variants(family: "_Family", name: str, ablation: Any) -> Any:
    if not isinstance(ablation, dict) or not isinstance(variants := ablation.get("variants"), dict):
        return ablation
    changed = {
        variant: family.changes(f"ablations.{name}.variants.{variant}", own) for variant, own in variants.items()
    }
    return {**ablation, "variants": changed}


def origin(tree: dict[str, Any], name: str, keys: Sequence[str]) -> str | None:
    """Return the preset or experiment that gives `name` its value at `keys`, such as `preset mamba-mlp`.

    Returns None if the experiment sets the value itself, or if there is no such value. `tree` is one that `merged`
    accepts.
    """
    presets = tree.get("presets", {})
    known = {**tree["experiments"], **presets}
    waiting, seen = [name], set()
    while waiting:
        # The last parent comes first, because its keys replace those of earlier parents.
        if (one := waiting.pop()) not in seen and isinstance(known.get(one), dict):
            if _has(known[one], keys):
                return None if one == name else f"{'preset' if one in presets else 'experiment'} {one}"
            seen.add(one)
            waiting += _names(known[one])
    return None


@dataclass
class _Family:
    """Presets and experiments; `done` holds those already merged with their parents."""

    path: Path | str
    presets: dict[str, Any]
    experiments: dict[str, Any]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def merge(self, name: str, children: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the keys of `name` over the keys of its parents.

        `children` are the names whose `extends` led to `name`.
        """
        if name not in self.done:
            where, own, chain = self._where(name), self._own(name), (*children, name)
            whole: dict[str, Any] = {}
            for parent in self._parents(name):
                if parent in chain:
                    cycle = " → ".join([*chain[chain.index(parent) :], parent])
                    raise UserError(f"{where}.extends: cycle {cycle}; remove one of these parents")
                whole = _merge(whole, self.merge(parent, chain))
            self.done[name] = _merge(whole, {key: value for key, value in own.items() if key != "extends"})
        return self.done[name]

    def _where(self, name: str) -> str:
        return f"{self.path}: {'presets' if name in self.presets else 'experiments'}.{name}"

    def _own(self, name: str) -> dict[str, Any]:
        node = self.presets[name] if name in self.presets else self.experiments[name]
        if not isinstance(node, dict):
            raise UserError(f"{self._where(name)}: must be a mapping of blocks, not {_short(node)}; write {name}: {{}}")
        return node

    def changes(self, where: str, own: Any) -> Any:
        """Return the changes of a variant by dotted key: those of its presets, then its own."""
        if not isinstance(own, dict) or "extends" not in own:
            return own
        inherited: dict[str, Any] = {}
        for parent in self._checked(f"{self.path}: {where}.extends", _names(own), "preset", self.presets):
            for block, keys in self.merge(parent).items():
                inherited |= {f"{block}.{key}": keys[key] for key in keys} if isinstance(keys, dict) else {block: keys}
        return {**inherited, **{key: value for key, value in own.items() if key != "extends"}}

    def _parents(self, name: str) -> list[str]:
        kind, known = "preset", self.presets
        if name in self.experiments:
            kind, known = "preset or experiment", {**self.presets, **self.experiments}
        return self._checked(f"{self._where(name)}.extends", _names(self._own(name)), kind, known)

    def _checked(self, where: str, names: Any, kind: str, known: dict[str, Any]) -> list[str]:
        if not isinstance(names, list) or not all(isinstance(parent, str) for parent in names):
            raise UserError(f"{where}: must be a name or a list of names, not {_short(names)}; write `extends: [a, b]`")
        for parent in names:
            if names.count(parent) > 1:
                raise UserError(f"{where}: '{parent}' is listed twice; remove one")
            if parent not in known and parent in self.experiments:
                raise UserError(
                    f"{where}: '{parent}' is an experiment, but only an experiment can extend one; name a preset"
                )
            if parent not in known:
                raise UserError(f"{where}: no {kind} '{parent}'{suggestion(parent, known)}")
        return names


def _merge(inherited: Any, own: Any, where: tuple[str, ...] = ()) -> Any:
    """Merge `own` over `inherited`: mappings merge key by key, any other value replaces the inherited value.

    A block whose path `where` is in KEYS_OF_KINDS does not inherit the keys that only the inherited kind has.
    """
    if not (isinstance(inherited, dict) and isinstance(own, dict)):
        return own
    kinds, before, after = KEYS_OF_KINDS.get(where, {}), inherited.get("kind"), own.get("kind")
    if isinstance(before, str) and isinstance(after, str) and before in kinds and after in kinds:
        inherited = {key: value for key, value in inherited.items() if key not in kinds[before] - kinds[after]}
    return {**inherited, **{key: _merge(inherited.get(key), value, (*where, key)) for key, value in own.items()}}


def _copied(node: Any) -> Any:
    # copy.deepcopy would let two experiments share one copy of an inherited value.
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(value) for value in node] if isinstance(node, list) else node


def _names(node: dict[str, Any]) -> Any:
    given = node.get("extends", [])
    return [given] if isinstance(given, str) else given


def _has(node: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(node, dict):
            # An experiment inherits a list as a whole.
            return isinstance(node, list)
        if key not in node:
            return False
        node = node[key]
    return True


def _short(value: Any) -> str:
    return json.dumps(value, default=str)[:60]
