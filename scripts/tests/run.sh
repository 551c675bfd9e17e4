#!/usr/bin/env bash
# Test the scripts themselves. Usage: scripts/tests/run.sh [NAME]...   (default: every test_*.sh beside this file)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
MTID_TEST_TALLY=$(mktemp)
export MTID_TEST_TALLY
trap 'rm -f "$MTID_TEST_TALLY"' EXIT
if (($# == 0)); then set -- test_*.sh; fi
broken=0
for name; do
  name=test_${name#test_}
  echo "--- $name"
  bash "${name%.sh}.sh" || broken=$((broken + 1))
done
passed=$(grep -c '^0$' "$MTID_TEST_TALLY" || true)
failed=$(($(grep -vc '^0$' "$MTID_TEST_TALLY" || true) + broken))
echo "scripts: $passed passed, $failed failed"
((failed == 0 && passed > 0))
