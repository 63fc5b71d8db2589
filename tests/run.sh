#!/bin/sh
# SPDX-License-Identifier: MIT
set -u

usage="sh tests/run.sh [--preset NAME]... [--with ceph] [--no-install] [-- CTEST-ARGUMENTS]

Installs missing packages (on Debian and its derivatives), builds the project and runs its tests. Can be run repeatedly.

  --preset NAME   dev (the default), unsanitized, release, asan, tsan or clang; also NBD_PRESETS=\"dev asan\"
  --with ceph     also install Ceph, and test rbd_backend with a cluster on this machine; takes minutes more. Tests of
                  Ceph are skipped if it cannot be installed
  --no-install    never call the package manager
  --              passes the following arguments to ctest, for example: sh tests/run.sh -- -L unit"

here=$(cd "$(dirname "$0")/.." && pwd) || exit 1
. "$here/tests/packages.sh"
cd "$here" || die "cannot enter $here"

presets=
ceph=OFF
install=yes
while [ $# -gt 0 ]; do
    case $1 in
        --preset)
            [ $# -gt 1 ] || die "--preset needs a name"
            presets="$presets $2"
            shift 2
            ;;
        --with)
            [ "${2:-}" = ceph ] || die "--with needs 'ceph'"
            ceph=ON
            shift 2
            ;;
        --no-install) install=no && shift ;;
        --) shift && break ;;
        -h | --help) echo "$usage" && exit 0 ;;
        *) die "unknown argument '$1' (try --help)" ;;
    esac
done
presets=${presets:-${NBD_PRESETS:-dev}}

# What the tests need: a Debian package, and a command or a file whose presence shows that it is installed.
# nbdinfo calls `file` and prints uninitialised memory where there is none.
clang=
case " $presets " in
    *" asan "* | *" tsan "* | *" clang "*)
        clang="clang            clang++
libclang-rt-dev  /usr/share/doc/libclang-rt-dev"
        ;;
esac
[ $install = no ] || install_missing <<END
g++              c++
cmake            cmake
ninja-build      ninja
ccache           ccache
binutils         nm
python3          python3
boost            boost
catch2           /usr/include/catch2
libbenchmark-dev /usr/include/benchmark
libcli11-dev     /usr/include/CLI
liburing-dev     /usr/include/liburing.h
libssl-dev       /usr/include/openssl/ssl.h
libnl-genl-3-dev /usr/include/libnl3/netlink/genl/genl.h
openssl          openssl
libnbd-bin       nbdinfo
file             file
python3-libnbd   /usr/lib/python3/dist-packages/nbd.py
qemu-utils       qemu-img
fio              fio
nbd-client       nbd-client
e2fsprogs        mke2fs
fdisk            fdisk
cpio             cpio
strace           strace
$clang
END
# In a shell of its own: without Ceph, its tests are skipped.
[ $install = no ] || [ $ceph = OFF ] || (install_missing) <<'END'
ceph-mon          ceph-mon
ceph-osd          ceph-osd
ceph-mgr          ceph-mgr
ceph-common       rbd
librbd-dev        /usr/include/rbd/librbd.h
END
command -v cmake >/dev/null 2>&1 || die "cmake is missing (3.25 or newer)"
choose_build_tool

# ctest does not print why a test was skipped, and its report of a failure is far from the end of a long log.
sum_up() {
    python3 - "$1" <<'END'
import re
import sys
import xml.etree.ElementTree as xml


def what_failed(case):
    """The lines of a failed test's output that say why, each with a few around it; else its last lines."""
    lines = (case.findtext("system-out") or "").strip().splitlines()
    signs = re.compile(r"FAILED|FAIL |Sanitizer|runtime error|Timeout|Traceback|terminate called|Assertion|error:")
    chosen = {near for at, line in enumerate(lines) if signs.search(line) for near in range(at - 6, at + 9)}
    chosen = sorted(at for at in chosen if 0 <= at < len(lines))[:40] or range(len(lines))[-20:]
    return [lines[at][:200] for at in chosen]


cases = xml.parse(sys.argv[1]).getroot().findall("testcase")
skipped = [case for case in cases if case.find("skipped") is not None]
failed = [case for case in cases if case.find("failure") is not None]
print(f"== {len(cases)} tests: {len(cases) - len(skipped) - len(failed)} passed, "
      f"{len(failed)} failed, {len(skipped)} skipped")
for case in failed:
    print(f"   FAILED {case.get('name')}")
    for line in what_failed(case):
        print(f"      {line}")
for case in skipped:
    lines = (case.findtext("system-out") or "").strip().splitlines() or ["no reason given"]
    reason = next((line for line in lines if "skip" in line.lower()), lines[-1])
    print(f"   {case.get('name')}: {reason.strip()}")
END
}

failed=
for preset in $presets; do
    started=$(date +%s)
    log=$(mktemp) || die "cannot make a temporary file"
    say "$preset: configuring build/$preset"
    cmake --preset "$preset" -D NBD_CEPH_TESTS=$ceph >"$log" 2>&1 || {
        cat "$log"
        rm -f "$log"
        die "cmake could not configure the preset '$preset'"
    }
    grep 'left out' "$log"
    rm -f "$log"

    # ThreadSanitizer needs fixed address ranges, which a kernel with strong address randomisation may occupy.
    plainly=
    if [ "$preset" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then plainly="setarch $(uname -m) -R"; fi

    say "$preset: building with $jobs jobs"
    $plainly cmake --build --preset "$preset" || die "the preset '$preset' does not build"

    say "$preset: testing (built in $(($(date +%s) - started)) s)"
    results=$here/build/$preset/junit.xml
    verdict=passed
    rm -f "$results" "$here/build/$preset/summary.txt"
    $plainly ctest --preset "$preset" --output-junit "$results" "$@" || verdict=FAILED
    [ ! -e "$results" ] || sum_up "$results" | tee "$here/build/$preset/summary.txt"
    say "$preset: $verdict after $(($(date +%s) - started)) s"
    [ $verdict = passed ] || failed="$failed $preset"
done
[ -z "$failed" ] || die "tests have failed, with these presets:$failed"
