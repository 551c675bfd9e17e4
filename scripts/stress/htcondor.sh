#!/usr/bin/env bash
# The chain on a real HTCondor, with and without a shared file system. Usage: scripts/stress/htcondor.sh FOLDER
#
# Makes a Debian 13 root in FOLDER/root by debootstrap (about 90 s, 450 MB; kept for the next time), starts HTCondor in
# it, and submits, as a user other than root:
#   a: shared files, 3 workers, one of which is evicted in the middle of a trial;
#   b: file transfer, a worker that reaches its time limit (exit code 75) several times and goes on;
#   c: a shard that fails, so that the DAG stops, and the same command again.
# At the end every trial is complete exactly once and the models are those of one machine. Needs root and debootstrap.
set -euo pipefail
# shellcheck source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
case ${1:-} in '' | -h | --help) help_of "$0"; exit ;; esac

begin=$SECONDS
note() { printf '%4d s  %s\n' $((SECONDS - begin)) "$*"; }
common=(TRIALS=3 EPOCHS=60 PATIENCE=60 'model_parameters.space_options.n_filters=[8]' THREADS=1)
jobs=(--cpus 1 --memory 500M --shards 2)

# --- On this machine: a root with HTCondor --------------------------------------------------------

make_root() {
  local mirror
  # The mirror that this machine itself uses.
  # shellcheck disable=SC2016 # a name of apt, not of the shell
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 '/debian/\?$' || true)
  [[ -n $mirror ]] || die "apt knows no mirror of Debian here" "make a Debian 13 root in $tree by hand"
  command -v debootstrap >/dev/null || die "no \`debootstrap\` here" "apt-get install debootstrap"
  debootstrap --variant=minbase trixie "$tree" "$mirror" >"$folder/debootstrap.log"
  cp -r /etc/apt/apt.conf.d/. "$tree/etc/apt/apt.conf.d/"
  printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
  chmod +x "$tree/usr/sbin/policy-rc.d"
}

outside() {
  [[ $(id -u) == 0 ]] || die "this needs root" "it mounts folders into a root of its own"
  build_binaries
  folder=$(realpath -m "$1")
  tree=$folder/root
  mkdir -p "$folder"
  [[ -x $tree/bin/bash ]] || make_root
  cp /etc/resolv.conf /etc/hosts "$tree/etc/"
  MTID_BIN=$bin "$root/scripts/package.sh" "$folder/package.tar.gz"
  # Mounts of a namespace of its own go away with it.
  export folder tree programs=$bin
  exec unshare --mount --pid --fork --kill-child "$root/scripts/stress/htcondor.sh" --mounted
}

mounted() {
  mount -t proc proc "$tree/proc"
  mount --rbind /dev "$tree/dev"
  mkdir -p "$tree/project" "$tree/programs" "$tree/library"
  cp "$folder/package.tar.gz" "$tree/root/"
  mount --bind "$root" "$tree/project"
  mount --bind "$programs" "$tree/programs"
  mount --bind "$cache/onnxruntime/$ort_version-cpu" "$tree/library"
  if [[ ! -x $tree/usr/bin/condor_submit || ! -x $tree/usr/bin/make || ! -x $tree/usr/bin/python3 || ! -x $tree/usr/bin/objdump ]]; then
    chroot "$tree" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive chroot "$tree" apt-get install -y -qq --no-install-recommends minicondor make python3 binutils >"$folder/apt.log" 2>&1
  fi
  chroot "$tree" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /project/scripts/stress/htcondor.sh --inside
}

# --- Inside: HTCondor, and the chain as a user ----------------------------------------------------

