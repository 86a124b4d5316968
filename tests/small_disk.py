"""Every stage of the miniature with task codes on a full disk and on a read-only one.

tests/integration/test_faults.py runs it:

    unshare --user --map-root-user --mount python tests/small_disk.py FINISHED

FINISHED is a folder in which it has run. Prints JSON: what each layer said and left, and what its next run left.
"""

import contextlib
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from conftest import run_layers
from faults import VERBS, contents, remove

# Bytes that are left on the disk: none, and so many that most layers get half-way.
LEFT = (0, 24 * 1024)


def run(folder: Path, verb: str) -> tuple[int, list[str]]:
    """Exit code of a layer, and its last lines on standard error."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            run_layers(folder, verb, experiment="tasks")
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    # In a log progress is a line each.
    return code, [line for line in errors.getvalue().splitlines() if " of " not in line]


def digests(results: Path) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(results).items()}


def fill(results: Path, left: int) -> Path:
    """A file that takes all of the disk but `left` bytes."""
    filler = results / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with filler.open("rb+") as file:
        file.truncate(max(filler.stat().st_size - left, 0))
    return filler


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def main(finished: Path) -> None:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        results = folder / "results"
        results.mkdir()
        shutil.copy(finished / "params.yaml", folder)
        mount("-t", "tmpfs", "-o", "size=24m", "none", str(results))
        for verb in VERBS:
            for fault in (*LEFT, "read-only"):
                shutil.copytree(finished / "results", results, dirs_exist_ok=True)
                remove(results, verb)
                was = digests(results)
                if fault == "read-only":
                    mount("-o", "remount,ro", str(results))
                else:
                    filler = fill(results, int(fault))
                code, lines = run(folder, verb)
                if fault == "read-only":
                    mount("-o", "remount,rw", str(results))
                else:
                    filler.unlink()
                hidden = [path.name for path in results.rglob(".*")]
                after = digests(results)
                again, _ = run(folder, verb)
                found[f"{verb}, {fault}"] = {
                    "code": code, "lines": lines, "before": was, "after": after, "hidden": hidden,
                    "again": again, "at_last": digests(results),
                }  # fmt: skip
        subprocess.run(["umount", str(results)], check=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
