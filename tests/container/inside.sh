# shellcheck shell=sh
# Looks around inside the container, as its user, between the client's steps; both leave word in /notebooks.
await() {
  left=250
  until [ -e "/notebooks/$1" ]; do
    left=$((left - 1))
    if [ "$left" -eq 0 ] || [ -e /notebooks/failed ]; then
      echo "waited in vain for the client to be $1"
      exit 1
    fi
    sleep 0.2
  done
}

await stopped
for status in /proc/[0-9]*/status; do
  process=${status%/status}
  state=$(sed -n 's/^State:[[:space:]]*//p' "$status" 2>/dev/null)
  echo "${process#/proc/} $state $(tr '\0' ' ' <"$process/cmdline" 2>/dev/null)"
done >/notebooks/processes
find /app -type f | sort >/notebooks/application
find / -xdev '(' -name .git -o -name .venv -o -name node_modules -o -name '*.test.ts' -o -name CHANGELOG.md ')' -print \
  2>/dev/null | sort >/notebooks/strangers
find / -xdev -path /proc -prune -o -path /notebooks -prune -o -type f -user "$(id -u)" -print 2>/dev/null |
  grep -v '^/\(proc\|sys\)/' | sort >/notebooks/written
: >/notebooks/inspected
await busy
