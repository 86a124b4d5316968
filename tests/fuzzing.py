"""Hostile input: what is put into params.yaml, into the layers' own JSON files and into files of tensors.

`fuzz(n)` gives a test n cases, the same in every run, since pyproject.toml gives pytest a seed. On the command line
`--hypothesis-profile more` gives it ten times as many, and `--hypothesis-seed` others.
"""

import copy
import json
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from rpg.utils.files import SEAL, sealed

# Cases of the profile that is loaded, for each hundred that `fuzz` is asked for.
HUNDRED = 100
settings.register_profile("same", max_examples=HUNDRED)
settings.register_profile("more", max_examples=10 * HUNDRED)

WAYS_OUT = ("../../outside/w.safetensors", "/etc/passwd", "..", "a/../../b", "link.safetensors", "\0", "", "~/x")
TEXTS = st.sampled_from(
    [
        *WAYS_OUT,
        "a\nb",
        "\"'`$(touch executed)",
        "--help",
        "\x1b[2J\r",
        "ünï\u2028cödé",
        "x" * 5000,
        "${HOME}",
        "{experiment}",
        "null",
        "1e999",
        "%s",
        "a: b",
    ]
)
NUMBERS = st.sampled_from(
    [0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf")]
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.text(max_size=8))
VALUES = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=3),
    st.dictionaries(st.one_of(TEXTS, st.text(max_size=4)), LEAVES, max_size=3),
    st.integers(1, 400).map(lambda depth: _nested(depth)),
)


def fuzz(cases: int) -> settings:
    """Settings of a test with so many cases, of the profile that is loaded."""
    profile = settings.get_profile("more" if settings.get_current_profile_name() == "more" else "same")
    return settings(
        profile,
        max_examples=cases * profile.max_examples // HUNDRED,
        deadline=None,
        # What failed once would be tried first, in that folder alone.
        database=None,
        # Fixtures are folders which a test leaves as they were, or writes anew for each case.
        suppress_health_check=list(HealthCheck),
    )


def _nested(depth: int) -> Any:
    node: Any = 0
    for level in range(depth):
        node = [node] if level % 2 else {"x": node}
    return node


def _places(tree: Any, where: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in a tree."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*where, key)
        if isinstance(value, (dict, list)):
            yield from _places(value, (*where, key))


@st.composite
def changed(draw: st.DrawFn, tree: dict) -> dict:
    """A tree with one to three changes: a key less, a key more, another name, another value, a value twice."""
    found = copy.deepcopy(tree)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        places = list(_places(found))
        if not places:
            break
        *above, last = draw(st.sampled_from(places))
        node = found
        for key in above:
            node = node[key]
        change = draw(st.sampled_from(["value", "value", "delete", "add", "rename", "double"]))
        if change == "value":
            node[last] = draw(VALUES)
        elif change == "delete":
            del node[last]
        elif change == "double":
            value = copy.deepcopy(node[last])
            node.append(value) if isinstance(node, list) else node.update({draw(TEXTS): value})
        elif isinstance(node, list):
            node.insert(last, draw(VALUES))
        elif change == "add":
            node[draw(TEXTS)] = draw(VALUES)
        else:
            node[draw(TEXTS)] = node.pop(last)
    return found


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join(['*' + chr(97 + k)] * 9)}]\n" for k in range(12)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} {{<<: [{', '.join(['*' + chr(97 + k)] * 9)}]}}\n" for k in range(12)
)
YAML = st.sampled_from(
    [
        "!!python/object/apply:os.system ['touch executed']",
        "!!python/object/new:subprocess.Popen [['touch', 'executed']]",
        "!!python/name:os.system",
        "!!python/module:antigravity",
        "!!binary R0lGODlhAQ==",
        "!!set {a, b}",
        "!!timestamp 2001-01-01",
        "!!omap [a: 1]",
        "2001-99-99",
        "&a [*a]",
        "&b {x: *b}",
        "*nowhere",
        "<<: {run: [x]}",
        "0x" + "f" * 5000,
        "1" * 5000,
        ".nan",
        "-.inf",
        "1e999",
        "1_000",
        "0o17",
        "12:30:45",
        '"\\ud800"',
        '"\\0\\e[2J"',
        "? [1, 2]\n: 3",
        "---\nrun: []",
        "...",
        "%YAML 3.0",
        "\t- x",
        "[" * 3000,
        "{a: " * 300,
        "'",
        "|",
        "../../outside",
        "/tmp",
        "null",
    ]
)


