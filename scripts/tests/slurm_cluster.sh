#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for tests: no systemd, no accounting, a pretend GPU on each node.
#
# Usage: slurm_cluster.sh up DIR | node DIR NAME | down DIR
#
#   up     start it; state, logs and process numbers go below DIR, and DIR/env is to be sourced
#   node   start the slurmd of one node (n1 or n2) again
#   down   stop its daemons
#
# Needs root and the packages slurm-wlm and munge. Nothing of the machine's own Slurm or munge is touched.
set -euo pipefail

usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
[[ $# -ge 2 ]] || usage
dir=$(realpath -m "$2")
export SLURM_CONF=$dir/slurm.conf

# free_port: a port that nobody listens on now.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

start_node() { /usr/sbin/slurmd -N "$1"; }

write_config() {
  local host
  host=$(hostname -s)
  cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/run/munge.socket
SlurmUser=root
SlurmdUser=root
SlurmctldPort=$(free_port)
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
SlurmdTimeout=10
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
MinJobAge=300
GresTypes=gpu
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=2 RealMemory=4000 Gres=gpu:1 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=2 RealMemory=4000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=02:00:00 State=UP
CONF
  # Any device file schedules like a GPU.
  printf 'NodeName=%s Name=gpu File=/dev/null\n' n1 n2 >"$dir/gres.conf"
  printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" >"$dir/env"
}

up() {
  local state
  mkdir -p "$dir"/{run,log,state,spool.n1,spool.n2}
  write_config
  head -c 1024 /dev/urandom >"$dir/munge.key"
  chown munge:munge "$dir/munge.key" "$dir/run" "$dir/log"
  chmod 400 "$dir/munge.key"
  chmod 755 "$dir" "$dir/run" "$dir/log"
  setpriv --reuid=munge --regid=munge --clear-groups /usr/sbin/munged --key-file="$dir/munge.key" \
    --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" \
    --seed-file="$dir/run/munge.seed" --num-threads=2 --force
  /usr/sbin/slurmctld -i -c
  start_node n1
  start_node n2
  for _ in {1..120}; do
    state=$(sinfo --noheader --Node --format=%T 2>/dev/null | sort | tr '\n' ' ') || true
    if [[ $state == "idle idle " ]]; then return; fi
    sleep 0.25
  done
  echo "error: the nodes did not become idle: ${state:-}; see $dir/log" >&2
  exit 1
}

down() {
  local file pid
  scancel --user=root >/dev/null 2>&1 || true
  for file in "$dir"/run/slurmd.*.pid "$dir/run/slurmctld.pid" "$dir/run/munged.pid"; do
    pid=$(cat "$file" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null || true
    for _ in {1..40}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$pid" 2>/dev/null || true
  done
}

case $1 in
  up) up ;;
  down) down ;;
  node) [[ -n ${3:-} ]] || usage; start_node "$3" ;;
  *) usage ;;
esac
