#!/usr/bin/env bash
# Runs a pack on this machine: its devices, every golden case, the tests, what the adapter can do, the benchmark, and PyTorch with cuDNN on the
# same shapes where a Python with torch and CUDA is found. Writes one JSON file, and says where.
#
#   ./run-gpu.sh [FOLDER]        FOLDER: results where absent
#
# SUITE (deepbench), DTYPES (f32 f16), BUDGET_MS (200), MOST_S (20) and STEP_S (900, seconds that any one step may take) change what is run; SKIP
# names steps to leave out (verify tests peaks bench cudnn).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
[[ -x bin/gatewise ]] || { echo "run-gpu.sh: run it where benches/pack.sh's file was unpacked" >&2; exit 2; }
results=$(realpath -m "${1:-results}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$results"

# The tests find their files and the program here rather than where they were built.
export CARGO_MANIFEST_DIR=$root GATEWISE_PROGRAM=$root/bin/gatewise
. ./source
export GATEWISE_COMMIT=$commit
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$work} XDG_CACHE_HOME=${XDG_CACHE_HOME:-$work/cache}
if ! ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'; then
    export LD_LIBRARY_PATH=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi

step_s=${STEP_S:-900}
wanted() { [[ " ${SKIP:-} " != *" $1 "* ]]; }
# Lines of JSON as one array; nothing as an empty one.
array() { [[ -s $1 ]] && { printf '['; paste -sd, "$1"; printf ']'; } || printf '[]'; }
gatewise() { timeout "$step_s" bin/gatewise "$@"; }

bin/gatewise devices
bin/gatewise devices --json >"$work/devices" || exit 1
adapter=$(sed -n 's/.*"auto":"gpu (\([^"]*\), [a-z0-9]*)".*/\1/p' "$work/devices")
# Without hardware it is the software adapter that `--device gpu` takes.
[[ -n $adapter ]] || adapter=$(grep -o '"name":"[^"]*"' "$work/devices" | head -1 | cut -d'"' -f4)
[[ -n $adapter ]] || { echo "run-gpu.sh: no GPU adapter" >&2; exit 1; }
echo "== $adapter, commit $commit"

date=$(date -u +%Y-%m-%d)
name=$(tr -cs '[:alnum:]' - <<<"${adapter,,}" | sed 's/^-//; s/-*$//')
file=$results/$name-$date.json
# After every step, so that a run that is cut short leaves what it has.
keep() {
    {
        printf '{"adapter":"%s","date":"%s","commit":"%s","profile":"%s",\n"devices":' "$adapter" "$date" "$commit" "$profile"
        cat "$work/devices"
        for part in verify tests peaks bench cudnn; do
            printf ',"%s":' $part
            touch "$work/$part"
            array "$work/$part"
        done
        printf '}\n'
    } >"$file"
}
keep

if wanted verify; then
    for dtype in ${DTYPES:-f32 f16}; do
        gatewise verify tests/golden --device gpu --dtype "$dtype" --allow-unsupported --json >>"$work/verify.all" || echo "verify $dtype: status $?"
    done
    grep '"summary"\|"pass":false' "$work/verify.all" >"$work/verify" || true
    cat "$work/verify"
fi

keep
if wanted tests; then
    for test in golden parity properties counts submission; do
        if timeout "$step_s" "bin/$test" >"$work/log" 2>&1; then passed=true; else passed=false; fi
        summary=$(grep '^test result' "$work/log" | tail -1)
        failed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/"\1"/p' "$work/log" | paste -sd,)
        printf '{"test":"%s","passed":%s,"failed":[%s],"summary":"%s"}\n' "$test" $passed "$failed" "$summary" | tee -a "$work/tests"
        $passed || cp "$work/log" "$results/failed-$test.log"
    done
fi

keep
if wanted peaks; then
    gatewise bench --peaks --device cpu,gpu --json | tee "$work/peaks"
fi

keep
if wanted bench; then
    for dtype in ${DTYPES:-f32 f16}; do
        gatewise bench --suite "${SUITE:-deepbench}" --device gpu --dtype "$dtype" --budget-ms "${BUDGET_MS:-200}" --most-s "${MOST_S:-20}" --json |
            tee -a "$work/bench"
    done
fi

keep
if wanted cudnn; then
    for python in python3 python; do
        if $python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
            timeout "$step_s" $python cudnn.py --budget-ms "${BUDGET_MS:-200}" "$work/bench" | tee "$work/cudnn"
            break
        fi
    done
fi
keep
echo "== $file"