@st.composite
def broken_yaml(draw: st.DrawFn, text: str) -> bytes:
    """The text of a YAML file with lines cut, doubled or changed, or with bytes that are no text."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1)) if lines else 0
        change = draw(st.sampled_from(["value", "value", "line", "cut", "double", "indent", "bomb", "drop"]))
        if not lines or change == "line":
            lines.insert(place, draw(YAML))
        elif change == "value":
            lines[place] = f"{lines[place].partition(':')[0]}: {draw(YAML)}"
        elif change == "cut":
            lines = lines[: place + 1]
        elif change == "double":
            lines.insert(place, lines[place])
        elif change == "indent":
            lines[place] = draw(st.sampled_from([" ", "  ", "\t", "- "])) + lines[place]
        elif change == "drop":
            del lines[place]
        else:
            lines = [*draw(st.sampled_from([BOMB, MERGES])).splitlines(), *lines]
    # A lone surrogate can't be written, and is no text of a file.
    content = "\n".join(lines).encode("utf-8", "replace")
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(content)))
        no_text = draw(st.sampled_from([b"\xff\xfe", b"\0", b"\x80", b"\x1b[2J", b"\xef\xbb\xbf"]))
        content = content[:at] + no_text + content[at:]
    return content


@st.composite
def broken_json(draw: st.DrawFn, tree: dict) -> bytes:
    """The bytes of a JSON file whose tree is changed, and sealed again if it was, or which is no whole JSON."""
    found = draw(changed({key: value for key, value in tree.items() if key != SEAL}))
    damage = draw(st.sampled_from(["none"] * 8 + ["cut", "bytes", "empty", "deep", "unsealed"]))
    if SEAL in tree and isinstance(found, dict) and damage != "unsealed":
        found = sealed(found)
    content = json.dumps(found).encode()
    if damage == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if damage == "bytes":
        return b"\xff\xfe" + content
    return {"empty": b"", "deep": b"[" * 100_000}.get(damage, content)


LIES = ("bit", "cut", "length", "dtype", "shape", "offsets", "value", "empty", "many", "tree")
DTYPES = ("F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "U64", "X", "")


@st.composite
def broken_safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file with bits flipped, cut short, or with a header that lies."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = draw(st.sampled_from(names))
    kind = draw(
        st.sampled_from(["bit", "cut", "length", "dtype", "shape", "offsets", "value", "empty", "many", "tree"])
    )
    if kind == "bit":
        flipped = bytearray(content)
        # Half of them in the header, which is the smaller part.
        flipped[draw(st.one_of(st.integers(0, 8 + length - 1), st.integers(0, len(content) - 1)))] ^= 1 << draw(
            st.integers(0, 7)
        )
        return bytes(flipped)
    if kind == "cut":
        return content[: draw(st.integers(0, len(content) - 1))]
    if kind == "length":
        lie = draw(st.sampled_from([0, 1, length - 1, length + 1, len(content), 2**31, 2**40, 2**63, 2**64 - 1]))
        return struct.pack("<Q", lie) + content[8:]
    entry = header[name]
    if kind == "dtype":
        entry["dtype"] = draw(st.sampled_from(DTYPES))
    elif kind == "shape":
        own = entry["shape"]
        lies = [[], [0], [0, 2**62], [2**63, 2], [-1], [1.5], "x", [*own, 1], own[::-1]]
        entry["shape"] = draw(st.sampled_from(lies))
    elif kind == "offsets":
        entry["data_offsets"] = draw(
            st.sampled_from([[0, 0], [0, 2**63], [5, 1], [-1, 4], [len(data), len(data) + 4], [0], None])
        )
    elif kind == "value":
        first, last = entry["data_offsets"]
        poison = draw(st.sampled_from([b"\xff", b"\x7f", b"\x00", b"\x80\x7f"]))
        data = data[:first] + (poison * (last - first))[: last - first] + data[last:]
    elif kind == "empty":
        header["empty"] = {"dtype": "F32", "shape": [0, 3], "data_offsets": [len(data), len(data)]}
    elif kind == "many":
        header |= {f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2} for k in range(3000)}
    else:
        header = draw(changed(header))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
