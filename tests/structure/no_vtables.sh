#!/bin/sh
# SPDX-License-Identifier: MIT
# no_vtables.sh NM PROGRAM...: checks that no program contains a virtual table of a class of nbd.
# Three are allowed: Asio's services must derive from execution_context::service, whose only virtual
# function is called once, when a context ends.
nm=$1
shift
status=0
seen=0
for program; do
    [ -e "$program" ] || continue # not built in this run
    seen=$((seen + 1))
    tables=$("$nm" -C "$program" | grep 'vtable for nbd::' | grep -vE 'vtable for nbd::(uring_service|io::basic_loop_poller<.*>|io::clients_of_context::service)$')
    if [ -n "$tables" ]; then
        echo "$program:"
        echo "$tables"
        status=1
    fi
done
if [ $seen -eq 0 ]; then
    echo "SKIPPED: no program was built"
    exit 77
fi
echo "$seen programs checked"
exit $status
