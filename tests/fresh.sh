#!/bin/sh
# SPDX-License-Identifier: MIT
set -u

usage="sh tests/fresh.sh [OPTION]... bookworm|trixie [COMMAND]

Installs a minimal Debian into a temporary folder, clones the current commit into it and runs both commands of README.md
there: sh examples/quickstart.sh, sh tests/run.sh. Prints the time of each. Needs root, debootstrap, git and the network.
COMMAND, if given, runs instead of the two. The exit status is 0 if every command succeeded, 1 if one failed, 2 for a
wrong argument.

  --mirror URL   the Debian mirror; default: the mirror that this system's apt uses, else http://deb.debian.org/debian
  --ccache DIR   compile with ccache, which keeps its files in DIR
  --folder DIR   where the temporary folder is made; default: TMPDIR, else /tmp
  --keep         do not remove the temporary folder"

program=$(basename "$0")
say() { printf '== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "$program" "$*" >&2
    exit "${status:-1}"
}

# --- in the private mount and process namespace ---

# Replaces the shell by a command in the project's folder of the new system.
enter() {
    exec chroot "$NBD_FRESH_TREE" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        ${no_proxy:+no_proxy="$no_proxy"} ${NBD_FRESH_CCACHE:+CCACHE_DIR=/root/ccache} CCACHE_BASEDIR=/root/nbd \
        CCACHE_NOHASHDIR=1 sh -c "cd /root/nbd && $1"
}
in_tree() (enter "$1")

# The command waits for Ctrl-C when the server is up. Here SIGTERM ends it.
quickstart() {
    output=$NBD_FRESH_TREE/../quickstart.out
    enter 'exec sh examples/quickstart.sh' >"$output" 2>&1 &
    started=$!
    tail -n +1 -f --pid=$started "$output" &
    while kill -0 $started 2>/dev/null && ! grep -q '^Ctrl-C ends it' "$output"; do sleep 1; done
    kill -s TERM $started 2>/dev/null
    wait $started && grep -q '^Ctrl-C ends it' "$output"
}

timed() {
    name=$1
    shift
    begin=$(date +%s)
    say "$NBD_FRESH_SUITE: $name"
    if "$@" </dev/null; then outcome=passed; else outcome=FAILED && failed=1; fi
    summary="$summary
== $NBD_FRESH_SUITE: $outcome after $(($(date +%s) - begin)) s: $name"
}

inside() {
    tree=$NBD_FRESH_TREE
    begin=$(date +%s)
    include=
    case $NBD_FRESH_MIRROR in https:*) include=--include=ca-certificates ;; esac # the minimal system cannot use https
    debootstrap --variant=minbase $include "$NBD_FRESH_SUITE" "$tree" "$NBD_FRESH_MIRROR" >"$tree/../debootstrap.out" 2>&1 || {
        tail -n 20 "$tree/../debootstrap.out" >&2
        die "debootstrap failed"
    }
    # How this system's apt reaches the network: proxies, and settings for a mirror of an earlier day.
    if command -v apt-config >/dev/null 2>&1; then
        apt-config dump Acquire | grep -E '^Acquire::(https?|Check-|Retries|Force)' >"$tree/etc/apt/apt.conf.d/90host"
    fi
    cp /etc/hosts "$tree/etc/hosts"
    mount -t proc proc "$tree/proc" && mount --rbind /sys "$tree/sys" && mount --rbind /dev "$tree/dev" &&
        mount -t tmpfs -o mode=1777 tmpfs "$tree/dev/shm" || die "cannot mount proc, sys and dev"
    git clone -q "$here" "$tree/root/nbd" || die "cannot clone $here"
    if [ -n "$NBD_FRESH_CCACHE" ]; then
        mkdir -p "$NBD_FRESH_CCACHE" "$tree/root/ccache" && mount --bind "$NBD_FRESH_CCACHE" "$tree/root/ccache" ||
            die "cannot mount $NBD_FRESH_CCACHE"
    fi
    say "$NBD_FRESH_SUITE: $(in_tree "sed -n 's/^PRETTY_NAME=//p' /etc/os-release"), installed in $(($(date +%s) - begin)) s"

    failed=0
    summary=
    if [ $# -gt 0 ]; then
        timed "$1" in_tree "$1"
    else
        timed "sh examples/quickstart.sh" quickstart
        timed "sh tests/run.sh" in_tree "sh tests/run.sh"
    fi
    echo "$summary"
    exit $failed
}

here=$(cd "$(dirname "$0")/.." && pwd) || exit 1
if [ -n "${NBD_FRESH_TREE:-}" ]; then inside "$@"; fi

# --- outside ---

status=2
NBD_FRESH_MIRROR=
NBD_FRESH_CCACHE=
folder=${TMPDIR:-/tmp}
keep=no
while [ $# -gt 0 ]; do
    case $1 in
        --mirror | --ccache | --folder)
            [ $# -gt 1 ] || die "$1 needs a value"
            case $1 in
                --mirror) NBD_FRESH_MIRROR=$2 ;;
                --ccache) NBD_FRESH_CCACHE=$(realpath -m "$2") ;;
                --folder) folder=$2 ;;
            esac
            shift 2
            ;;
        --keep) keep=yes && shift ;;
        -h | --help) echo "$usage" && exit 0 ;;
        -*) die "unknown option '$1' (try --help)" ;;
        *) break ;;
    esac
done
[ $# -ge 1 ] && [ $# -le 2 ] || die "expected a suite, bookworm or trixie, and at most one command (try --help)"
NBD_FRESH_SUITE=$1
shift
status=1

[ "$(id -u)" -eq 0 ] || die "must be run by root"
for tool in debootstrap git unshare; do
    command -v $tool >/dev/null 2>&1 || die "$tool is missing (Debian's packages: debootstrap, git, util-linux)"
done
if [ -z "$NBD_FRESH_MIRROR" ] && command -v apt-get >/dev/null 2>&1; then
    NBD_FRESH_MIRROR=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 '/debian/$')
fi
NBD_FRESH_MIRROR=${NBD_FRESH_MIRROR:-http://deb.debian.org/debian}
[ -z "$(git -C "$here" status --porcelain 2>/dev/null)" ] || say "the tested commit does not hold the changes of the working tree"

folder=$(mktemp -d "$folder/nbd-fresh.XXXXXX") && folder=$(realpath "$folder") && NBD_FRESH_TREE=$folder/tree &&
    mkdir "$NBD_FRESH_TREE" && chmod 755 "$folder" || die "cannot make a temporary folder"
export NBD_FRESH_TREE NBD_FRESH_SUITE NBD_FRESH_MIRROR NBD_FRESH_CCACHE

namespace=
finish() {
    # unshare ignores SIGTERM. When it is killed, the kernel kills every process of the namespace; its mounts go with them.
    if [ -n "$namespace" ]; then
        kill -s KILL "$namespace" 2>/dev/null
        wait "$namespace" 2>/dev/null
    fi
    if [ $keep = yes ]; then
        say "kept: $folder"
    else
        # A process of the namespace may still be ending.
        for _ in 1 2 3; do rm -rf --one-file-system "$folder" 2>/dev/null && break || sleep 1; done
    fi
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

unshare --mount --propagation private --pid --fork --kill-child --mount-proc sh "$here/tests/fresh.sh" "$@" &
namespace=$!
wait $namespace
status=$?
namespace=
exit $status
