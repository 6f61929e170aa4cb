#!/usr/bin/env bash
# MLflow for one cluster, on its head, for one user: Postgres without a network port, MLflow on the loopback address, files of runs in
# object storage. There is no password that could leak: the database is reached through a socket in a folder that only its owner may
# enter, and Postgres asks the kernel who is at the other end (peer authentication).
#
#   mlflow_server.sh install             Postgres from the packages of Debian or Ubuntu (with sudo), without their own service
#   mlflow_server.sh start DESTINATION   for example s3://BUCKET/mlflow, with credentials of the environment or of the machine's role;
#                                        what runs already is left alone, so that it may be called at every `ray up`
#   mlflow_server.sh stop                ends both; the database stays
#   mlflow_server.sh dump                the database as SQL on standard output
#
# MLFLOW_HOME: folder for database, socket and logs (~/mlflow). MLFLOW_PORT: 5000.
set -euo pipefail
umask 077

home="${MLFLOW_HOME:-${HOME}/mlflow}"
port="${MLFLOW_PORT:-5000}"
socket="${home}/socket" database="${home}/database" pid_file="${home}/mlflow.pid"
uri="postgresql+psycopg://$(id -un)@/mlflow?host=${socket}"

fail() {
  echo "mlflow_server.sh: $*" >&2
  exit 1
}

postgres() {  # postgres PROGRAM ARGUMENTS...: a program of the newest Postgres on this machine
  local program newest
  program="$1"
  shift
  newest="$(find /usr/lib/postgresql/*/bin -maxdepth 1 -name "${program}" 2>/dev/null | sort -V | tail -n 1)"
  [[ -n "${newest}" ]] || fail "there is no Postgres on this machine (${program}); run: mlflow_server.sh install"
  "${newest}" "$@"
}

install() {
  if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    return
  fi
  sudo mkdir -p /etc/postgresql-common
  echo 'create_main_cluster = false' | sudo tee /etc/postgresql-common/createcluster.conf >/dev/null  # no database of the packages' own
  sudo apt-get update -qq
  sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null
}

database_runs() {  # whether the process that the database names is there, and is Postgres
  local pid
  pid="$(head -n 1 "${database}/postmaster.pid" 2>/dev/null)" && [[ "$(cat "/proc/${pid}/comm" 2>/dev/null)" == postgres ]]
}

start_database() {
  mkdir -p "${home}" "${socket}"
  chmod 700 "${home}" "${socket}"
  if [[ ! -f "${database}/PG_VERSION" ]]; then
    postgres initdb --pgdata "${database}" --username "$(id -un)" --auth-local peer --auth-host reject \
      --encoding UTF8 --locale C.UTF-8 >"${home}/initdb.log" || fail "no database could be made; see ${home}/initdb.log"
  fi
  if ! database_runs; then
    # Left by a container that was cut off; the number in them may be another process's by now.
    rm -f "${database}/postmaster.pid" "${socket}"/.s.PGSQL.*
    postgres pg_ctl --pgdata "${database}" --log "${home}/postgres.log" --wait --silent start \
      --options "-c listen_addresses='' -c unix_socket_directories='${socket}' -c unix_socket_permissions=0700 -c max_connections=100" \
      || fail "Postgres does not start; see ${home}/postgres.log"
  fi
  local there
  there="$(postgres psql --host "${socket}" --dbname postgres --tuples-only --no-align \
    --command "SELECT 1 FROM pg_database WHERE datname = 'mlflow'")"
  [[ -n "${there}" ]] || postgres createdb --host "${socket}" mlflow
}

answers() {  # whether MLflow answers
  python3 -c "import urllib.request as r; r.urlopen('http://127.0.0.1:${port}/health', timeout=5)" 2>/dev/null
}

server_runs() {  # whether the process of the last start is there, and is MLflow
  [[ -s "${pid_file}" ]] && tr '\0' ' ' <"/proc/$(<"${pid_file}")/cmdline" 2>/dev/null | grep -q 'mlflow'
}

start_server() {
  if server_runs; then
    return
  fi
  ! answers || fail "port ${port} is taken by another server; set MLFLOW_PORT"
  MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1 \
    setsid mlflow server --host 127.0.0.1 --port "${port}" --workers 2 \
    --backend-store-uri "${uri}" --artifacts-destination "$1" >>"${home}/mlflow.log" 2>&1 </dev/null &
  echo "$!" >"${pid_file}"
}

wait_for_server() {
  for _ in $(seq 120); do
    if answers; then
      return
    fi
    server_runs || fail "MLflow has ended; see ${home}/mlflow.log"
    sleep 1
  done
  fail "MLflow does not answer on port ${port} after two minutes; see ${home}/mlflow.log"
}

stop() {
  if server_runs; then
    local pid
    pid="$(<"${pid_file}")"
    kill -- "-${pid}"  # with its workers: it leads a process group of its own
    for _ in $(seq 100); do
      kill -0 -- "-${pid}" 2>/dev/null || break
      sleep 0.1
    done
    rm -f "${pid_file}"
  fi
  if database_runs; then
    postgres pg_ctl --pgdata "${database}" --mode fast --wait --silent stop
  fi
}

case "${1:-}" in
  install)
    install
    ;;
  start)
    [[ -n "${2:-}" ]] || fail "say where files of runs go: mlflow_server.sh start s3://BUCKET/mlflow"
    start_database
    start_server "$2"
    wait_for_server
    echo "MLflow: http://127.0.0.1:${port} (files in $2, database in ${database})"
    ;;
  stop)
    stop
    ;;
  dump)
    postgres pg_dump --host "${socket}" mlflow
    ;;
  *)
    fail "usage: mlflow_server.sh install | start DESTINATION | stop | dump"
    ;;
esac
