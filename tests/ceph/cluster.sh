#!/bin/sh
# SPDX-License-Identifier: MIT
set -u

usage="sh tests/ceph/cluster.sh start FOLDER [--osds N] [--store memstore|bluestore] [--port PORT] [--with PID]
sh tests/ceph/cluster.sh kill-osd FOLDER N
sh tests/ceph/cluster.sh start-osd FOLDER N
sh tests/ceph/cluster.sh stop FOLDER

A Ceph cluster of one machine on the loopback, for tests: one monitor, one manager, and N OSDs (one by default). It needs
neither root nor systemd. All of its files are in FOLDER, which start makes and stop removes.

  --osds N    with more than one, the pool keeps two copies, and the OSDs are BlueStore on files
  --store     memstore forgets its data when its OSD is killed; default with one OSD
  --port      of the monitor; default 3300
  --with PID  the cluster is stopped when this process has ended

start prints what a client needs: CEPH_CONF=FOLDER/ceph.conf. The pool is called rbd."

die() {
    echo "cluster.sh: $*" >&2
    exit 1
}

[ $# -ge 2 ] || { echo "$usage" >&2 && exit 2; }
action=$1
folder=$2
shift 2
case $folder in /*) ;; *) folder=$PWD/$folder ;; esac
export CEPH_CONF="$folder/ceph.conf"
# Not those of another cluster that the user may have.
unset CEPH_ARGS CEPH_KEYRING

# in_time SECONDS COMMAND...: waits until the command succeeds.
in_time() {
    until=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$until" ] || return 1
        sleep 0.2
    done
}

# The pids of the daemons that still run.
running() {
    for file in "$folder"/run/*.pid; do
        [ -e "$file" ] || continue
        pid=$(cat "$file")
        # A pid of a daemon that was killed may belong to another process now.
        grep -qs "^ceph-" "/proc/$pid/comm" && echo "$pid"
    done
}
none_running() { [ -z "$(running)" ]; }

# By SIGKILL: nothing of the cluster is kept, and a clean end takes seconds.
stop_all() {
    pids=$(running)
    # shellcheck disable=SC2086 # a list of words
    [ -z "$pids" ] || kill -9 $pids 2>/dev/null
    in_time 15 none_running
}

all_up() { ceph --connect-timeout 5 osd stat -f json 2>/dev/null | grep -q "\"num_up_osds\": *$1[,}]"; }

start_osd() { ceph-osd -i "$1" >"$folder/log/osd.$1.out" 2>&1 || die "osd.$1 does not start; see $folder/log"; }

# Stops the cluster when a process has ended, which nothing but a look tells. Ends when the cluster is stopped.
stop_with() {
    while [ -e "$CEPH_CONF" ] && kill -0 "$1"; do sleep 1; done
    [ ! -e "$CEPH_CONF" ] || stop
}

stop() {
    stop_all
    rm -rf "$folder"
}

start() {
    osds=1
    store=
    port=3300
    with=
    while [ $# -gt 0 ]; do
        case $1 in
            --osds) osds=$2 && shift 2 ;;
            --store) store=$2 && shift 2 ;;
            --port) port=$2 && shift 2 ;;
            --with) with=$2 && shift 2 ;;
            *) die "unknown argument '$1'" ;;
        esac
    done
    copies=1
    [ "$osds" = 1 ] || copies=2
    if [ -z "$store" ]; then
        store=memstore
        [ "$osds" = 1 ] || store=bluestore
    fi
    for program in ceph-mon ceph-mgr ceph-osd ceph rbd monmaptool; do
        command -v $program >/dev/null 2>&1 || die "$program is missing (Debian: ceph-mon ceph-mgr ceph-osd ceph-common)"
    done
    [ ! -e "$folder/ceph.conf" ] || die "$folder holds a cluster already"
    mkdir -p "$folder/run" "$folder/log" "$folder/mon" "$folder/mgr" || die "cannot make $folder"
    fsid=$(cat /proc/sys/kernel/random/uuid)
    cat >"$CEPH_CONF" <<END
[global]
fsid = $fsid
mon host = v2:127.0.0.1:$port
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = $copies
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon data = $folder/mon
mgr data = $folder/mgr
osd data = $folder/osd.\$id
run dir = $folder/run
pid file = $folder/run/\$name.pid
log file = $folder/log/\$name.log
admin socket = $folder/run/\$name.asok
osd objectstore = $store
memstore device bytes = 2147483648
bluestore block size = 4294967296
osd memory target = 939524096
osd class load list = *
osd class default list = *
osd heartbeat grace = 6
mgr initial modules =
[client]
admin socket = $folder/run/\$name.\$pid.asok
log file = $folder/log/client.log
END
    log=$folder/log
    # By exec: a redirection of the function alone would keep the old descriptors, and who reads them waits for their end.
    [ -z "$with" ] || (exec </dev/null >/dev/null 2>&1 && stop_with "$with") </dev/null >/dev/null 2>&1 &
    monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$port]" "$folder/monmap" >"$log/monmaptool.out" 2>&1 \
        || die "monmaptool failed; see $log"
    ceph-mon -i a --mkfs --monmap "$folder/monmap" --keyring /dev/null >"$log/mon.mkfs.out" 2>&1 \
        || die "the monitor cannot be made; see $log"
    ceph-mon -i a >"$log/mon.out" 2>&1 || die "the monitor does not start; see $log"
    ceph-mgr -i x >"$log/mgr.out" 2>&1 || die "the manager does not start; see $log"
    n=0
    while [ "$n" -lt "$osds" ]; do
        uuid=$(cat /proc/sys/kernel/random/uuid)
        mkdir -p "$folder/osd.$n"
        ceph --connect-timeout 30 osd new "$uuid" $n >/dev/null || die "the monitor does not answer; see $log"
        ceph-osd -i $n --mkfs --osd-uuid "$uuid" >"$log/osd.$n.mkfs.out" 2>&1 || die "osd.$n cannot be made; see $log"
        ceph osd crush add osd.$n 1 root=default >/dev/null 2>&1 || die "osd.$n has no place"
        start_osd $n
        n=$((n + 1))
    done
    in_time 60 all_up "$osds" || die "the OSDs are not up after a minute; see $log"
    ceph osd pool create rbd 8 >/dev/null 2>&1 || die "the pool cannot be made"
    timeout 60 rbd pool init rbd || die "the pool cannot be used"
    echo "CEPH_CONF=$CEPH_CONF"
}

case $action in
    start) (start "$@") || { stop_all; exit 1; } ;;
    kill-osd) kill -9 "$(cat "$folder/run/osd.$1.pid")" ;;
    start-osd) start_osd "$1" ;;
    stop) stop ;;
    *) echo "$usage" >&2 && exit 2 ;;
esac
