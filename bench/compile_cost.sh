#!/bin/sh
# SPDX-License-Identifier: MIT
set -u

usage="sh bench/compile_cost.sh [ROUNDS]

What including the library costs a user: the time to compile one file with one server, beside the time that the Asio
headers alone take which the library includes, at -O0 and at -O2; and the size of examples/minimal.cpp at -O2, stripped.
The files take turns; the table shows the median of ROUNDS (default 3) and the ratio to the Asio headers.
CXX chooses the compiler (default c++), CPPFLAGS say where Boost is, if it is not where compilers look.
Nothing else should run meanwhile."

case ${1-3} in
    *[!0-9]* | 0 | "") echo "$usage" && exit 2 ;;
    *) rounds=${1-3} ;;
esac
here=$(cd "$(dirname "$0")/.." && pwd) || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

die() {
    echo "compile_cost.sh: $*" >&2
    exit 1
}

CXX=${CXX:-c++}
export CCACHE_DISABLE=1 # a cached compilation cannot be measured
compile() {
    # shellcheck disable=SC2086 # lists of flags
    $CXX -std=c++20 -pthread ${CPPFLAGS-} -I "$here/include" "$@"
}
milliseconds() { echo $(($(date +%s%N) / 1000000)); }

echo '#include <nbd/server.hpp>' >"$work/header.cpp"
one_server() {
    cat <<END
#include <nbd/server.hpp>
int main()
{
    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::$1> server{{.path = "/tmp/nbd.sock"}};
    server.exports().add("disk", nbd::mem_backend{1 << 20});
    server.run();
}
END
}
one_server per_client_threads >"$work/per_client.cpp"
one_server strand_pool >"$work/pool.cpp"
# The Asio headers that server.hpp includes, directly or through other headers of the library.
compile -MM "$work/header.cpp" | tr ' ' '\n' | grep -F "$here/include/nbd/" >"$work/headers" ||
    die "the compiler does not find the library's headers"
xargs sed -n 's|^#include \(<boost/asio[^>]*>\).*|#include \1|p' <"$work/headers" | sort -u >"$work/asio.cpp"
[ -s "$work/asio.cpp" ] || die "the library includes nothing of Asio"
# A program with an acceptor, a timer and a socket, written with Asio alone.
cat "$work/asio.cpp" - >"$work/asio_used.cpp" <<'END'
#include <boost/asio/buffer.hpp>
#include <chrono>
#include <cstddef>
#include <utility>
int main()
{
    namespace asio = boost::asio;
    using executor = asio::io_context::executor_type;
    using socket = asio::basic_stream_socket<asio::local::stream_protocol, executor>;
    using clock = std::chrono::steady_clock;
    asio::io_context context{1};
    asio::basic_socket_acceptor<asio::local::stream_protocol, executor> acceptor{
        context.get_executor(), asio::local::stream_protocol::endpoint{"/tmp/asio.sock"}};
    asio::basic_waitable_timer<clock, asio::wait_traits<clock>, executor> timer{context.get_executor()};
    timer.expires_after(std::chrono::seconds{1});
    timer.async_wait([](const boost::system::error_code&) {});
    acceptor.async_accept(context.get_executor(), [](const boost::system::error_code& error, socket client) {
        std::byte bytes[64];
        while (!error)
            client.write_some(asio::buffer(bytes, client.read_some(asio::buffer(bytes))));
    });
    asio::post(context, [&] { acceptor.close(); });
    context.run();
}
END

files="asio asio_used header per_client pool"
for round in $(seq "$rounds"); do
    for level in 0 2; do
        for file in $files; do
            printf '\rround %s of %s: -O%s %-12s' "$round" "$rounds" "$level" "$file" >&2
            begin=$(milliseconds)
            compile -O"$level" -c "$work/$file.cpp" -o "$work/$file.o" || die "$file.cpp does not compile"
            echo $(($(milliseconds) - begin)) >>"$work/$file.O$level"
        done
    done
done
printf '\r%50s\r' '' >&2

median() { sort -n "$1" | awk '{all[NR] = $1} END {print (all[int((NR + 1) / 2)] + all[int(NR / 2) + 1]) / 2}'; }
asio0=$(median "$work/asio.O0")
asio2=$(median "$work/asio.O2")
row() { # FILE TEXT
    awk -v text="$2" -v t0="$(median "$work/$1.O0")" -v t2="$(median "$work/$1.O2")" -v a0="$asio0" -v a2="$asio2" \
        'BEGIN {printf "%-40s %8.2f %6.2f %8.2f %6.2f\n", text, t0 / 1000, t0 / a0, t2 / 1000, t2 / a2}'
}
$CXX --version | head -n 1
printf '%-40s %8s %6s %8s %6s\n' 'seconds to compile, ratio' '-O0' 'ratio' '-O2' 'ratio'
row asio "the $(wc -l <"$work/asio.cpp") Asio headers alone"
row asio_used 'and a bare accept loop with Asio'
row header 'nbd/server.hpp alone'
row per_client 'and a server with per_client_threads'
row pool 'and a server with strand_pool'

compile -O2 "$here/examples/minimal.cpp" -o "$work/minimal" || die "examples/minimal.cpp does not compile"
strip "$work/minimal" || die "strip failed"
printf '\n%-40s %8s KiB\n' 'examples/minimal at -O2, stripped' $(($(wc -c <"$work/minimal") / 1024))
