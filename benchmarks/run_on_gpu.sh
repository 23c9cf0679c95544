#!/usr/bin/env bash
# On a machine with a GPU: test the kernels there, then make every record that still lacks a GPU
# run, most valuable first, each written at once into results/ (and copied to FOLDER, if given).
#   benchmarks/run_on_gpu.sh [FOLDER]
# Set TOPK_IMDB to a folder with the IMDB set where the hub cannot be reached, and SLICE to the seconds
# a study may take of this call (0: no limit); the next call goes on.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
save() { if [ -n "${1:-}" ]; then mkdir -p "$1" && tar czf "$1/results.tar.gz" results; fi; }
python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo "no GPU is visible to PyTorch here" >&2; exit 2; }
if [ -n "${1:-}" ]; then (while sleep 20; do save "$1"; done) & trap 'kill %1; save "$1"' EXIT; fi
python3 -m pytest -q -m gpu tests || [ $? -eq 5 ] || echo "GPU tests failed: the records follow all the same" >&2
for operator in hard soft sample; do
  python3 benchmarks/ops.py "$operator" || echo "failed, going on: $operator" >&2
done
python3 benchmarks/routing.py || echo "failed, going on: routing" >&2
for study in rules imdb causal higher experts attention decoding; do
  timeout "${SLICE:-0}" python3 -m topk_lib.cli study "$study" || echo "failed or cut short, going on: $study" >&2
done
