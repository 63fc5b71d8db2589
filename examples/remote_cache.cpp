// SPDX-License-Identifier: MIT
// A write-back cache in memory, over a disk in a remote store (remote_store.cpp). Clients share the
// cached blocks and the connections to the store.
//
//     remote-store FILE 9000
//     remote-cache 127.0.0.1:9000 SOCKET [threads | pool | context [MIB [SECONDS [GRACE]]]]
//
// MIB is the memory for blocks. SECONDS is how long the cache tries to reach the store again before
// a request fails. GRACE is how many seconds the server waits for the write-back when it stops.
//
// What is shared, and where it lives
// ----------------------------------
// Three things decide where code runs: who calls it, on which executor, and where it continues
// after a co_await.
//
//                              threads               pool                context
//                              (per_client_threads)  (strand_pool)       (on_executor<>)
//   the calls of one client    its own thread        a thread of the     the store's thread
//   begin on                                         pool
//   remote_disk: one object,   several threads at    several threads at  one thread
//   all clients call it on     once                  once
//   block_cache and            the store's thread    the store's thread  the store's thread
//   connection_pool
//
// So `remote_disk` must be safe to call from several threads, and what it shares must not be: the
// blocks, the connections and their timers belong to one io_context, which one thread runs. That is
// the store's executor. `nbd::on(store, task)` runs a task there and continues the caller where it
// was. No lock is needed: on one thread, other code can run only where a coroutine waits.
// With `context`, the io_context of the store serves the clients too. The same text works.
//
// A socket or timer that is made with a client's executor (boost::asio::this_coro::executor) would
// be that client's: with `threads`, its executor ends when the client leaves.
//
// Cancellation
// ------------
// remote_disk does not promise `cancellable`, so a call goes on to its end when its client has
// been killed. This is needed here: other clients may be waiting for the block that it loads, and
// half a message on a shared connection would break the connection for all. The end of a call does
// not need its client: it comes after `patience`, at the latest, when the store does not answer.
// `stop()` waits for it.
//
// What is lost when
// -----------------
// A block is dirty until the store has confirmed that it is on stable storage. Dirty blocks are not
// evicted. A flush that fails is an error for the client (EIO), and the blocks stay dirty for the
// next flush. `drain` writes back what no flush has covered, when the last client has left. Before
// that, such data are lost if this program is killed, as in the cache of any disk.
//
// With much dirty data and a slow store, this takes long: 1 GiB at 20 MB/s is 54 seconds, and
// settings.drain_grace is 30 seconds by default. After GRACE the server ends, with a line that says
// how much is not stored yet. Then main() stores the rest, and waits as long as the store answers.
#include "remote_block_cache.hpp"
#include <nbd/on.hpp>
#include <nbd/server.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_future.hpp>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

namespace asio = boost::asio;
using remote::block_cache;
using remote::task;

/// The backend. Its members begin on the executor of the client that calls, and continue on the
/// store's. The span of a call is valid until the call completes, so the store's thread may use it.
class remote_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool multi_conn = true;   // a flush stores the writes of all clients
    static constexpr bool fills_reads = true;  // read fills the whole span, or fails

    explicit remote_disk(block_cache& shared) : shared_{&shared}, size_{shared.size()} {}

    [[nodiscard]] std::uint64_t size() const { return size_; }
    task<std::error_code> read(std::uint64_t offset, std::span<std::byte> to)
    {
        return nbd::on(shared_->get_executor(), shared_->read(offset, to));
    }
    task<std::error_code> write(std::uint64_t offset, std::span<const std::byte> from)
    {
        return nbd::on(shared_->get_executor(), shared_->write(offset, from));
    }
    /// The server calls it for FLUSH, and after the write of a request with FUA.
    task<std::error_code> flush()
    {
        return nbd::on(shared_->get_executor(), shared_->write_back());
    }
    /// The server calls it when the last client has left, and when it stops.
    task<std::error_code> drain(nbd::drain_reason) { return flush(); }