start_condor() {
  # Jobs of an earlier run of this script.
  local spool
  spool=$(condor_config_val SPOOL)
  find "${spool:?}" -mindepth 1 -delete
  mkdir -p /var/lib/condor/{spool,execute} /var/log/condor /run/condor /var/lock/condor
  chown -R condor:condor /var/lib/condor /var/log/condor /run/condor /var/lock/condor
  cat >/etc/condor/config.d/99-test <<'CONF'
NUM_CPUS = 2
MEMORY = 4000
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = TRUE
START = TRUE
SUSPEND = FALSE
PREEMPT = FALSE
KILL = FALSE
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
NEGOTIATOR_MIN_INTERVAL = 1
SCHEDD_INTERVAL = 1
SCHEDD_MIN_INTERVAL = 1
DAGMAN_USER_LOG_SCAN_INTERVAL = 1
USE_PID_NAMESPACES = FALSE
CGROUP_MEMORY_LIMIT_POLICY = none
BASE_CGROUP =
DISCARD_SESSION_KEYRING_ON_STARTUP = FALSE
CREATE_LOCKS_ON_LOCAL_DISK = FALSE
# A chroot can't unshare mounts: every job would be held.
MOUNT_UNDER_SCRATCH =
MOUNT_PRIVATE_DEV_SHM = FALSE
ENABLE_IPV6 = FALSE
CONF
  mkdir -p /etc/condor/passwords.d
  if [[ ! -s /etc/condor/passwords.d/POOL ]]; then head -c 64 /dev/urandom >/etc/condor/passwords.d/POOL; fi
  chmod 600 /etc/condor/passwords.d/POOL
  condor_master
  for _ in {1..120}; do if condor_status -af State 2>/dev/null | grep -q Unclaimed; then return; fi; sleep 0.5; done
  die "HTCondor did not start; see /var/log/condor"
}

inside() {
  start_condor
  id physicist >/dev/null 2>&1 || useradd --create-home physicist
  note "$(condor_version | head -1)"
  rm -rf /home/physicist/work
  mkdir -p /home/physicist/work
  cp -r /programs /home/physicist/work/programs
  cp /root/package.tar.gz /home/physicist/work/
  chown -R physicist /home/physicist/work
  local code=0
  setpriv --reuid=physicist --regid=physicist --init-groups env HOME=/home/physicist MTID_BIN=/home/physicist/work/programs \
    ORT_DYLIB_PATH=/library/libonnxruntime.so /project/scripts/stress/htcondor.sh --as-user || code=$?
  condor_off -master >/dev/null 2>&1 || true
  return "$code"
}

