#!/usr/bin/env bash
# Runs the suites as somebody else. It is no part of the test command, because it takes as long again. Needs root.
#
#   tests/elsewhere/run.sh user [FILE …]    as a uid that is not root and has no name, whose home can't be written
#   tests/elsewhere/run.sh locks [FILE …]   as the same, on a file system without locks and hard links; needs a C compiler
#
# Without FILE: tests/lab, tests/lib and tests/http. Not equality.test.ts: without a home `jupyter lab` leaves out a part of
# itself, and ours does not.
set -euo pipefail
shopt -s extglob
cd "$(dirname "$0")/../.."

OWNER=4321
kind=${1:-user}
shift || true
(($#)) || set -- tests/lab/!(equality).test.ts tests/lib tests/http

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work"/{project,tmp,base}
tar -c --exclude=.git --exclude=./node_modules --exclude=.venv --exclude=__pycache__ --exclude=.runtime . | tar -x -C "$work/project"
mkdir "$work"/project/{node_modules,.venv}
chown -R "$OWNER:$OWNER" "$work"
preload=''
if [[ $kind == locks ]]; then
  preload=$work/no-locks.so
  cc -O2 -Wall -Wextra -shared -fPIC -o "$preload" tests/support/no-locks.c -ldl
fi
base=$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')

# In a mount namespace of its own: the checkout and the Python can be in a folder that only root may enter.
unshare --mount --propagation private bash -euo pipefail -c '
  work=$1 base=$2 owner=$3 preload=$4
  shift 4
  mount --bind "$(realpath node_modules)" "$work/project/node_modules"
  mount --bind "$(realpath .venv)" "$work/project/.venv"
  cd "$work/project"
  if ! setpriv --reuid="$owner" --regid="$owner" --clear-groups test -x "$base/bin"; then
    top=/$(cut -d/ -f2 <<<"$base")
    mount --bind "$base" "$work/base"
    mount -t tmpfs -o mode=755 tmpfs "$top"
    mkdir -p "$base"
    mount --bind "$work/base" "$base"
  fi
  exec setpriv --reuid="$owner" --regid="$owner" --clear-groups env --ignore-environment HOME=/nonexistent LANG=C.UTF-8 \
    TMPDIR="$work/tmp" PATH="$work/project/node_modules/.bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" \
    ${preload:+LD_PRELOAD="$preload"} bun test --parallel=3 --timeout=120000 "$@"
' bash "$work" "$base" "$OWNER" "$preload" "$@"
