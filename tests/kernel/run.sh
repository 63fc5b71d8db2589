#!/bin/sh
# SPDX-License-Identifier: MIT
#
#   run.sh uml|qemu NBD-SERVE CACHE [BLOCK-DEVICE]
#
# Boots a small virtual machine, in which the Linux kernel's NBD client uses NBD-SERVE (see init.sh).
# With BLOCK-DEVICE, the example of that name, it also uses nbd::attach; NBD-SERVE must have --attach then.
# "uml" is Debian's user-mode-linux, a kernel that runs as an ordinary program. "qemu" emulates a usual Debian kernel.
# Missing tools come from Debian's packages. They are unpacked in the folder CACHE and kept there. Nothing is installed, and
# an ordinary user may run this.
#
# Uses a kernel of 6.12 or newer if there is one, because older ones do not send WRITE_ZEROES.
# NBD_KERNEL=system uses the kernel of the system's own release instead.
# NBD_KERNEL_ROUNDS=per-client/unix,pool/tcp limits the run to these pairs of policy and transport.
# Exit status: 0 passed, 1 failed, 2 wrong use, 77 cannot be run here.

set -u
export LC_ALL=C
export PATH="$PATH:/usr/sbin:/sbin"

[ $# -eq 3 ] || [ $# -eq 4 ] || { echo "usage: $0 uml|qemu NBD-SERVE CACHE [BLOCK-DEVICE]" >&2; exit 2; }
machine=$1
case $machine in
uml) seconds=600 memory=512 ;;
qemu) seconds=1200 memory=768 ;;
*) echo "$0: no such machine: $machine" >&2; exit 2 ;;
esac
[ -x "$2" ] || { echo "$0: no such program: $2" >&2; exit 2; }
serve=$2
block_device=${4:-}
[ -z "$block_device" ] || [ -x "$block_device" ] || { echo "$0: no such program: $block_device" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd) || exit 2
rounds=${NBD_KERNEL_ROUNDS:-per-client/unix,per-client/tcp,pool/unix,pool/tcp}
mkdir -p "$3" && cache=$(cd "$3" && pwd) || exit 2

say() { echo "# $*"; }
skip() { echo "SKIPPED: $*"; exit 77; }
fail() { echo "FAILED: $*"; exit 1; }

[ "$(uname -sm)" = "Linux x86_64" ] || skip "the kernel test needs Linux on x86_64"
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || skip "the kernel test takes its kernel from Debian's packages, and there is no apt-get here"# User-mode-linux gets paths on a command line without quotes.
case $cache in *[[:space:]]*) skip "the kernel test cannot work in a folder with a space in its name: $cache" ;; esac
# A sanitizer needs more address space than a process has there (512 GiB).
[ $machine != uml ] || ! grep -q -e __asan_init -e __tsan_init "$serve" || skip "user-mode-linux cannot run a server built with address or thread sanitizer"

