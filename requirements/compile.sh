#!/usr/bin/env bash
# Writes the hashed locks beside this file from pyproject.toml: bash requirements/compile.sh [--upgrade]
set -euo pipefail
cd "$(dirname "$0")/.."
# The OpenMMLab packages ask for the OpenCV with a screen; uv.toml says that the headless one serves.
lock() { # FILE, then what goes into it
    local file=requirements/$1; shift
    uv pip compile --config-file requirements/uv.toml --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
        pyproject.toml --no-emit-package=opencv-python --output-file "$file" "$@"
}
alone() { # GROUP, then what constrains it: a lock without the packages of rpg
    local group=$1; shift
    uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
        --group "$group" --output-file "requirements/$group.txt" "$@"
}
for group in build audit installer; do
    alone "$group" "$@"
done
everything=(--extra pipeline --extra vision --extra language --extra onnx)
lock pipeline.txt "${everything[@]}" "$@"
lock core.txt --constraint requirements/pipeline.txt "$@"
lock dev.txt "${everything[@]}" --group dev --constraint requirements/pipeline.txt "$@"
lock cuda.txt "${everything[@]}" --extra cuda --constraint requirements/dev.txt "$@"
alone docs --constraint requirements/pipeline.txt "$@"
