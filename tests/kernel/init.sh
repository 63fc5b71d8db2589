#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The first process of the small virtual machine that run.sh boots. It uses the kernel's NBD client as a user would, once
# for each policy and transport. It prints `ok NAME` for each step. The first failed step prints `not ok NAME: why` and ends
# the run. The last line of a successful run is `KERNEL-TEST PASSED n`.
# The kernel passes its unknown parameters in the environment: KT_SECONDS (the time limit), KT_MIB (the size of the
# device), KT_ROUNDS (pairs POLICY/TRANSPORT, separated by commas) and KT_ATTACH (yes: also nbd::attach).

# Uses the usual tools where they matter, and busybox's for the rest. The shell is not busybox, because that prefers its
# own tools.
export PATH=/bin:/busybox
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /mnt /busybox
/bin/busybox --install -s /busybox
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /tmp
echo 1 >/proc/sys/kernel/printk # the kernel's messages are read with dmesg and not mixed with this output

device=/dev/nbd0
queue=/sys/block/nbd0/queue
mib=${KT_MIB:-64}
bytes=$((mib * 1048576))
passed=0
round=machine

# --- reporting, and the end: poweroff -n, because a sync may never return ---

ok() {
    passed=$((passed + 1))
    read -r now idle </proc/uptime
    echo "ok $round: $1 # $now s"
}

not_ok() {
    echo "not ok $round: $1: $2"
    for log in /tmp/out /tmp/server.out /tmp/server.err; do
        if [ -s $log ]; then
            echo "--- end of $log"
            tail -n 30 $log
        fi
    done
    echo "--- end of the kernel's log"
    dmesg | tail -n 40
    poweroff -f -n
}

# check NAME COMMAND...: the command must succeed.
check() {
    name=$1
    shift
    "$@" >/tmp/out 2>&1
    status=$?
    [ $status -eq 0 ] || not_ok "$name" "exit status $status of: $*"
    ok "$name"
}

# equal NAME EXPECTED GOT
equal() {
    [ "$2" = "$3" ] || not_ok "$1" "expected '$2', got '$3'"
    ok "$1"
}

# until_true COMMAND...: polls for at most ten seconds.
until_true() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || return 1
        usleep 50000
    done
}

# A request that is never answered blocks its process for ever. This reports the step before the host ends the machine.
watchdog() {
    sleep "${KT_SECONDS:-240}"
    echo "not ok $(cat /tmp/round): timed out: not done after ${KT_SECONDS:-240} s"
    ps -o pid,stat,args | grep -v '\['
    dmesg | tail -n 40
    poweroff -f -n
}

# --- content ---

# numbers FIRST BYTES: text with different blocks, the same in every run.
numbers() { seq "$1" 99999999 2>/dev/null | head -c "$2"; }

sizes="0 1 511 512 513 4095 4096 4097 65535 65537 131071 262144 1048575 1048576 1048577 2097153 3145728 5242879"

# The tree that every round writes. The checksums are computed here, not from the device.
make_tree() {
    mkdir -p /tmp/tree/deep/a /tmp/tree/deep/b /tmp/tree/many && cd /tmp/tree || return 1
    first=1
    for size in $sizes; do
        for copy in a b; do
            numbers $first "$size" >deep/$copy/of.$size.bytes
            first=$((first + 100003))
        done
    done
    for i in $(seq 200); do echo "small file $i" >many/$i; done
    ln -s ../deep/a many/link
    ln deep/a/of.4097.bytes many/hard
    find . -type f | sort | xargs sha256sum >/tmp/sums.all
    cd /
    [ "$(wc -l </tmp/sums.all)" -eq 237 ]
}

listing() { find . ! -name lost+found | sort | xargs stat -c '%n %F %s %h %a'; }

write_tree() {
    cp -a /tmp/tree/. . && sync && cp /tmp/sums.all /tmp/sums && listing >/tmp/listing
}

compare_tree() {
    listing >/tmp/listing.now
    cmp /tmp/listing /tmp/listing.now && sha256sum -c /tmp/sums
}

# Deletes half of the data and runs `fstrim`, as many machines do every week.
trim_tree() {
    rm -r deep/b && sync && fstrim /mnt && grep -v /deep/b/ /tmp/sums >/tmp/sums.left && mv /tmp/sums.left /tmp/sums
    listing >/tmp/listing
}

forget_cache() { sync && echo 3 >/proc/sys/vm/drop_caches; }
is_zero() { forget_cache && cmp -n $bytes $device /dev/zero; }
is_not_zero() { ! is_zero; }

