#!/usr/bin/env bash
# Runs a command on a Ray cluster of its own inside a Slurm job: a head on the first node, a worker on each other one, a fresh token, ports
# that nobody else uses, a folder of its own in /tmp of every node. At the end, whatever ends the job, it ends what it started, and only that.
# Running the same command again goes on where the last job stopped. ../cluster.md says line by line what to change.
#
#   sbatch docs/cluster/slurm.sh gkd-bench sweep sweeps/vessel_cross.yaml --set storage.root=/shared/gkd/store
#
# From the folder of this repository, on a file system that all nodes share. The head's node runs the command, and stages as well.
# CHANGE the lines below, or give them to sbatch: options there come before those here.
#SBATCH --job-name=gkd-bench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=9
#SBATCH --gpus-per-node=2
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --output=gkd-bench-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
#SBATCH --no-kill
#SBATCH --requeue
#
# GKD_VENV: folder of the virtual environment on every node (default: .venv of the submit folder).
# GKD_HEAD_IP: address of the first node as the others see it, where it cannot be found out.
# GKD_REQUEUE=1: when time is up, put the job into the queue again, until the command has ended by itself.
set -euo pipefail

(($#)) || { echo "usage: sbatch slurm.sh COMMAND ARGUMENTS..." >&2; exit 2; }
: "${SLURM_JOB_ID:?this script is for sbatch}"

venv="${GKD_VENV:-${SLURM_SUBMIT_DIR}/.venv}"
cpus="${SLURM_CPUS_PER_TASK:-1}"
export PATH="${venv}/bin:${PATH}"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0  # the sweep has ended by then; Slurm kills after 30 s, as many as Ray would wait
export RAY_AUTH_TOKEN_PATH="${SLURM_SUBMIT_DIR}/.gkd-slurm-${SLURM_JOB_ID}.token"
# Short, since the names of sockets in it may have 107 characters; and no name that another user of a node could have taken before.
GKD_RAY_FOLDER="/tmp/gkd-${SLURM_JOB_ID}-$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')"
export GKD_RAY_FOLDER
export GKD_RAY_OPTIONS="--temp-dir=${GKD_RAY_FOLDER} --num-cpus=${cpus} --object-store-memory=500000000 --min-worker-port=0
  --max-worker-port=0 --dashboard-agent-listen-port=0 --include-log-monitor=false --disable-usage-stats"

mapfile -t nodes < <(scontrol show hostnames "${SLURM_JOB_NODELIST}")
head="${nodes[0]}" last="${nodes[-1]}"
steps=() command_pid="" stopped="" again=""

say() {
  echo "slurm.sh $(date +%T): $*" >&2
}

on_node() {  # on_node NODE COMMAND...: one process on one node, beside what runs there already
  (start_on_node "$@")
}

start_on_node() {  # the same, in place of this shell, so that with & behind it $! is srun's own
  local node="$1"
  shift
  exec srun --overlap --nodes=1 --ntasks=1 --nodelist="${node}" --cpus-per-task="${cpus}" --export=ALL "$@"
}

# shellcheck disable=SC2317,SC2329  # called by a trap, as are the next two
clean_up() {
  local status=$?
  trap - EXIT
  trap '' TERM INT USR1
  rm -f "${RAY_AUTH_TOKEN_PATH}"
  for ((i = ${#steps[@]} - 1; i >= 0; i--)); do  # workers before the head
    kill "${steps[i]}" 2>/dev/null || true
  done
  for step in "${steps[@]}"; do
    wait "${step}" 2>/dev/null || true
  done
  if [[ -n "${again}" ]]; then
    say "the job goes into the queue again"
    scontrol requeue "${SLURM_JOB_ID}"
  fi
  exit "${status}"
}

# shellcheck disable=SC2317,SC2329
cancelled() {  # Slurm has told the command as well
  say "asked to stop"
  stopped=yes
}

# shellcheck disable=SC2317,SC2329
time_is_up() {  # Slurm tells this script alone; the command is ended the way Ctrl-C does it
  say "time is up in a few minutes"
  [[ "${GKD_REQUEUE:-}" != 1 ]] || again=yes
  stopped=yes
  [[ -z "${command_pid}" ]] || kill -TERM "${command_pid}" 2>/dev/null || true
}

trap clean_up EXIT
trap cancelled TERM INT
trap time_is_up USR1

(umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' >"${RAY_AUTH_TOKEN_PATH}")

head_ip="${GKD_HEAD_IP:-}"
if [[ -z "${head_ip}" && "${last}" == "${head}" ]]; then
  head_ip=127.0.0.1
elif [[ -z "${head_ip}" ]]; then  # a node may know itself by a loopback address, so another one is asked
  head_ip="$(on_node "${last}" getent ahostsv4 "${head}" | awk 'NR == 1 { print $1 }')"
fi
[[ -n "${head_ip}" ]] || { say "no address of ${head} found; set GKD_HEAD_IP"; exit 1; }
read -r port client_port dashboard_port < <(on_node "${head}" python -c '
import socket
free = [socket.socket() for _ in range(3)]
[one.bind(("", 0)) for one in free]
print(*(one.getsockname()[1] for one in free))')
export RAY_ADDRESS="${head_ip}:${port}"

# What runs on the nodes; in single quotes, for the shells there. Each removes its folder itself: a job that was cancelled starts no more steps.
# shellcheck disable=SC2016
with_ray='run_ray() {
  trap "stop=yes; kill \${ray} 2>/dev/null" TERM
  mkdir -p -m 700 "${GKD_RAY_FOLDER}"
  ray start --block "$@" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" ${GKD_RAY_OPTIONS} &
  ray=$!
  [[ -z "${stop}" ]] || kill "${ray}"  # the signal came before there was a Ray
  while kill -0 "${ray}" 2>/dev/null; do wait "${ray}"; status=$?; done  # a signal ends the wait, not yet Ray
  rm -rf "${GKD_RAY_FOLDER}"
  exit "${status:-1}"
}
'
# shellcheck disable=SC2016
on_head="${with_ray}"'run_ray --head --node-ip-address="$1" --port="$2" --ray-client-server-port="$3" --dashboard-port="$4" \
  --dashboard-host=127.0.0.1'
# shellcheck disable=SC2016
on_worker="${with_ray}"'own="$(python -c "
import socket, sys
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
link.connect((sys.argv[1], 9))  # sends nothing
print(link.getsockname()[0])" "$1")"
run_ray --address="$1:$2" --node-ip-address="${own}"'
ray_log="${SLURM_SUBMIT_DIR}/gkd-bench-${SLURM_JOB_ID}.ray.log"

say "Ray's head on ${head} (${RAY_ADDRESS}), its log in ${ray_log}"
start_on_node "${head}" bash -c "${on_head}" head "${head_ip}" "${port}" "${client_port}" "${dashboard_port}" >>"${ray_log}" 2>&1 &
steps+=("$!")

nodes_there() {  # how many nodes of Ray are alive; 0 while there is none. Ray itself would wait for minutes for a head that is gone
  timeout 60 python -c '
import ray
ray.init(log_to_driver=False, logging_level="CRITICAL")
print(sum(node["Alive"] for node in ray.nodes()))' 2>/dev/null || echo 0
}

wait_for_nodes() {  # wait_for_nodes COUNT
  for _ in $(seq 60); do
    [[ -z "${stopped}" ]] || exit 143
    for step in "${steps[@]}"; do
      kill -0 "${step}" 2>/dev/null || { say "Ray has ended on a node; see ${ray_log}"; exit 1; }
    done
    (($(nodes_there) < $1)) || return 0
    sleep 2
  done
  say "not all of $1 nodes came up in time; see ${ray_log}"
  exit 1
}

wait_for_nodes 1
for node in "${nodes[@]:1}"; do
  start_on_node "${node}" bash -c "${on_worker}" worker "${head_ip}" "${port}" >>"${ray_log}" 2>&1 &
  steps+=("$!")
done
wait_for_nodes "${#nodes[@]}"

say "${#nodes[@]} nodes; running: $*"
"$@" &
command_pid="$!"
while kill -0 "${command_pid}" 2>/dev/null; do sleep 1 || true; done  # not wait: bash can miss an end beside a signal, and wait on
status=0
wait "${command_pid}" || status=$?
say "the command ended with ${status}"
exit "${status}"
