#!/bin/sh
# SPDX-License-Identifier: MIT
# example.sh PROGRAM STATUS: starts an example, queries the size of each export that it prints, and ends it with SIGTERM.
set -u
program=$1
expected=$2

command -v nbdinfo >/dev/null || {
    echo "SKIPPED: nbdinfo is missing (Debian: libnbd-bin)"
    exit 77
}
folder=$(mktemp -d) || exit 1
server=
finish() {
    [ -z "$server" ] || kill -KILL "$server"
    rm -rf "$folder"
}
trap finish EXIT
fail() {
    echo "$*"
    cat "$folder/output"
    exit 1
}

"$program" "$folder/nbd.sock" >"$folder/output" 2>&1 &
server=$!
tries=0
until grep -q '^serving ' "$folder/output"; do
    tries=$((tries + 1))
    [ $tries -le 100 ] || fail "it has not said 'serving' within 10 seconds"
    sleep 0.1
done

for uri in $(sed -n 's/^serving //p' "$folder/output"); do
    size=$(nbdinfo --size "$uri") || fail "nbdinfo cannot read $uri"
    [ "$size" -gt 0 ] || fail "$uri has no size"
    echo "$uri: $size bytes"
done

kill -TERM "$server"
wait "$server"
status=$?
server=
[ $status -eq "$expected" ] || fail "it ended with status $status, not $expected"
[ "$expected" -ne 0 ] || [ ! -e "$folder/nbd.sock" ] || fail "it left its socket behind"