fill_with_zeroes() {
    dd if=/dev/zero of=$device bs=4k
    grep -q 'No space left on device' /tmp/out && [ "$(blockdev --getsize64 $device)" = $bytes ]
}

fill_with_numbers() { numbers 10000000 $bytes | dd of=$device bs=1M iflag=fullblock conv=fsync; }

# The kernel's default limit is 1280 KiB in a request; its maximum is 32 MiB.
large_requests() { cat $queue/max_hw_sectors_kb >$queue/max_sectors_kb; }
fill_in_large_requests() { numbers 20000000 $bytes | dd of=$device bs=32M iflag=fullblock oflag=direct; }
read_in_large_requests() { dd if=$device bs=32M iflag=direct 2>/dev/null | sha256sum; }
writes_so_far() { read -r reads merged sectors ms writes rest </sys/block/nbd0/stat; echo "$writes"; }

punch_hole() { numbers 1 3000000 | dd of=$device bs=1M seek=5 conv=fsync && is_not_zero && fallocate -p -o 0 -l $bytes $device; }
sum_of_device() { forget_cache && head -c $bytes $device | sha256sum; }

# --- the server and the kernel's client ---

# The server's command line.
start_server() {
    case $2 in
    unix) where="--unix /run/nbd.sock" ;;
    tcp) where="--tcp 127.0.0.1:10809" ;;
    esac
    : >/tmp/server.out # removes the output of the previous server
    nbd-serve "mem:${mib}M" --name test --policy "$1" $where >/tmp/server.out 2>/tmp/server.err &
    server=$!
    until_true grep -q '^serving ' /tmp/server.out
}

stop_server() {
    kill -TERM $server && wait $server
}

attach() {
    case $1/$2 in
    per-client/unix) nbd-client -unix /run/nbd.sock $device -name test ;;         # configured over netlink
    pool/unix) nbd-client -unix /run/nbd.sock $device -name test -nonetlink ;;    # configured with ioctls
    */tcp) nbd-client 127.0.0.1 10809 $device -name test -connections 4 ;;        # several queues
    esac && until_true is_attached
}

is_attached() { [ "$(blockdev --getsize64 $device 2>/dev/null)" = $bytes ]; }
is_detached() { ! nbd-client -c $device && [ "$(cat /sys/block/nbd0/size)" = 0 ]; }
connections() { netstat -tn 2>/dev/null | grep -c '127.0.0.1:10809 *127.0.0.1:[0-9]* *ESTABLISHED'; }

complaints() {
    dmesg | grep -E 'I/O error|EXT4-fs (error|warning)|JBD2: .*rror|BUG:|WARNING:|Call Trace|nbd[0-9]+: .*(timed out|[Ww]rong|[Uu]nexpected|double reply)'
}

# The device must have the abilities that the server's flags advertise.
features() {
    [ "$(cat /sys/block/nbd0/ro)" = 0 ] || { echo "read-only"; return 1; }
    grep -q 'write back' $queue/write_cache || { echo "no flush"; return 1; }
    [ "$(cat $queue/fua)" = 1 ] || { echo "no FUA"; return 1; }
    [ "$(cat $queue/discard_max_bytes)" -gt 0 ] || { echo "no TRIM"; return 1; }
}

knows_write_zeroes() {
    IFS=.- read -r major minor rest </proc/sys/kernel/osrelease
    [ "$major" -gt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -ge 12 ]; }
}

