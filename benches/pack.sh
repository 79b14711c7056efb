#!/usr/bin/env bash
# Packs the program and the tests that run kernels into one file, for another x86-64 Linux machine that has a GPU with a Vulkan driver and no
# toolchain. There: unpack it and run `./run-gpu.sh`.
#
#   benches/pack.sh [FILE]       FILE: target/gatewise-gpu.tar.gz if absent
#
# PROFILE=dev packs an unoptimized build: it shows that the pack works, and measures nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-target/gatewise-gpu.tar.gz}")
profile=${PROFILE:-release}
tests=(golden parity schedules cooperative_scan properties training counts calls)
most=$((64 * 1000 * 1000))

case $profile in
dev) build=() folder=debug ;;
*) build=(--profile "$profile") folder=$profile ;;
esac
cargo build --quiet "${build[@]}" --bin gatewise
built=$(cargo test "${build[@]}" "${tests[@]/#/--test=}" --no-run 2>&1) || { echo "$built" >&2; exit 1; }
target=$(cargo metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

pack=$(mktemp -d)
trap 'rm -rf "$pack"' EXIT
mkdir -p "$pack"/{bin,lib,tests,models,cli/assets}
strip -o "$pack/bin/gatewise" "$target/$folder/gatewise"
for test in "${tests[@]}"; do
    binary=$(sed -nE "s#.*Executable tests/$test(\.rs|/main\.rs) \((.*)\)#\2#p" <<<"$built")
    strip -o "$pack/bin/$test" "$binary"
done
# The tests read these files below GATEWISE_ROOT; golden cases use models and recordings.
cp -r tests/golden "$pack/tests/"
cp -r shaders "$pack/"
cp models/*.safetensors "$pack/models/"
cp cli/assets/*.wav "$pack/cli/assets/"
cp benches/run-gpu.sh benches/cudnn.py "$pack/"
# The other machine has a driver; only Vulkan's loader may be missing there.
loader=$(ldconfig -p | sed -n 's/.*libvulkan\.so\.1 (.*x86-64.*) => //p' | head -1)
if [[ -n $loader ]]; then
    cp -L "$loader" "$pack/lib/libvulkan.so.1"
fi
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[[ -z $(git status --porcelain --untracked-files=no 2>/dev/null) ]] || commit+=-dirty
{ echo "commit=$commit"; echo "profile=$profile"; } >"$pack/source"

mkdir -p "$(dirname "$out")"
tar -C "$pack" -czf "$out" --owner=0 --group=0 .
size=$(stat -c %s "$out")
echo "$out: $((size / 1000000)) MB, commit $commit, profile $profile"
if ((size > most)); then
    echo "pack.sh: more than $((most / 1000000)) MB" >&2
    exit 1
fi
