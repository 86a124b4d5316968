# shellcheck shell=bash
# Steps with their seconds, for .ci/run and tests/long.sh: `source` it, call `step NAME COMMAND...`, then `closing`.
# Colors would hide the summaries of pytest from `step`. Typer takes any value of PY_COLORS for a wish for colors.
export NO_COLOR=1
taken=()
summaries=()
output=$(mktemp)

# Run a command, show its output, and note its seconds; of pytest also the last line of each of its runs.
step() {
    local name=$1 begin=$SECONDS status=0
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    "$@" 2>&1 | tee "$output" || status=$?
    taken+=("$(printf '%6d s  %s' $((SECONDS - begin)) "$name")")
    while IFS= read -r line; do
        summaries+=("$line")
    done < <(grep -E '^=+ .* in [0-9.]+s.* =+$' "$output" || true)
    if [ $status != 0 ]; then
        printf '\n== failed: %s\n' "$name"
        closing "the steps after it${not_run:+, and $not_run}"
        exit $status
    fi
}

# What took how long, what did not run, and the summaries of pytest.
closing() {
    printf '\n== seconds of each step on %s\n' "$(grep -m 1 'model name' /proc/cpuinfo | sed 's/.*: //'), $(nproc) cores, \
AVX-512 $(grep -q avx512f /proc/cpuinfo && echo yes || echo no), bfloat16 $(grep -qE 'avx512_bf16|amx_bf16' /proc/cpuinfo && echo yes || echo no)"
    printf '%s\n' "${taken[@]}"
    printf '%6d s  all\n' $SECONDS
    if [ -n "$1" ]; then
        printf '\n== not run: %s\n' "$1"
    fi
    printf '\n'
    printf '%s\n' "${summaries[@]}"
    rm -f "$output"
}