one_round() {
    round=$1/$2
    echo "$round" >/tmp/round
    dmesg -c >/dev/null
    began=$(cut -d. -f1 /proc/uptime)

    start_server "$1" "$2" || not_ok "serve" "no 'serving' line"
    ok "serve"
    check "nbd-client attaches" attach "$1" "$2"
    check "features" features
    if knows_write_zeroes; then
        equal "WRITE_ZEROES is in use" yes "$([ "$(cat $queue/write_zeroes_max_bytes)" -gt 0 ] && echo yes)"
    fi
    if [ "$2" = tcp ]; then
        equal "four connections" 4 "$(connections)"
    fi
    check "fdisk -l" fdisk -l $device
    equal "fdisk sees the size" yes "$(grep -q " $bytes bytes" /tmp/out && echo yes)"
    check "dd fills the device with zeroes" fill_with_zeroes
    check "fill with numbers" fill_with_numbers
    equal "numbers read back" "$(numbers 10000000 $bytes | sha256sum)" "$(sum_of_device)"

    check "mkfs.ext4" mkfs.ext4 -F -L kernel-test $device
    check "mount" mount -t ext4 $device /mnt
    cd /mnt
    check "write a tree" write_tree
    cd /
    check "unmount" umount /mnt
    check "fsck" fsck.ext4 -fn $device
    forget_cache
    check "mount again" mount -t ext4 $device /mnt
    cd /mnt
    check "compare the tree" compare_tree
    check "delete and fstrim" trim_tree
    cd /
    check "unmount again" umount /mnt
    check "fsck after fstrim" fsck.ext4 -fn $device
    forget_cache
    check "mount read-only" mount -t ext4 -o ro $device /mnt
    cd /mnt
    check "compare what is left" compare_tree
    cd /
    check "unmount for the last time" umount /mnt

    check "not zero before blkdiscard" is_not_zero
    check "blkdiscard" blkdiscard -f $device
    check "zero after blkdiscard" is_zero
    check "large requests" large_requests
    before=$(writes_so_far)
    check "fill in large requests" fill_in_large_requests
    echo "# $mib MiB went in $(($(writes_so_far) - before)) requests"
    equal "numbers read back in large requests" "$(numbers 20000000 $bytes | sha256sum)" "$(read_in_large_requests)"
    check "not zero before blkdiscard -z" is_not_zero
    check "blkdiscard -z" blkdiscard -f -z $device
    check "zero after blkdiscard -z" is_zero

    if knows_write_zeroes; then
        check "fallocate punches a hole" punch_hole # WRITE_ZEROES without NO_HOLE
        check "zero after fallocate" is_zero
    fi

    check "nbd-client detaches" nbd-client -d $device
    check "detached" until_true is_detached
    check "server stops with status 0" stop_server
    complaints >/tmp/complaints
    equal "the kernel's log has no errors" "" "$(cat /tmp/complaints)"
    echo "# $round took $(($(cut -d. -f1 /proc/uptime) - began)) s"
}

# --- nbd::attach, which needs no client ---

# start_attached LINE COMMAND...: starts a server that prints a line LINE when its device is ready.
start_attached() {
    line=$1
    shift
    : >/tmp/server.out # removes the output of the previous server
    "$@" >/tmp/server.out 2>/tmp/server.err &
    server=$!
    until_true grep -q "^$line" /tmp/server.out
}

new_image() { rm -f /tmp/disk.img && truncate -s $bytes /tmp/disk.img; }
size_is() { [ "$(cat /sys/block/nbd0/size)" = $(($1 / 512)) ]; }

# From mkfs to fsck.
file_system() {
    mkfs.ext4 -F -q $device && mount -t ext4 $device /mnt && cd /mnt && write_tree && cd / && umount /mnt || return 1
    fsck.ext4 -fn $device && forget_cache && mount -t ext4 -o ro $device /mnt && cd /mnt && compare_tree && cd / && umount /mnt
}

# The image becomes larger; the next client that opens the export makes its size known.
grow() {
    truncate -s $((bytes * 3 / 2)) /tmp/disk.img && nbd-client -unix /run/nbd.sock /dev/nbd5 -name test &&
        nbd-client -d /dev/nbd5 && until_true size_is $((bytes * 3 / 2))
}

# Any free device, but not the one that is in use.
any_device() { [ "$(nbd-serve mem:1M --attach any --run 'echo $device')" = /dev/nbd1 ]; }
# A signal ends the wait for a device that is in use. It is sent when SIGTERM has a handler.
waits_until_it_is_stopped() {
    nbd-serve mem:1M --attach $device --attach-wait 100 2>/tmp/refused &
    waiting=$!
    until_true grep -q -E '^SigCgt:.*[4-7c-f][0-9a-f]{3}$' /proc/$waiting/status || return 1
    kill -TERM $waiting
    wait $waiting
    [ $? = 1 ] && grep -q -i 'operation canceled' /tmp/refused
}
is_refused() { ! nbd-serve mem:1M --attach $device 2>/tmp/refused && grep -q 'the device is in use' /tmp/refused; }

# Writes files to /mnt until it is told to end. Each is a part of numbers() that its number determines.
keep_writing() {
    turn=0
    until [ -e /tmp/enough ]; do
        turn=$((turn + 1))
        numbers $((turn * 1000)) 200000 >/mnt/file.$((turn % 40)) && sync || exit 1
        echo $turn >/tmp/turn
    done
}
in_flight() {
    read -r reads writes </sys/block/nbd0/inflight
    [ $((reads + writes)) -gt 0 ]
}
turns_since() { [ "$(cat /tmp/turn)" -gt $(($1 + 2)) ]; }
files_are_right() {
    last=$(cat /tmp/turn)
    turn=$((last > 40 ? last - 39 : 1))
    while [ $turn -le "$last" ]; do
        numbers $((turn * 1000)) 200000 | cmp - /mnt/file.$((turn % 40)) || return 1
        turn=$((turn + 1))
    done
}

