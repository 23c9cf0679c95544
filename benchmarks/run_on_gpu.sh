#!/usr/bin/env bash
# On a machine with a GPU: test the kernels there, then make every record that still lacks a GPU
# run, most telling first, each written at once into results/ (and copied to FOLDER, if given).
#   benchmarks/run_on_gpu.sh [FOLDER]
# A call takes ten minutes at most: each part may take the seconds that stand before it, and the next
# call goes on where this one was cut short. SLICE multiplies them all (SLICE=6: an hour). After the
# kernels and one IMDB run come the other studies, in what is left of the time.
# Set TOPK_IMDB to a folder with the IMDB set where the hub cannot be reached.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python=$(command -v python3 || command -v python)
slice=${SLICE:-1}
case $slice in *[!0-9]* | "" | 0) echo "SLICE must be a whole number from 1 on, got \"$slice\"" >&2; exit 2 ;; esac
save() { if [ -n "${1:-}" ]; then mkdir -p "$1" && tar czf "$1/results.tar.gz" results; fi; }
part() {  # part SECONDS WORDS...: run them, for so long at most and never beyond the whole
  local left=$((600 * slice - SECONDS)) most=$(($1 * slice))
  shift
  if [ "$left" -lt 5 ]; then echo "no time left for: $*" >&2; return; fi
  timeout --kill-after=10 "$((most < left ? most : left))" "$@" || echo "failed or cut short, going on: $*" >&2
}
"$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "no GPU is visible to PyTorch here" >&2; exit 2; }
if [ -n "${1:-}" ]; then (while sleep 20; do save "$1"; done) & trap 'kill %1; save "$1"' EXIT; fi
part 120 "$python" -m pytest -q -x -m gpu tests/ops
part 90 "$python" benchmarks/ops.py hard
part 60 "$python" benchmarks/ops.py soft
part 45 "$python" benchmarks/ops.py sample
part 150 "$python" -m topk_lib.cli study imdb
part 30 "$python" benchmarks/routing.py
for study in rules causal higher experts attention decoding; do
  part 60 "$python" -m topk_lib.cli study "$study"
done
