#!/usr/bin/env bash
# Compares tiny runs of methods with a baseline, after `tractbench check` of those that are named: what CI runs for
# tractbench's own methods and the GitHub Action (action.yml) for anybody's.
#
#   regress.sh [METHOD...]
#
# TRACTBENCH  the command (tractbench)
# PLUGIN      a file with the methods, where they are not installed
# BASELINE    a file of figures instead of those that ship
# REPORT      folder for the report: regress.json, regress.txt, check-METHOD.txt (regress-report)
#
# Exit status: the worst of the commands': 0 all equal, 1 something failed or differs, 2 something cannot be meant.
set -uo pipefail

tractbench=${TRACTBENCH:-tractbench}
report=${REPORT:-regress-report}
plugin=(${PLUGIN:+--plugin "$PLUGIN"})
mkdir -p "$report" || exit 2
status=0

worst() {
  if (($1 > status)); then status=$1; fi
}

methods=()
for method in "$@"; do
  "$tractbench" check "$method" ${plugin[@]+"${plugin[@]}"} | tee "$report/check-$method.txt"
  worst "${PIPESTATUS[0]}"
  methods+=(--method "$method")
done
"$tractbench" regress --save "$report/regress.json" ${plugin[@]+"${plugin[@]}"} ${BASELINE:+--baseline "$BASELINE"} \
  ${methods[@]+"${methods[@]}"} | tee "$report/regress.txt"
worst "${PIPESTATUS[0]}"
exit "$status"