work=$(mktemp -d "$cache/run.XXXXXX") || exit 2
vm=
end_machine() {
    kill -s KILL "$vm"
    # User-mode-linux makes a process group of its guest's processes; qemu does not.
    kill -s KILL -- "-$vm" 2>/dev/null
}
clean() {
    [ -z "$vm" ] || end_machine
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' HUP INT PIPE TERM

# --- packages ---

log=$cache/packages.log
first_new_suite=trixie # the first Debian whose kernel is new enough

# Configures apt with its own package lists in the folder $1, and with the system's keys and network settings.
private_apt() {
    rm -rf "$1" && mkdir -p "$1/etc/apt.conf.d" "$1/etc/preferences.d" "$1/lists/partial" "$1/archives/partial"
    {
        APT_CONFIG= apt-config dump Acquire
        cat <<END
Dir::Etc "$1/etc";
Dir::Etc::Trusted "/etc/apt/trusted.gpg";
Dir::Etc::TrustedParts "/etc/apt/trusted.gpg.d";
Dir::Etc::Netrc "/etc/apt/auth.conf";
Dir::Etc::NetrcParts "/etc/apt/auth.conf.d";
Dir::State "$1";
Dir::State::Lists "$1/lists";
Dir::State::Status "/var/lib/dpkg/status";
Dir::Cache "$1";
Dir::Cache::PkgCache "";
Dir::Cache::SrcPkgCache "";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
APT::Sandbox::User "root";
END
    } >"$1/apt.conf"
}

# The system's sources with new lists, for a system whose lists are missing or too old.
fresh_lists() {
    [ ! -e "$work/fresh" ] || return 1
    say "fetching package lists"
    private_apt "$work/fresh"
    for part in sources.list sources.list.d preferences preferences.d; do
        [ ! -e "/etc/apt/$part" ] || cp -r "/etc/apt/$part" "$work/fresh/etc"
    done
    export APT_CONFIG="$work/fresh/apt.conf"
    apt-get update
}

# as_of SUITE COMMAND...: runs the command with the package lists of another suite, from the mirror that the system uses.
as_of() (
    suite=$1
    shift
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Identifier: Packages' | sed -n "s/ $codename\$//p" | head -n 1)
    [ "$codename" ] && [ "$mirror" ] && [ -e $keys ] || exit 1
    private_apt "$work/$suite"
    echo "deb [signed-by=$keys] $mirror $suite main" >"$work/$suite/etc/sources.list"
    export APT_CONFIG="$work/$suite/apt.conf"
    apt-get update && "$@"
)

# These two download packages into the folder $1: the named ones only, or also their missing dependencies.
alone() (cd "$1" && shift && apt-get download -o APT::Sandbox::User=root "$@")
with_needs() {
    mkdir -p "$1/partial"
    archives=$1
    shift
    apt-get install --download-only --no-install-recommends -y -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Dir::Cache::Archives="$archives/" -o Dir::Cache::PkgCache= "$@"
}
or_fresh() { "$@" || { fresh_lists && "$@"; }; }

# unpack FOLDER PATTERN...: unpacks these paths of all packages in the folder.
unpack() (
    cd "$1" && shift || exit 1
    for package in *.deb; do
        # Not every pattern is in every package.
        dpkg-deb --fsys-tarfile "$package" | tar -x --wildcards "$@" 2>&1 | grep -v -e 'Not found in archive' -e 'due to previous errors'
        rm "$package"
    done
)

new_enough() { dpkg --compare-versions "$1" ge 6.12; }
version_of() { apt-cache show --no-all-versions "$1" | sed -n 's/^Version: //p' | head -n 1; }

# The package that a kernel's metapackage depends on, or the package itself.
real_package() {
    real=$(apt-cache depends --no-recommends --no-suggests "$1" | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    echo "${real:-$1}"
}

# kernel_alone FOLDER PACKAGE new|any [LIBRARIES]
kernel_alone() {
    [ "$3" = any ] || new_enough "$(version_of "$2")" || return 1
    alone "$1" "$(real_package "$2")" $4
}

# kernel FOLDER PACKAGE: the system's kernel if it is new enough, else one of a newer suite, else the system's.
kernel() {
    [ "$(version_of "$2")" ] || fresh_lists
    if [ "${NBD_KERNEL:-}" != system ]; then
        kernel_alone "$1" "$2" new "" && return
        # A user-mode kernel needs the C library of its own release.
        [ $machine = uml ] && libraries=libc6 || libraries=
        for suite in "$codename-backports" $first_new_suite; do
            as_of "$suite" kernel_alone "$1" "$2" new "$libraries" && return
        done
    fi
    or_fresh kernel_alone "$1" "$2" any ""
}

# fetched FOLDER COMMAND...: runs the command, which fills the folder, unless an earlier run has done so.
fetched() {
    folder=$cache/$1
    shift
    [ ! -e "$folder/complete" ] || return 0
    rm -rf "$folder" && mkdir -p "$folder"
    say "fetching $(basename "$folder")"
    if "$@" "$folder" >>"$log" 2>&1; then
        : >"$folder/complete"
    else
        tail -n 5 "$log"
        skip "the packages for $(basename "$folder") cannot be fetched"
    fi
}

fetch_uml() (
    kernel "$1" user-mode-linux && unpack "$1" '*/linux.uml' '*/nbd.ko*' '*/x86_64-linux-gnu/libc.so.6' '*/x86_64-linux-gnu/ld-linux-x86-64.so.2'
    cd "$1" && mv usr/bin/linux.uml . || exit 1
    if [ -e usr/lib/x86_64-linux-gnu/libc.so.6 ]; then
        mv usr/lib/x86_64-linux-gnu/* .
        # The program must start with its own dynamic linker. Calling that as a command would break the kernel's memory layout.
        sed -i 's|/lib64/ld-linux-x86-64.so.2|./ld-linux-x86-64.so.2\x00\x00\x00\x00\x00|' linux.uml
    fi
    find . -name nbd.ko | grep -q .
)

fetch_linux() {
    kernel "$1" linux-image-cloud-amd64 && unpack "$1" './boot/vmlinuz*' $(for module in $modules; do echo "*/$module.ko*"; done)
    find "$1" -name 'nbd.ko*' | grep -q . && mv "$1"/boot/vmlinuz* "$1/vmlinuz"
}

fetch_qemu() {
    or_fresh with_needs "$1" qemu-system-x86 && rm -f "$1"/libc6_* && unpack "$1" './usr/*' './lib/*' && [ -x "$1/usr/bin/qemu-system-x86_64" ]
}

fetch_busybox() {
    or_fresh alone "$1" busybox-static && unpack "$1" '*/bin/busybox' && find "$1" -path '*/bin/busybox' -exec mv {} "$1" \; && [ -x "$1/busybox" ]
}

fetch_tools() {
    or_fresh with_needs "$1" $missing && rm -f "$1"/libc6_* && unpack "$1" './*'
}

codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
: >"$log"
exec 9>"$cache/lock"
flock 9 # two runs may share the folder

fetched busybox fetch_busybox
busybox=$cache/busybox/busybox

missing=
command -v nbd-client >/dev/null || missing="$missing nbd-client"
command -v mkfs.ext4 >/dev/null || missing="$missing e2fsprogs"
command -v fdisk >/dev/null || missing="$missing fdisk"
tools=
if [ "$missing" ]; then
    name=tools$(echo "$missing" | tr ' ' .)
    fetched "$name" fetch_tools
    tools=$cache/$name
fi

if [ $machine = uml ]; then
    modules=nbd
    kernel=$cache/uml${NBD_KERNEL:+-$NBD_KERNEL}
    fetched "$(basename "$kernel")" fetch_uml
else
    modules="crc16 crc32c_generic libcrc32c mbcache jbd2 ext4 nbd" # in the order in which they are loaded
    kernel=$cache/linux${NBD_KERNEL:+-$NBD_KERNEL}
    fetched "$(basename "$kernel")" fetch_linux
    qemu=$(command -v qemu-system-x86_64) || {
        fetched qemu fetch_qemu
        qemu=$cache/qemu/usr/bin/qemu-system-x86_64
    }
fi
exec 9>&-

# --- the machine's file system ---

root=$work/root
mkdir -p "$root/bin" "$root/lib" "$root/lib64" "$root/modules"

libraries_below() { find "$1" -name '*.so.*' -printf '%h\n' | sort -u | tr '\n' ':'; }
tool_libraries=
[ -z "$tools" ] || tool_libraries=$(libraries_below "$tools")

# install_program NAME FILE: copies it with its libraries into the dynamic linker's default folder.
install_program() {
    cp -L "$2" "$root/bin/$1" || fail "cannot copy $2"
    needs=$(LD_LIBRARY_PATH="$tool_libraries${LD_LIBRARY_PATH:-}" ldd "$2" 2>/dev/null) || return 0 # linked statically
    case $needs in *'not found'*) fail "$1 lacks a library: $needs" ;; esac
    echo "$needs" | sed -n -e 's/.*=> \(\/[^ ]*\) .*/\1/p' -e 's/^[[:space:]]*\(\/[^ ]*\) .*/\1/p' | while read -r library; do
        case $library in
        */ld-linux*) cp -L "$library" "$root/lib64/" ;;
        *) cp -L "$library" "$root/lib/" ;;
        esac
    done
}