# until_true SECONDS COMMAND...
until_true() {
  local end=$((SECONDS + $1))
  shift
  while ! "$@" >/dev/null 2>&1; do
    if ((SECONDS > end)); then condor_q -nobatch >&2; condor_q -af:j HoldReason >&2; die "waited too long for: $*"; fi
    sleep 0.5
  done
}
ended() { [[ ! -e $1/batch/chain.dag.lock && -s $1/batch/chain.dag.dagman.out ]] && grep -q 'EXITING WITH STATUS' "$1/batch/chain.dag.dagman.out"; }
status_of() { grep -o 'EXITING WITH STATUS [0-9]*' "$1/batch/chain.dag.dagman.out" | tail -1 | grep -o '[0-9]*$'; }
epochs() { [[ $(cat "$1"/study/trials/*/history.csv 2>/dev/null | wc -l) -ge $2 ]]; }
# journal RUN: every trial complete exactly once.
journal() { python3 "$root/scripts/tests/journal_check.py" "$1/study/journal.log" 3; }
same_as_one_machine() {
  local trial
  for trial in 0000 0001 0002; do cmp "$1/study/trials/$trial/model.onnx" "one/study/trials/$trial/model.onnx"; done
  cmp "$1/report/predictions.parquet" one/report/predictions.parquet
}

as_user() {
  cd /home/physicist/work
  build_binaries
  local demo=$root/scripts/configs/demo.json job last gone_on
  "$bin/simulate" --output clusters --clusters 1500 --planes X --columns 14 --width 16 --seed 42 >/dev/null

  # Do the submit files mean what they say?
  "$root/scripts/htcondor/submit.sh" "$demo" DATA=clusters OUT=a "${common[@]}" "${jobs[@]}" --workers 3 --time 02:00:00 -n >plan.txt
  sed -n '/^JOB /,/^    /p' plan.txt | grep -v '^    ' >plan.dag
  condor_submit_dag -no_submit plan.dag >/dev/null
  condor_submit -dry-run - scripts="$root/scripts" out="$PWD" stage=train seconds=7080 warn=120 cpus=1 memory=500 gpus=1 \
    flavour=longlunch tasks=2 "$root/scripts/htcondor/job.sub" >dry.txt
  for text in 'OnExitRemove=.*75' 'JobMaxRetries=200' 'JobFlavour="longlunch"' 'RequestGPUs=1' 'RequestMemory=500'; do
    grep -qE "$text" <(tr -d ' ' <dry.txt) || { cat dry.txt; die "condor_submit -dry-run does not show $text"; }
  done
  note "condor_submit -dry-run and condor_submit_dag -no_submit: $(grep -o 'OnExitRemove.*' dry.txt | head -1)"

  "$root/scripts/run_v4.sh" CONFIG="$demo" DATA=clusters OUT=one "${common[@]}" DEVICE=cpu >/dev/null 2>&1
  note "the run on one machine is done"

  "$root/scripts/htcondor/submit.sh" "$demo" DATA=clusters OUT=a "${common[@]}" "${jobs[@]}" --workers 3 --time 02:00:00 >/dev/null 2>&1
  until_true 120 epochs a 4
  job=$(condor_q -nobatch -constraint 'JobStatus == 2 && regexp("stage.sh .* train ", Arguments)' -af:j JobStatus | awk '{ print $1; exit }')
  condor_vacate_job "$job" >/dev/null
  note "a: evicted worker $job in the middle of a trial"
  until_true 240 ended a
  [[ $(status_of a) == 0 ]] || die "DAG a ended with $(status_of a)"
  journal a
  same_as_one_machine a
  grep -l 'JOB_EVICTED\|Job was evicted' a/batch/logs/condor.log >/dev/null
  note "a (shared files): 3 trials once each, models and predictions are those of one machine; starts of workers: $(cat a/batch/logs/train-*.log | grep -c '^stage train')"

  # The limit is 12 s: the worker has to be started several times for 180 epochs.
  "$root/scripts/htcondor/submit.sh" "$demo" DATA=clusters OUT=b "${common[@]}" "${jobs[@]}" --transfer --time 00:02:12 --warn 120 --package "$PWD/package.tar.gz" >b.txt 2>&1 || { cat b.txt; die "b was refused"; }
  until_true 300 ended b
  [[ $(status_of b) == 0 ]] || die "DAG b ended with $(status_of b)"
  journal b
  same_as_one_machine b
  gone_on=$(grep -c '^trial [0-9]* on ' b/study/trials/*/train.log | awk -F: '$2 > 1' | wc -l)
  ((gone_on > 0)) || die "no trial of b was stopped and went on"
  note "b (file transfer): 3 trials once each, equal to one machine; the three jobs started $(grep -c 'Job executing' b/batch/logs/condor.log) times, trials gone on from a checkpoint: $gone_on"

  cp -r clusters damaged
  last=$(find damaged -name '*planeX.npz' | sort | tail -1)
  cp "$last" whole.npz
  head -c 3000 whole.npz >"$last"
  "$root/scripts/htcondor/submit.sh" "$demo" DATA=damaged OUT=c "${common[@]}" TRIALS=1 EPOCHS=2 ON_BAD_FILE=fail "${jobs[@]}" --time 02:00:00 >/dev/null 2>&1
  until_true 120 ended c
  [[ $(status_of c) != 0 && ! -e c/study ]] || die "a failed shard did not stop the DAG"
  cat whole.npz >"$last"
  "$root/scripts/htcondor/submit.sh" "$demo" DATA=damaged OUT=c "${common[@]}" TRIALS=1 EPOCHS=2 ON_BAD_FILE=fail "${jobs[@]}" --time 02:00:00 >/dev/null 2>&1
  until_true 120 ended c
  [[ $(status_of c) == 0 && -s c/report/report.html ]] || die "the same command did not go on"
  note "c: a bad file stopped the DAG; the same command went on after a remedy"
  note "passed"
}

case $1 in
  --mounted) mounted ;;
  --inside) inside ;;
  --as-user) as_user ;;
  *) outside "$1" ;;
esac
