#!/usr/bin/env bash
# The long tier, an hour and more: `make test-long`. Run it after a change to what it covers (docs/testing.md).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
# shellcheck source=tests/steps.sh
source tests/steps.sh

# The paper's networks need most of 24 GB of memory: each has a process of its own, and nothing runs beside it.
step "networks of the paper's size, ADE20K" pytest -m long tests/unit/tasks/test_paper_networks.py -k ade20k
step "networks of the paper's size, COCO" pytest -m long tests/unit/tasks/test_paper_networks.py -k coco
# On a SLURM of its own, from Debian's packages; where they can't be installed the test is skipped and says so.
step "SLURM" pytest -m long tests/slow/test_slurm.py
step "fuzz, ten times the cases" pytest -n 2 tests/unit/test_fuzz.py --hypothesis-profile more --hypothesis-seed 1
# The whole main job first: on one of two workers it takes as long as all other files on the other.
mapfile -t others < <(git ls-files 'tests/**test_*.py' | grep -v -e test_readme -e test_paper_networks -e test_slurm | sort -r)
step "main job, README, faults and the rest" \
    pytest -n 2 --dist loadfile --no-loadscope-reorder -m long --durations 25 tests/slow/test_readme.py "${others[@]}"
closing ""
