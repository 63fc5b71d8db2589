# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# Sourced by tests/run.sh and examples/quickstart.sh: installs missing Debian packages.

program=$(basename "$0")
say() { printf '== %s\n' "$*"; }
die() {
    printf '%s: %s\n' "$program" "$*" >&2
    exit 1
}

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # the folders of mke2fs, fdisk and nbd-client in Debian
export PATH

there() {
    case $1 in
        boost) # 1.81 or newer
            version=$(sed -n 's/^#define BOOST_VERSION //p' /usr/include/boost/version.hpp 2>/dev/null)
            [ "${version:-0}" -ge 108100 ]
            ;;
        */*) [ -e "$1" ] ;;
        *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Reads lines "PACKAGE SIGN". SIGN is a command or a file whose presence shows that the package is installed.
# The package `boost` stands for the system's package of Boost 1.81 or newer.
install_missing() {
    missing=$(while read -r package sign; do [ -z "$package" ] || there "$sign" || printf ' %s' "$package"; done)
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        say "this is not Debian: please install the equivalents of these Debian packages:$missing (boost: 1.81 or newer)"
        say "continuing without them"
        return 0
    fi
    [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null 2>&1 ||
        die "these packages are missing, and installing them needs root or sudo:$missing"
    say "installing the missing packages:$missing"
    as_root apt-get update -qq || die "apt-get update failed"
    # Debian 12's default Boost is too old, but it also has 1.81. Debian 13 has only a newer one.
    boost=libboost-dev
    if LC_ALL=C apt-cache policy libboost1.81-dev | grep -q 'Candidate: [0-9]'; then boost=libboost1.81-dev; fi
    missing=$(printf '%s\n' "$missing" | sed "s/ boost\>/ $boost/")
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends --no-remove $missing ||
        die "apt-get could not install$missing"
}

# As many jobs as processors, but no more than the memory allows: compiling a file with Asio takes about 1 GB.
# Uses Ninja if it is installed.
choose_build_tool() {
    jobs=$(nproc 2>/dev/null || echo 2)
    bearable=$(awk '/^MemAvailable:/ {print int($2 / 1000000)}' /proc/meminfo 2>/dev/null)
    if [ -n "$bearable" ] && [ "$bearable" -lt "$jobs" ]; then jobs=$((bearable > 1 ? bearable : 1)); fi
    export CMAKE_BUILD_PARALLEL_LEVEL="$jobs"
    if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null 2>&1; then export CMAKE_GENERATOR=Ninja; fi
}
