#!/usr/bin/env bash
# mypy over the checkout's folders, laid out as the package that they are installed as: an editable installation shows
# mypy nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tractbench"
ln -s "$root"/bench/* "$root/methods" "$root/reports" "$root/tables" "$work/tractbench/"
MYPYPATH=$work mypy --config-file pyproject.toml -p tractbench "$@"
