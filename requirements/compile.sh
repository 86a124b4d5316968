#!/usr/bin/env bash
# Writes the hashed locks beside this file from pyproject.toml: bash requirements/compile.sh [--upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."
lock() { # FILE, then what goes into it
    local file=requirements/$1; shift
    uv pip compile --config-file requirements/uv.toml --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
        pyproject.toml --output-file "$file" "$@"
}
# mmcv, mmdet and mmseg are built against the installed torch: they come last, from a lock of their own.
built=(onedl-mmcv onedl-mmdetection onedl-mmsegmentation)
lock core.txt "$@"
lock dev.txt --group dev --constraint requirements/core.txt "$@"
lock vision.txt --extra vision --constraint requirements/dev.txt "${built[@]/#/--no-emit-package=}" \
    --no-emit-package=opencv-python "$@"
lock language.txt --extra language --constraint requirements/dev.txt "$@"
lock cuda.txt --extra cuda --constraint requirements/dev.txt "$@"
grep -E "$(IFS='|'; echo "${built[*]}")" pyproject.toml | tr -d ' ",' |
    uv pip compile --config-file requirements/uv.toml --quiet --universal --no-deps --generate-hashes --no-header --no-annotate --python-version 3.11 \
        - --output-file requirements/vision-built.txt
