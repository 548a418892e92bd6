#!/usr/bin/env bash
# Writes constraints.txt: the versions of all that CI installs, as they were resolved today. Needs uv.
#
# torch and torchvision are left out, with what only they require: they come as builds for a processor or a CUDA version,
# from indexes of their own or from a local disk, and which one is installed is a choice of the machine.
set -euo pipefail
cd "$(dirname "$0")/.."
uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
  --upgrade --extra test --extra docs --no-emit-package torch --no-emit-package torchvision --output-file constraints.txt \
  pyproject.toml
sed -i -E '/^(nvidia-|cuda-|triton|torch)/d' constraints.txt
sed -i '1i # Made by scripts/constraints.sh; for pip install -c constraints.txt. torch and torchvision are the machine'"'"'s choice.' \
  constraints.txt
