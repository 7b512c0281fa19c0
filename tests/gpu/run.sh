#!/usr/bin/env bash
# What needs a GPU, on a machine that has one: `make gpu` makes the environment and calls this. About ten minutes.
# NOT YET RUN ON A GPU: mend what breaks. Every part leaves a file in $OUT, whatever became of the others; those that
# failed are named at the end.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
OUT="${OUT:-build/gpu}"
mkdir -p "$OUT"
failed=()

# part LIMIT NAME COMMAND...: at most LIMIT seconds
part() {
    local limit="$1" name="$2"
    shift 2
    echo "== $name"
    timeout "$limit" "$@" > "$OUT/$name.txt" 2>&1 || failed+=("$name")
    tail -n 25 "$OUT/$name.txt"
}

# The machine, and what is installed.
part 60 device nvidia-smi
part 60 versions python -c 'import cupy, numba, numpy, mpi4py
for module in (cupy, numba, numpy, mpi4py): print(module.__name__, module.__version__)'

# Every test with the mark: the kernels against their twins on the CPU, then the conformance table.
part 300 unit pytest -q -m gpu tests/unit
part 300 conformance mpiexec -n 2 pytest -q -m gpu tests/mpi

# Kernels against a copy by events, and the bus.
part 120 kernels outpace micro sign --backend cupy --json "$OUT/kernels.json"
part 60 bus python tests/gpu/bus.py

# Accesses past an array's end, and shared memory without a barrier. Comes with the CUDA toolkit.
for tool in memcheck racecheck; do
    part 120 "$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 python -m pytest -q -m gpu tests/unit -k 33
done

# AD-PSGD with its stream of its own: how long exchanges took beside gradients of 100 ms.
part 120 ad_psgd outpace run ad_psgd -n 2 --backend cupy --problem quadratic:dim=25600000 --compute-time 0.1 \
    --time-budget 10 --out "$OUT/ad_psgd.h5"
part 60 exchanges python tests/gpu/timings.py "$OUT/ad_psgd.h5"

# By NCCL, which must be installed beside CuPy, where there are two GPUs; refused to two ranks that see one.
if [ "$(nvidia-smi -L | wc -l)" -ge 2 ]; then
    part 120 nccl-average outpace run allreduce_sgd -n 2 --backend cupy --fabric nccl --epochs 1 --out "$OUT/average.h5"
    part 120 nccl-ad_psgd outpace run ad_psgd -n 2 --backend cupy --fabric nccl --problem quadratic:dim=25600000 \
        --compute-time 0.1 --time-budget 10 --out "$OUT/nccl-ad_psgd.h5"
    part 60 nccl-exchanges python tests/gpu/timings.py "$OUT/nccl-ad_psgd.h5"
fi
# shellcheck disable=SC2016 # the inner shell's
refused='said="$("$@" 2>&1)"; [ $? -eq 2 ] && grep "share a GPU" <<< "$said"'
CUDA_VISIBLE_DEVICES=0 part 60 nccl-refused bash -c "$refused" bash \
    outpace run allreduce_sgd -n 2 --backend cupy --fabric nccl --epochs 1 --out "$OUT/refused.h5"

# The first step with nothing compiled, and with all of it: the same, as kernels are compiled before the clock starts.
CUPY_CACHE_DIR="$(mktemp -d)"
export CUPY_CACHE_DIR
part 120 cold outpace run allreduce_sgd -n 1 --backend cupy --epochs 1 --out "$OUT/cold.h5"
part 120 warm outpace run allreduce_sgd -n 1 --backend cupy --epochs 1 --out "$OUT/warm.h5"
part 60 first-steps python tests/gpu/timings.py "$OUT/cold.h5" "$OUT/warm.h5"
rm -r "$CUPY_CACHE_DIR"

if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
echo "all of it in $OUT"
