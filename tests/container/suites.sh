#!/usr/bin/env bash
# Inside the image: the suites that touch Python, with its Python and its Bun, in a copy of the checkout. With ONCE it ends
# afterwards; else it answers on port 80, as long as it is not stopped.
set -euo pipefail
(($$ > 1)) || exec tini -- "$0"

SUITES=(standby jupyterlab safe-mode equality embed gateway kernels config-files websockets assets fallback activity)

cd /src
ln -s /modules/node_modules node_modules
unset HOST PORT JUPYTER_HOST JUPYTER_PORT NOTEBOOK_DIR CONNECTION_FILE JUPYTER_CONFIG_FILE LOG_FORMAT
python3 --version
# A machine that others use can stand still for seconds: a test that fails is run once more, and the log shows both runs.
bun test --parallel=3 --timeout=120000 --retry=1 "${SUITES[@]/#/tests/lab/}" 2>&1 | tee /tmp/suites.log || {
  # The last lines of a container are what is seen of it.
  grep -B 12 '^(fail)' /tmp/suites.log | tail -n 40
  exit 1
}
[[ -z ${ONCE:-} ]] || exit 0
exec bun -e 'Bun.serve({ port: 80, fetch: () => new Response("passed") })'