private:
    block_cache* shared_;
    std::uint64_t size_;
};
static_assert(nbd::offers<remote_disk, nbd::can::write, nbd::can::flush, nbd::can::drain,
                          nbd::can::parallel, nbd::can::multi_conn, nbd::can::fills_reads>);

/// Says how much is not stored when a `drain` has failed, or takes longer than GRACE. It is called
/// on threads of the server, so it asks the cache on the store's.
struct drain_log {
    block_cache* cache;

    void at_drain_error(std::string_view, nbd::drain_reason, const nbd::failure& why)
    {
        asio::post(cache->get_executor(), [cache = cache, text = why.message()] {
            std::cerr << "remote-cache: drain: " << text << "; " << cache->dirty_bytes()
                      << " bytes are not stored" << std::endl;
        });
    }
};

/// The store's executor: an io_context, and the one thread that runs it.
struct store_thread {
    asio::io_context io{1};
    asio::executor_work_guard<remote::executor> work{io.get_executor()};
    std::thread thread{[this] { io.run(); }};

    ~store_thread()
    {
        io.stop();
        thread.join();
    }
    /// Runs a task there and waits for it. Not for that thread.
    std::error_code run(task<std::error_code> what)
    {
        return asio::co_spawn(io, std::move(what), asio::use_future).get();
    }
};

std::chrono::milliseconds milliseconds(const std::string& seconds)
{
    return std::chrono::milliseconds{static_cast<std::int64_t>(std::stod(seconds) * 1000)};
}

template <class Policy>
void serve(Policy policy, const nbd::unix_transport::settings& listen, const nbd::settings& limits,
           block_cache& cache, asio::signal_set& signals)
{
    nbd::server<nbd::unix_transport, remote_disk, Policy, drain_log> server{
        listen, limits, std::move(policy), drain_log{&cache}};
    server.exports().add("disk", remote_disk{cache});
    server.start();
    const auto signal = signals.async_wait(asio::use_future);
    std::cout << "serving " << server.uri("disk") << std::endl;
    signal.wait();
    server.stop();  // on the store's thread it would wait for calls that need this thread
    server.wait();
}

}  // namespace

int main(int argc, char** argv)
try {
    const std::vector<std::string> arguments(argv, argv + argc);
    const auto colon = argc < 3 ? std::string::npos : arguments[1].rfind(':');
    if (argc > 7 || colon == std::string::npos) {
        std::cerr << "usage: remote-cache HOST:PORT SOCKET [threads | pool | context [MIB "
                     "[SECONDS [GRACE]]]]\n";
        return 2;
    }
    const nbd::unix_transport::settings listen{.path = arguments[2]};
    const auto policy = argc > 3 ? arguments[3] : "pool";
    const auto mib = argc > 4 ? std::stoul(arguments[4]) : 64;
    const auto patience = milliseconds(argc > 5 ? arguments[5] : "5");
    nbd::settings limits;
    limits.drain_grace = milliseconds(argc > 6 ? arguments[6] : "30");

    store_thread store;
    asio::signal_set signals{store.io, SIGINT, SIGTERM};
    remote::store_options options{.patience = patience};
    asio::ip::tcp::resolver resolver{store.io};
    for (const auto& found :
         resolver.resolve(arguments[1].substr(0, colon), arguments[1].substr(colon + 1)))
        options.address.push_back(found);
    block_cache cache{store.io.get_executor(), std::move(options),
                      (mib << 20) / block_cache::block_size};
    if (const auto error = store.run(cache.connect()))
        throw std::system_error{error, arguments[1]};

    if (policy == "threads") {
        serve<nbd::per_client_threads>({}, listen, limits, cache, signals);
    } else if (policy == "pool") {
        serve<nbd::strand_pool>({}, listen, limits, cache, signals);
    } else {
        serve<nbd::on_executor<>>(nbd::on_executor<>{store.io}, listen, limits, cache, signals);
    }
    // Something is left if `drain` has failed.
    if (const auto error = store.run(cache.write_back()))
        throw std::system_error{error, "some data were not written back"};
} catch (const std::exception& e) {
    std::cerr << "remote-cache: " << e.what() << '\n';
    return 1;
}
