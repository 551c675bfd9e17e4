#!/usr/bin/env bash
# Put all that a bug report needs into one small tarball: logs, versions, settings, journal; no data and no weights.
#
# Usage: scripts/collect_logs.sh OUT [FILE.tar.gz]
#
#   OUT   folder of a run; FILE is mtid-logs-<date>.tar.gz by default
#
# In it: config, settings of the stages, logs of batch jobs and trials, history and results of trials, the study's
# journal, the manifest and numbers of the report, and system.txt (versions, processors, GPUs, free disk). Names of
# your folders and machines are in these files: look before you send them on (`tar tzf FILE`).
set -euo pipefail
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
case ${1:-} in
  '') bad_usage "expected the folder of a run" "usage: scripts/collect_logs.sh OUT [FILE.tar.gz]" ;;
  -h | --help) help_of "$0"; exit ;;
esac
run=$1
[[ -d $run ]] || die "there is no folder \`$run\`" "give the OUT of a run, such as runs/v4"
[[ -e $run/config.json || -e $run/study || -e $run/data || -e $run/batch ]] ||
  die "\`$run\` is no run: it has neither config.json nor study nor data" "give the OUT of a run, such as runs/v4"
file=$(realpath -m -- "${2:-mtid-logs-$(date -u +%Y%m%dT%H%M%SZ).tar.gz}")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
name=$(basename "$file" .tar.gz)
mkdir "$work/$name"

# show TITLE COMMAND...: what a command says, if it is there.
show() {
  printf '\n## %s\n' "$1"
  shift
  if command -v "$1" >/dev/null; then timeout 20 "$@" 2>&1 || true; else echo "no $1"; fi
}
{
  printf '# %s, %s\n' "$(hostname)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  if [[ -e $root/.git ]]; then show commit git -C "$root" log -1 --format=%H; show changes git -C "$root" status --short; fi
  for program in prepare search train evaluate; do
    for folder in "${MTID_BIN:-}" "$root/bin" "$root/target/release"; do
      if [[ -x $folder/$program ]]; then show "$folder/$program" "$folder/$program" --version; break; fi
    done
  done
  printf '\n## environment\n'
  env | grep -E '^(MTID_|ORT_|SLURM_|_CONDOR|CUDA_|LD_LIBRARY_PATH|VIRTUAL_ENV|CONDA_PREFIX|OMP_)' | sort || true
  show libraries find "$root/.cache/onnxruntime" "$root/lib" -maxdepth 2 -name 'libonnxruntime*' -size +0 -printf '%s %p\n'
  show system uname -a
  show glibc ldd --version
  show processors lscpu
  show memory free -m
  show disk df -h "$run" /tmp
  show mounts findmnt -T "$run"
  show gpu nvidia-smi
  show slurm sinfo --version
  show htcondor condor_version
} >"$work/$name/system.txt"

# Text of the run, by name; whatever is larger than 20 MB stays out and is named.
cd -- "$run"
declare -a wanted=() large=()
while IFS= read -r -d '' found; do
  if (($(stat -c %s -- "$found") > 20000000)); then large+=("$found"); else wanted+=("$found"); fi
done < <(find . -type f \( -path './config.json' -o -path './.done/*' -o -path './batch/*' -o -name '*.log' -o -name '*.log.lock' \
  -o -path './data/manifest.json' -o -path './data.partial/*.json' -o -path '*/study*/study.json' -o -path '*/trials/*/trial.json' \
  -o -path '*/trials/*/result.json' -o -path '*/trials/*/history.csv' -o -path '*/trials/*/lease' \
  -o -path './report/report.json' -o -path './report/report.txt' \) ! -name '*.onnx' ! -name '*.parquet' ! -name '*.npz' ! -name '*.gz' -print0)
if ((${#large[@]})); then printf 'left out, larger than 20 MB: %s\n' "${large[@]}" | tee -a "$work/$name/system.txt" >&2; fi
find . -printf '%y %10s %TY-%Tm-%TdT%TH:%TM %p\n' | sort -k4 >"$work/$name/files.txt"
if ((${#wanted[@]})); then printf '%s\0' "${wanted[@]}" | xargs -0 cp --parents -t "$work/$name" --; fi
tar -czf "$file.tmp" -C "$work" "$name"
mv "$file.tmp" "$file"
say "$(tar tzf "$file" | wc -l) entries, $(du -h "$file" | cut -f1)"
echo "$file"
