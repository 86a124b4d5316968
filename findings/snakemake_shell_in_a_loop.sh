#!/usr/bin/env bash
# Snakemake 9.27.1: rules made in a `for` loop all run the command of the loop's last turn, if `shell:` is an expression
# that names the loop's variable. Name, input and output of each rule are those of its own turn.
#
# The Snakefile below makes the rules `a` and `b`. Each shall write its own name into its own file. Snakemake reads
# `output:` at once, and `shell:` when a job starts, after the loop has ended. So a.txt says b. The run ends without an
# error or a warning.
#
# Seen: a.txt says b, b.txt says b. The script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet snakemake==9.27.1
cat >Snakefile <<'SNAKEFILE'
rule all:
    input: "a.txt", "b.txt"

for letter in ["a", "b"]:
    rule:
        name: letter
        output: f"{letter}.txt"
        shell: f"echo {letter} > {{output}}"
SNAKEFILE
venv/bin/snakemake --cores 1 >log 2>&1
if grep -i warn log; then exit 1; fi
found="a.txt says $(cat a.txt), b.txt says $(cat b.txt)"
echo "snakemake 9.27.1: $found"
[ "$found" = "a.txt says b, b.txt says b" ]
