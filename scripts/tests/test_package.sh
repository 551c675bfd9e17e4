# shellcheck shell=bash disable=SC2016 # backquotes in expected messages
# The tarball, unpacked where nothing else is, and the tarball for bug reports.
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
programs evaluate

package=$sandbox/package.tar.gz

# alone COMMAND: with an empty environment and, where this is root, without a network.
alone=(env -i)
if unshare -n true 2>/dev/null; then alone+=(unshare -n); else echo "SKIPPED: the tarball without network; it needs root"; fi

programs_ask_for_no_newer_glibc_than_almalinux_9_has() {
  "$scripts/package.sh" "$package"
  tar -xzf "$package"
  local program newest
  for program in mt-identifier-*/bin/* mt-identifier-*/lib/*; do
    newest=$(objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | sort -V | tail -1)
    echo "$program $newest"
    same "$(printf '%s\nGLIBC_2.34\n' "$newest" | sort -V | tail -1)" GLIBC_2.34
    # Nothing but the C and C++ libraries that every system has.
    same "$(objdump -p "$program" | awk '$1 == "NEEDED" { print $2 }' | grep -vE '^(libc|libm|libdl|libpthread|librt|libgcc_s|libstdc\+\+|ld-linux-.*)\.so\.[0-9]+$' || true)" ""
  done
}

the_unpacked_tarball_runs_the_demo_alone() {
  tar -xzf "$package"
  mv mt-identifier-* "elsewhere"
  "${alone[@]}" bash -c 'cd elsewhere && exec scripts/demo.sh --small OUT="$0/demo" TRIALS=1 EPOCHS=1' "$PWD"
  test -s demo/run/report/report.html
  test -s demo/run/study/best.onnx
  # A program by itself, from another folder.
  (cd / && env -i "$sandbox/${FUNCNAME[0]}/elsewhere/bin/evaluate" predict --model "$OLDPWD/demo/run/study/best.onnx" \
    --input "$(find "$OLDPWD/demo" -name '*planeX.npz' | head -1)" --output "$OLDPWD/scores.csv" --device cpu)
  test -s scores.csv
}

a_newer_glibc_is_refused_by_name() {
  mkdir fake
  printf '#!/bin/sh\necho "0 DF *UND* 0 (GLIBC_2.39) new_thing"\n' >fake/objdump
  chmod +x fake/objdump
  PATH=$PWD/fake:$PATH fails 1 "$scripts/package.sh" out.tar.gz
  says '`bin/prepare` asks for glibc 2.39'
  says "scripts/container/README.md"
  test ! -e out.tar.gz
}

logs_are_collected_without_data_or_weights() {
  cp -r "$sandbox/the_unpacked_tarball_runs_the_demo_alone/demo/run" run
  mkdir -p run/batch/logs
  echo "said by a job" >run/batch/logs/train-1_0.log
  "$scripts/collect_logs.sh" run logs.tar.gz >printed
  same "$(cat printed)" "$PWD/logs.tar.gz"
  tar -tzf logs.tar.gz >list
  cat list
  local wanted
  for wanted in config.json study/journal.log study/study.json study/trials/0000/train.log study/trials/0000/history.csv \
    study/trials/0000/result.json batch/logs/train-1_0.log data/manifest.json report/report.txt .done/train system.txt files.txt; do
    grep -qx "logs/$wanted" list || { echo "missing: $wanted"; return 1; }
  done
  if grep -E '\.(parquet|onnx|npz|safetensors|png)$' list; then return 1; fi
  tar -xzOf logs.tar.gz logs/system.txt | grep -q '^## processors'
  tar -xzOf logs.tar.gz logs/system.txt | grep -qE '^train [0-9]'
  fails 1 "$scripts/collect_logs.sh" nowhere
  says 'there is no folder `nowhere`'
  mkdir empty
  fails 1 "$scripts/collect_logs.sh" empty
  says '`empty` is no run'
}

log_lines_can_be_json() {
  "$bin/evaluate" --model "$sandbox/the_unpacked_tarball_runs_the_demo_alone/demo/run/study/best.onnx" --output report --device cpu \
    --data "$sandbox/the_unpacked_tarball_runs_the_demo_alone/demo/run/data/test" --log-format json 2>lines >/dev/null
  cat lines
  python3 - <<'PY'
import json
lines = [json.loads(line) for line in open("lines", encoding="utf-8")]
assert lines and all({"timestamp", "level", "fields"} <= line.keys() for line in lines), lines
PY
}

it "programs ask for no newer glibc than AlmaLinux 9 has" programs_ask_for_no_newer_glibc_than_almalinux_9_has
it "the unpacked tarball runs the demo, alone" the_unpacked_tarball_runs_the_demo_alone
it "a newer glibc is refused by name" a_newer_glibc_is_refused_by_name
it "logs are collected without data or weights" logs_are_collected_without_data_or_weights
it "log lines can be JSON" log_lines_can_be_json
