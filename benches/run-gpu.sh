#!/usr/bin/env bash
# Runs a pack on this machine: its devices, every golden case with every plan and type of weights, the tests, the adapter's peaks, and the
# benchmark. If a Python with torch and CUDA is found, it also times PyTorch with cuDNN on the same shapes. Writes one JSON file and prints its name.
#
#   ./run-gpu.sh [FOLDER]        FOLDER: results if absent
#
# Variables and their defaults: SUITE (deepbench), DTYPES (f32 f16), BUDGET_MS (200) and MOST_S (20) are options of the benchmark. STEP_S (900) is
# the most seconds that any step may take, VERIFY_S (180) those of one pass over the golden cases. SKIP names steps to leave out (verify tests
# plans peaks bench cudnn).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
root=$PWD
[[ -x bin/gatewise ]] || { echo "run-gpu.sh: run it where benches/pack.sh's file was unpacked" >&2; exit 2; }
results=$(realpath -m "${1:-results}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$results"

# The tests find their files and the program here, not in the folder where they were built.
export GATEWISE_ROOT=$root GATEWISE_PROGRAM=$root/bin/gatewise
. ./source
export GATEWISE_COMMIT=$commit
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$work} XDG_CACHE_HOME=${XDG_CACHE_HOME:-$work/cache}
if ! ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'; then
    export LD_LIBRARY_PATH=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi

step_s=${STEP_S:-900}
verify_s=${VERIFY_S:-180}
((verify_s < step_s)) || verify_s=$step_s
wanted() { [[ " ${SKIP:-} " != *" $1 "* ]]; }
# Turns lines of JSON into one array; no lines become an empty one.
array() { [[ -s $1 ]] && { printf '['; paste -sd, "$1"; printf ']'; } || printf '[]'; }
# A hung driver does not hear the first signal.
limited() { timeout -k 10 "$@"; }
gatewise() { limited "$step_s" bin/gatewise "$@"; }

gatewise devices
gatewise devices --json >"$work/devices" || exit 1
adapter=$(sed -n 's/.*"auto":"gpu (\([^"]*\), [a-z0-9]*)".*/\1/p' "$work/devices")
# Without hardware, take the software adapter that `--device gpu` takes.
[[ -n $adapter ]] || adapter=$(grep -o '"name":"[^"]*"' "$work/devices" | head -1 | cut -d'"' -f4)
[[ -n $adapter ]] || { echo "run-gpu.sh: no GPU adapter" >&2; exit 1; }
echo "== $adapter, commit $commit"

date=$(date -u +%Y-%m-%d)
name=$(tr -cs '[:alnum:]' - <<<"${adapter,,}" | sed 's/^-//; s/-*$//')
file=$results/$name-$date.json
# Called after every step, so that an interrupted run leaves its results so far.
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

# Runs every golden case with these options. Prints one line with the result, and one per failed case.
verify() {
    limited "$verify_s" bin/gatewise verify tests/golden --device gpu --allow-unsupported --json "$@" >"$work/cases" 2>"$work/log"
    local status=$? summary
    summary=$(sed -n 's/^{"summary":\(.*\)}$/\1/p' "$work/cases")
    printf '{"options":"%s","status":%d,"cases":%d,"summary":%s,"failed":' "$*" $status "$(grep -c '"case":' "$work/cases")" "${summary:-null}" >>"$work/verify"
    grep '"pass":false' "$work/cases" | grep '"unsupported":null' >"$work/failed"
    array "$work/failed" | tr -d '\n' >>"$work/verify"
    echo '}' >>"$work/verify"
    case $status in
    0 | 1) echo "verify $*: $summary" ;;
    124 | 137) echo "verify $*: stopped after $verify_s s and $(grep -c '"case":' "$work/cases") cases" ;;
    *) echo "verify $*: status $status: $(tail -1 "$work/log")" ;;
    esac
    head -5 "$work/failed"
    keep
}

if wanted verify; then
    for dtype in f32 f16; do
        verify --dtype $dtype
    done
    limited "$verify_s" bin/gatewise verify tests/golden --device gpu --dtype f16 --matrices --case rnn_tanh_T1_B1 >/dev/null 2>"$work/log"
    # Exit code 2 means that the adapter has no matrices that a kernel exists for.
    if (($? == 2)); then
        echo "verify --dtype f16 --matrices: skipped: $(tail -1 "$work/log")"
    else
        verify --dtype f16 --matrices
        verify --dtype f16 --matrices --plan step
    fi
fi

if wanted tests; then
    for test in golden parity schedules cooperative_scan properties training counts calls; do
        # Planted faults prove the tests, not the device; the table of options belongs to the repository.
        limited "$step_s" "bin/$test" --skip mutants:: --skip support_table:: >"$work/log" 2>&1
        status=$?
        if ((status == 0)); then passed=true; else passed=false; fi
        summary=$(grep '^test result' "$work/log" | tail -1)
        ((status != 124 && status != 137)) || summary="stopped after $step_s s and $(grep -c '^test .* ok$' "$work/log") tests"
        failed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/"\1"/p' "$work/log" | paste -sd,)
        printf '{"test":"%s","passed":%s,"failed":[%s],"summary":"%s"}\n' "$test" $passed "$failed" "$summary" | tee -a "$work/tests"
        $passed || cp "$work/log" "$results/failed-$test.log"
        keep
    done
fi

if wanted plans; then
    # Plans whose invocations exchange the most come first.
    for dtype in f32 f16 int8 bf16; do
        for plan in cooperative scan wave step; do
            verify --dtype $dtype --plan $plan
        done
    done
    for dtype in int8 bf16; do
        verify --dtype $dtype
    done
fi

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
            limited "$step_s" $python cudnn.py --budget-ms "${BUDGET_MS:-200}" "$work/bench" | tee "$work/cudnn"
            break
        fi
    done
fi
keep
echo "== $file"
