#!/usr/bin/env bash
# One call on a machine with an NVIDIA GPU, from any folder, without a network: builds the library, runs the tests of the GPU and its benchmarks
# beside PyTorch (where that is installed), and prints a short table last. Ends with 1 if anything failed. Nothing is written into the checkout.
#
#     tests/gpu/run.sh [--quick]
#
#     PYTHON=python3    the interpreter that has CuPy, pytest, hypothesis, cffi, setuptools and a C compiler beside it
#     WHEELS=folder     wheels of what it lacks (tensorlib's own too, instead of a build). On a machine with a network:
#                       pip download -d wheels cupy-cuda13x cffi setuptools pytest hypothesis tqdm numpy
# --quick leaves out tests that are marked slow and takes fewer rounds.
# shellcheck disable=SC2329 # functions that `step` calls
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
quick=${1:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$work/site PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
mkdir "$work/site"
cd "$work" # a checkout on the path would hide what is installed
table=() failed=0

say() { printf '\n=== %s\n' "$1"; }

step() { # step NAME COMMAND...: runs it, keeps what it said last for the table
    local name=$1 log=$work/log start=$SECONDS outcome=ok
    shift
    say "$name"
    if ! "$@" 2>&1 | tee "$log"; then
        outcome=FAILED
        failed=1
    fi
    table+=("$(printf '%-12s %-7s %5d s  %s' "$name" "$outcome" $((SECONDS - start)) "$(tail -n 1 "$log" | cut -c 1-100)")")
    [[ $outcome == ok ]]
}

offline() { "$python" -m pip install --quiet --no-index --no-deps --target "$work/site" "$@"; }

missing() { # the distributions whose modules can not be imported
    "$python" - <<'PYTHON'
import importlib.util
wanted = {"numpy": "numpy", "cffi": "cffi", "setuptools": "setuptools", "tqdm": "tqdm", "pytest": "pytest", "hypothesis": "hypothesis", "cupy": "cupy"}
print(*(name for module, name in wanted.items() if importlib.util.find_spec(module) is None))
PYTHON
}

supply() {
    local lacking
    lacking=$(missing)
    if [[ -n $lacking && -n ${WHEELS:-} ]]; then
        say "from $WHEELS: $lacking"
        local wheels=() wheel
        for wheel in "$WHEELS"/*.whl; do # all of them: what is missing may need others that are
            [[ $(basename "$wheel") == tensorlib-* ]] || wheels+=("$wheel")
        done
        offline "${wheels[@]}"
        lacking=$(missing)
    fi
    if [[ $lacking == cupy ]]; then
        echo "CuPy is not installed: the tests run on its stand-in, and nothing is measured."
    elif [[ -n $lacking ]]; then
        echo "$python lacks: $lacking. Nothing is downloaded here: fetch wheels where there is a network (pip download -d wheels $lacking)," >&2
        echo "and run WHEELS=wheels $0" >&2
        exit 1
    fi
}

build() {
    local own=("${WHEELS:-/nowhere}"/tensorlib-*.whl)
    if [[ -e ${own[0]} ]]; then
        offline "${own[0]}"
    else
        "$python" -c "
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location('sources', sys.argv[1] + '/tests/sources.py')
sources = importlib.util.module_from_spec(spec); spec.loader.exec_module(sources)
sources.copy_of_sources(pathlib.Path(sys.argv[2]))" "$root" "$work/source" || return 1
        offline --no-build-isolation "$work/source" || return 1
    fi
    "$python" -c "
import tensorlib as tl
print(tl.__file__, '|', tl.cuda.get_device_name() if tl.cuda.is_available() else 'no GPU: the stand-in')"
}

tests() {
    local marks=gpu
    [[ $quick == --quick ]] && marks="gpu and not slow"
    "$python" -m pytest -q -m "$marks" -p no:cacheprovider --rootdir "$root" -c "$root/pyproject.toml" --tb=short "$root/tests/gpu"
}

benchmarks() {
    local options=(--json "$work/gpu.json")
    [[ $quick == --quick ]] && options+=(--quick)
    "$python" -c "import torch" 2>/dev/null && options+=(--against torch)
    "$python" -c "
import runpy, sys
sys.path.append(sys.argv.pop(1))  # for tests.benchmarks, behind what is installed
runpy.run_module('tests.benchmarks', run_name='__main__', alter_sys=True)" "$root" gpu "${options[@]}"
}

supply
if step build build; then
    step tests tests || true
    if [[ ! -f $root/tests/benchmarks/gpu.py ]] || ! "$python" -c "import sys, tensorlib as tl; sys.exit(not tl.cuda.is_available())"; then
        table+=("benchmarks   not run: there is no GPU")
    else
        step benchmarks benchmarks || true
    fi
fi
say "summary"
printf '%s\n' "${table[@]}"
exit "$failed"
