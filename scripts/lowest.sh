#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml allows of what it names, into a new environment, and runs tests there.
#
#   scripts/lowest.sh [PYTEST ARGUMENTS...]
#
# TORCH   a requirement for torch and torchvision instead of the lowest: "torch torchvision" takes the newest that the
#         index has, for machines that are offered one version only (and the setuptools that it asks for)
# PYTHON  the interpreter (python3.11)
#
# Needs uv. What the lowest versions themselves require is resolved to the newest: only the bounds in pyproject.toml are
# tested.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3.11}

uv pip compile --quiet --python "$python" --resolution lowest-direct --extra test --no-header --no-annotate \
  --output-file "$work/lowest.txt" pyproject.toml
if [[ -n ${TORCH:-} ]]; then
  sed -i -E '/^(torch|torchvision|triton|setuptools|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/d' "$work/lowest.txt"
  tr ' ' '\n' <<<"$TORCH" >>"$work/lowest.txt"
fi
cat "$work/lowest.txt"
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet -r "$work/lowest.txt"
"$work/venv/bin/pip" install --quiet --no-deps .
if (($# == 0)); then # every verb, file format and figure, without what takes minutes or other programs
  set -- tests/test_cli.py tests/test_config.py tests/test_config_refusals.py tests/test_run.py tests/test_report.py \
    tests/test_tables.py tests/test_statistics.py tests/test_fidelity.py tests/test_tracking.py tests/test_suite.py \
    tests/test_store.py tests/test_optimiser.py
fi
"$work/venv/bin/python" -m pytest -o filterwarnings=default "$@" # old versions warn of each other