cp "$here/init.sh" "$root/init" && chmod 755 "$root/init"
cp "$busybox" "$root/bin/busybox"
install_program nbd-serve "$serve"
[ -z "$block_device" ] || install_program block-device "$block_device"
for name in sh nbd-client fdisk mkfs.ext4 fsck.ext4 blkdiscard blockdev cmp cp dd fallocate fstrim head resize2fs seq sha256sum; do
    file=$(command -v $name) || file=$(find "${tools:-$work}" -path "*bin/$name" | head -n 1)
    [ "$file" ] || fail "there is no $name"
    install_program $name "$file"
done
for module in $modules; do
    file=$(find "$kernel" -name "$module.ko" -o -name "$module.ko.xz")
    [ "$file" ] || continue # built in
    case $file in
    *.xz) "$busybox" unxz -c "$file" ;;
    *) cat "$file" ;;
    esac >"$root/modules/$module.ko"
    echo $module >>"$root/modules/order"
done
(cd "$root" && find . | "$busybox" cpio -o -H newc) >"$work/initrd" 2>/dev/null || fail "cannot write the initial file system"
rm -r "$root"

# --- the run ---

log=$cache/$machine.log
: >"$log"
arguments="quiet loglevel=1 panic=-1 KT_SECONDS=$seconds KT_MIB=64 KT_ROUNDS=$rounds KT_ATTACH=${block_device:+yes}"
limit=$((seconds + 30)) # init.sh's own watchdog should end it first, because it reports more
began=$(date +%s)