serve_image() {
    start_attached attached nbd-serve file:/tmp/disk.img --attach $device --attach-connections 2 \
        --attach-timeout 2 --attach-dead-timeout 100
}

twenty_at_once() {
    all=
    for i in $(seq 20); do
        nbd-serve mem:4M --attach /dev/nbd$((i % 8)) --attach-wait 100 --run 'blockdev --getsize64 $device' >/tmp/twenty.$i 2>&1 &
        all="$all $!"
    done
    failed=0
    for one in $all; do
        wait "$one" || failed=$((failed + 1))
    done
    cat /tmp/twenty.*
    [ $failed = 0 ] && [ "$(cat /tmp/twenty.* | grep -c '^4194304$')" = 20 ]
}
none_is_attached() { [ "$(cat /sys/block/nbd[0-7]/size | sort -u)" = 0 ]; }

# Unlike complaints(): the kernel also says what it does about a server that was killed.
losses() { dmesg | grep -E 'I/O error|EXT4-fs (error|warning)|JBD2: .*rror|BUG:|WARNING:|Call Trace'; }

attach_round() {
    round=attach
    echo $round >/tmp/round
    dmesg -c >/dev/null

    check "block-device attaches" start_attached "$device is ready" block-device $device
    check "the device has its size" size_is 67108864
    equal "it flushes" "write back 1" "$(cat $queue/write_cache) $(cat $queue/fua)"
    check "a file system on it" file_system
    check "another server gets another device" any_device
    check "the device is in use" is_refused
    check "a signal ends the wait for a device" waits_until_it_is_stopped
    check "block-device ends with status 0" stop_server
    check "block-device has detached" is_detached

    check "make an image" new_image
    check "nbd-serve attaches" start_attached attached nbd-serve file:/tmp/disk.img --name test --unix /run/nbd.sock --attach $device
    check "a file system on the image" file_system
    check "mount" mount -t ext4 $device /mnt
    check "the image grows" grow
    check "resize2fs" resize2fs $device
    cd /mnt
    check "compare the tree" compare_tree
    cd /
    check "unmount" umount /mnt
    check "fsck" fsck.ext4 -fn $device
    check "nbd-serve ends with status 0" stop_server
    check "nbd-serve has detached" is_detached
    complaints >/tmp/complaints
    equal "the kernel's log has no errors" "" "$(cat /tmp/complaints)"

    check "make another image" new_image
    check "nbd-serve attaches again" serve_image
    check "mkfs.ext4" mkfs.ext4 -F -q $device
    check "mount the image" mount -t ext4 $device /mnt
    rm -f /tmp/enough
    echo 0 >/tmp/turn
    keep_writing >/tmp/writer.out 2>&1 &
    writer=$!
    for time in first second third; do
        check "files are written before the $time kill" until_true turns_since "$(cat /tmp/turn)"
        if [ $time != first ]; then
            kill -STOP $server
            check "requests are in flight at the $time kill" until_true in_flight
        fi
        kill -KILL $server
        wait $server
        check "the server is started after the $time kill" serve_image
    done
    check "files are written after the last kill" until_true turns_since "$(cat /tmp/turn)"
    touch /tmp/enough
    check "no write has failed" wait $writer
    forget_cache
    check "the files are right" files_are_right
    check "unmount the image" umount /mnt
    check "fsck after the kills" fsck.ext4 -fn $device
    check "the last server ends with status 0" stop_server
    check "the last server has detached" is_detached
    losses >/tmp/complaints
    equal "the kernel's log has no losses" "" "$(cat /tmp/complaints)"

    check "twenty at once" twenty_at_once
    check "no device is left" none_is_attached
}

# --- the run ---

echo machine >/tmp/round
watchdog &
echo "# Linux $(uname -r) on $(uname -m), $(nproc) processor(s), $(nbd-client --version 2>&1 | grep -o -m 1 '[0-9.]*$')"
ifconfig lo 127.0.0.1 up || not_ok "lo" "cannot be brought up"
for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || not_ok "insmod" "$module"
done
until_true test -b $device || not_ok "nbd" "no $device"

check "make a tree" make_tree
for pair in $(echo "${KT_ROUNDS:-per-client/unix}" | tr , ' '); do
    one_round "${pair%/*}" "${pair#*/}"
done

[ "${KT_ATTACH:-}" != yes ] || attach_round

echo "KERNEL-TEST PASSED $passed"
poweroff -f -n
