#!/bin/sh
# SPDX-License-Identifier: MIT
set -u

usage="sh examples/quickstart.sh [--check]

Installs missing packages (on Debian and its derivatives), builds nbd-serve, serves a disk of 1 GB in memory on a UNIX
socket, and prints commands to try. Ctrl-C ends it. Can be run repeatedly.

  --check   read the disk once and stop, instead of waiting for Ctrl-C"

here=$(cd "$(dirname "$0")/.." && pwd) || exit 1
. "$here/tests/packages.sh"
cd "$here" || die "cannot enter $here"

check=no
case ${1-} in
    "") ;;
    --check) check=yes ;;
    -h | --help) echo "$usage" && exit 0 ;;
    *) die "unknown argument '$1' (try --help)" ;;
esac

builder="make make"
if command -v ninja >/dev/null 2>&1; then builder="ninja-build ninja"; fi
install_missing <<END
g++          c++
cmake        cmake
$builder
boost        boost
libcli11-dev /usr/include/CLI
liburing-dev /usr/include/liburing.h
libssl-dev   /usr/include/openssl/ssl.h
libnl-genl-3-dev /usr/include/libnl3/netlink/genl/genl.h
END
choose_build_tool

say "building nbd-serve in build/release"
if [ -e build/release/CMakeCache.txt ]; then
    cmake build/release >/dev/null || die "cmake could not configure"
else
    cmake --preset release -D NBD_BUILD_TESTS=OFF -D NBD_BUILD_BENCH=OFF >/dev/null || die "cmake could not configure"
fi
cmake --build build/release --target nbd-serve || die "nbd-serve does not build"

folder=$(mktemp -d "${TMPDIR:-/tmp}/nbd-quickstart.XXXXXX") || die "cannot make a folder for the socket"
socket=$folder/nbd.sock
server=
finish() {
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null
        wait "$server"
        status=$?
        server=
    fi
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 0' INT TERM

build/release/examples/nbd-serve mem:1G --unix "$socket" --name disk >"$folder/output" &
server=$!
uri=
tries=0
while [ -z "$uri" ]; do
    kill -0 "$server" 2>/dev/null || die "nbd-serve has ended"
    [ $tries -lt 100 ] || die "nbd-serve has not started within 10 seconds"
    sleep 0.1
    tries=$((tries + 1))
    uri=$(sed -n 's/^serving //p' "$folder/output")
done

cat <<END

Serving a disk of 1 GB in memory: $uri
Try, in another terminal:

  nbdinfo '$uri'
  nbdcopy some.img '$uri'          # copy an image in
  nbdcopy '$uri' copy.img          # and out
  qemu-img info '$uri'
  sudo modprobe nbd && sudo nbd-client -unix $socket /dev/nbd0 -name disk

(Debian's packages: libnbd-bin for nbdinfo and nbdcopy, qemu-utils, nbd-client)
END

if [ $check = yes ]; then
    if command -v nbdinfo >/dev/null 2>&1; then
        nbdinfo "$uri" || die "nbdinfo could not read the disk"
        say "checked: nbdinfo reads the disk"
    elif command -v nbdsh >/dev/null 2>&1; then
        nbdsh -u "$uri" -c 'assert h.pread(512, 0) == bytes(512)' || die "nbdsh could not read the disk"
        say "checked: nbdsh reads the disk"
    else
        say "not checked: neither nbdinfo nor nbdsh is installed"
    fi
    finish
    [ "$status" -eq 0 ] || die "nbd-serve ended with status $status"
    say "checked: nbd-serve stops cleanly"
    exit 0
fi
echo "Ctrl-C ends it."
wait "$server"