start_uml() {
    # Its memory is a file that must allow execution: in /dev/shm if possible, else on the disk.
    memory_folder=$work
    if ! grep -q ' /dev/shm [^ ]* [^ ]*noexec' /proc/mounts && [ -w /dev/shm ] && [ "$(df -Pm /dev/shm | awk 'END { print $4 }')" -gt $((memory + 64)) ]; then
        memory_folder=/dev/shm
    fi
    cd "$kernel" || exit 1
    [ ! -e libc.so.6 ] || own_libraries=LD_LIBRARY_PATH=$kernel
    exec env TMPDIR="$memory_folder" ${own_libraries:-} ./linux.uml mem=${memory}M initrd="$work/initrd" uml_dir="$work" con0=fd:0,fd:1 con=null ssl=null $arguments
}

start_qemu() {
    [ ! -e "$cache/qemu/usr" ] || libraries=$(libraries_below "$cache/qemu")
    data=$cache/qemu/usr/share
    exec env LD_LIBRARY_PATH="${libraries:-}" "$qemu" $([ ! -d "$data" ] || echo "-L $data/qemu -L $data/seabios") \
        -accel tcg -cpu max,-cx16 -smp 2 -m $memory -nodefaults -display none -no-reboot -serial stdio \
        -kernel "$kernel/vmlinuz" -initrd "$work/initrd" -append "console=ttyS0 $arguments"
}

say "starting $machine; its whole output will be in $log"
"start_$machine" </dev/null >"$log" 2>&1 &
vm=$!
# Prints the log until the machine has ended or its time is over. This runs in the background, because a shell handles
# signals only while it waits.
{
    timeout $limit tail -n +1 -s 0.3 -f --pid=$vm "$log"
    echo $? >"$work/shown"
} 2>/dev/null | tr -d '\r' &
wait $!
[ "$(cat "$work/shown")" != 124 ] || end_machine
wait $vm
status=$?
vm=

passed=$(grep -c '^ok ' "$log")
said=$(tr -d '\r' <"$log" | sed -n 's/^KERNEL-TEST PASSED //p')
say "$machine ended with status $status after $(($(date +%s) - began)) s, $passed steps passed"
if ! grep -q '^# Linux ' "$log" && grep -q -i -E 'ptrace|PROT_EXEC|not permitted' "$log"; then
    skip "this platform does not let $machine run: $(grep -m 1 -i -E 'ptrace|PROT_EXEC|not permitted' "$log")"
fi
grep -q '^not ok ' "$log" && fail "$(grep -m 1 '^not ok ' "$log" | tr -d '\r')"
[ "$said" ] || fail "the machine ended before its work did: $(grep -o 'Kernel panic.*' "$log" || tail -n 1 "$log")"
[ "$said" -eq "$passed" ] || fail "the machine counts $said steps, its output shows $passed"
for round in $(echo "$rounds" | tr , ' '); do
    grep -q "^ok $round: server stops with status 0 " "$log" || fail "the round $round is missing"
done
[ -z "$block_device" ] || grep -q '^ok attach: twenty at once ' "$log" || fail "the round of nbd::attach is missing"
echo "PASSED: $passed steps with $(sed -n 's/^# \(Linux [^ ]*\).*/\1/p' "$log")"
