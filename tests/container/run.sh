#!/usr/bin/env bash
# Builds the image and proves it as a container, twice: as the README runs it, and with everything taken away from it.
#
#   ENGINE=docker tests/container/run.sh     with docker or podman
#   tests/container/run.sh                   with container-smoke (CONTAINER_SMOKE, else ../shared/container-smoke)
#   tests/container/run.sh suites            instead, the suites that touch Python, with the image's own Python
#
# client.ts is the user outside: it talks to the published ports. inside.sh looks around within. The container is then
# stopped as `docker stop` does, with three busy kernels in it.
set -euo pipefail
cd "$(dirname "$0")/../.."

STOP_LIMIT_MS=10000
HARDENED='--user 4321:0 --read-only --tmpfs /run --tmpfs /tmp --cap-drop=ALL --security-opt=no-new-privileges'
SUITES_LIMIT_S=1500

say() { printf 'container: %s\n' "$*" >&2; }
fail() {
  say "FAIL: $*"
  exit 1
}

engine=${ENGINE:-}
smoke=${CONTAINER_SMOKE:-../shared/container-smoke}
if [[ -z $engine && ! -x $smoke ]]; then
  say "NOT RUN: $smoke is not there. Set ENGINE=docker where Docker is, or CONTAINER_SMOKE."
  exit 0
fi

[[ -d node_modules ]] || npx -y bun install --frozen-lockfile
PATH=$PWD/node_modules/.bin:$PATH
work=$(mktemp -d)
tag=localhost/jupyter-server:test
name=jupyter-server-test-$$
client=''
cleanup() {
  local code=$?
  trap - EXIT
  [[ -z $client ]] || kill "$client" 2>/dev/null || true
  if [[ -n $engine ]]; then
    ((code == 0)) || "$engine" logs --tail 40 "$name" >&2 2>/dev/null || true
    "$engine" rm --force "$name" >/dev/null 2>&1 || true
  fi
  rm -rf "$work"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 143' TERM INT

free_ports() {
  bun -e 'const s = [1, 2].map(() => Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } }));
    console.log(s[0].port, s[1].port); for (const one of s) one.stop();'
}

# with_smoke OPTIONS: builds, runs, looks inside, probes the HEALTHCHECK, looks for zombies, stops.
with_smoke() {
  "$smoke" -t "$tag" -p "$api_port:80" -p "$lab_port:8888" -u /health/live \
    -e "PUBLIC_URL=http://127.0.0.1:$lab_port" -r "--volume $folder:/notebooks $1" \
    -x "$(cat tests/container/inside.sh)" . 2>&1 | tee "$work/log" >&2
  local told='s/.*stopped by SIGTERM in ([0-9]+) ms, exit status ([0-9]+).*/\1 \2/p'
  read -r stop_ms exit_code < <(sed -nE "$told" "$work/log")
}

# with_engine OPTIONS: the same, with Docker's own commands.
with_engine() {
  local started health=''
  "$engine" build --quiet --tag "$tag" . >/dev/null
  # shellcheck disable=SC2086 # the options are words
  "$engine" run --detach --name "$name" --publish "127.0.0.1:$api_port:80" --publish "127.0.0.1:$lab_port:8888" \
    --env "PUBLIC_URL=http://127.0.0.1:$lab_port" --volume "$folder:/notebooks" --health-interval=1s $1 "$tag" >/dev/null
  "$engine" exec "$name" sh -c "$(cat tests/container/inside.sh)"
  for _ in {1..60}; do
    health=$("$engine" inspect --format '{{.State.Health.Status}}' "$name")
    [[ $health == healthy ]] && break
    sleep 0.5
  done
  [[ $health == healthy ]] || fail "HEALTHCHECK says $health"
  started=$(date +%s%N)
  "$engine" stop --time 20 "$name" >/dev/null
  stop_ms=$((($(date +%s%N) - started) / 1000000))
  exit_code=$("$engine" inspect --format '{{.State.ExitCode}}' "$name")
  "$engine" rm "$name" >/dev/null
}

# prove KIND OPTIONS
prove() {
  say "$1: ${2:-as the README runs it}"
  folder=$work/$1
  mkdir "$folder"
  # The container's user is not this one.
  chmod 777 "$folder"
  read -r api_port lab_port < <(free_ports)
  bun tests/container/client.ts "$1" "http://127.0.0.1:$api_port" "$folder" &
  client=$!
  stop_ms='' exit_code=''
  if [[ -n $engine ]]; then with_engine "$2"; else with_smoke "$2"; fi
  wait "$client" || fail "$1: the client is not content"
  client=''
  [[ $exit_code == 0 ]] || fail "$1: exit code $exit_code"
  ((stop_ms < STOP_LIMIT_MS)) || fail "$1: the stop took $stop_ms ms"
  say "$1: stopped with three busy kernels in $stop_ms ms, exit code 0"
}

# suites.sh is process 1, and answers on the API's port once all has passed.
suites() {
  # A copy, because the image's user may neither read the checkout nor write to it.
  mkdir "$work/src"
  tar -c --exclude=.git --exclude=./node_modules --exclude=.venv --exclude=__pycache__ --exclude=.runtime . | tar -x -C "$work/src"
  chmod -R a+rwX "$work/src"
  local options="--volume $work/src:/src --volume $(realpath node_modules):/modules/node_modules:ro --entrypoint /src/tests/container/suites.sh"
  if [[ -n $engine ]]; then
    "$engine" build --quiet --tag "$tag" . >/dev/null
    # shellcheck disable=SC2086 # the options are words
    timeout "$SUITES_LIMIT_S" "$engine" run --rm --name "$name" --env ONCE=1 $options "$tag"
  else
    read -r api_port lab_port < <(free_ports)
    "$smoke" -t "$tag" -p "$api_port:80" -w "$SUITES_LIMIT_S" -T "$((SUITES_LIMIT_S + 600))" -r "$options" -x 'tail -n 4 /tmp/suites.log' .
  fi
}

if [[ ${1:-} == suites ]]; then
  suites || fail 'the suites inside the image'
  say PASS
  exit 0
fi

prove plain ''
prove hardened "$HARDENED"
say PASS
