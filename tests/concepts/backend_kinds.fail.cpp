// SPDX-License-Identifier: MIT
// Backends that mix kinds, or whose awaitables and callbacks are wrong.
// expect MIXED: nbd: either all members of a backend return boost::asio::awaitable, or none
// expect MIXED_BLOCKING_READ: nbd: either all members of a backend return boost::asio::awaitable, or none
// expect CALLBACKS_AND_FLUSH: nbd: either all members of a backend return boost::asio::awaitable, or none
// expect CALLBACKS_WITHOUT_ASYNC_READ: nbd: either all members of a backend return boost::asio::awaitable, or none
// expect OF_ANOTHER_EXECUTOR: nbd: this backend's awaitable is of an executor that the policy's clients
// expect OPEN_OF_ANOTHER_EXECUTOR: nbd: this backend's awaitable is of an executor that the policy's clients
// expect OPEN_WITHOUT_PROMISE: nbd: an `open` that is awaited cannot hold the lock
// expect OPEN_ON_BLOCKING_THREADS: nbd: this backend's open is awaited and its other members are not
// expect RESIZE_OF_BLOCKING: nbd: a backend's resize can be awaited only if its other members are
// expect RESIZE_WITHOUT_PROMISE: nbd: a backend whose members are awaited can be resized at any time
// expect ASYNC_READ: nbd: this backend's async_read has the wrong shape; expected
// expect ASYNC_READ_WITH_A_FUNCTION: nbd: this backend's async_read has the wrong shape; expected
// expect ASYNC_RESIZE: nbd: a backend with callbacks has `resize`, `drain` and `open` without
// expect ASYNC_DRAIN: nbd: a backend with callbacks has `resize`, `drain` and `open` without
// expect ASYNC_WRITE: nbd: this backend's async_write has the wrong shape; expected
// expect ASYNC_FLUSH: nbd: this backend's async_flush has the wrong shape; expected
// expect ASYNC_TRIM: nbd: this backend's async_trim has the wrong shape; expected
// expect ASYNC_WRITE_ZEROES: nbd: this backend's async_write_zeroes has the wrong shape; expected
// expect ASYNC_CACHE: nbd: this backend's async_cache has the wrong shape; expected
// expect ASYNC_EXTENTS: nbd: this backend's async_extents has the wrong shape; expected
#include "concepts/sound_disks.hpp"
#include <nbd/server.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

using io_executor = boost::asio::io_context::executor_type;
using strand = boost::asio::strand<io_executor>;
template <class T, class Executor = io_executor>
using awaitable = boost::asio::awaitable<T, Executor>;

struct pooled {
    using policy = nbd::strand_pool;
};
struct awaited : pooled {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    u64 size() const { return 0; }
    awaitable<void> read(u64, to) { co_return; }
};
struct pooled_caller : pooled, caller {
    void async_write(u64, from, nbd::completion done) { done(); }
};
template <nbd::concurrency Promise>
struct state : pooled {
    static constexpr auto concurrency = Promise;
    u64 size() const { return 0; }
    void read(u64, to) {}
};
#if defined MIXED
struct disk : awaited {
    void flush() {}
};
#elif defined MIXED_BLOCKING_READ
struct disk : state<nbd::concurrency::parallel> {
    awaitable<void> extents(u64, u64, nbd::extent_list&) { co_return; }
};
#elif defined CALLBACKS_AND_FLUSH
struct disk : pooled_caller {
    void flush() {}
};
#elif defined CALLBACKS_WITHOUT_ASYNC_READ
struct disk : state<nbd::concurrency::parallel> {
    void async_write(u64, from, nbd::completion) {}
};
#elif defined OF_ANOTHER_EXECUTOR
struct disk : pooled {
    u64 size() const { return 0; }
    awaitable<void, strand> read(u64, to) { co_return; }
};
#elif defined OPEN_OF_ANOTHER_EXECUTOR
struct disk : pooled {
    using opened = state<nbd::concurrency::parallel>;
    awaitable<opened, strand> open(const nbd::client&) { co_return opened{}; }
};
#elif defined OPEN_WITHOUT_PROMISE
struct disk : pooled {
    using opened = state<nbd::concurrency::serialize_all>;
    awaitable<opened> open(const nbd::client&) { co_return opened{}; }
};
#elif defined OPEN_ON_BLOCKING_THREADS
struct disk {
    using policy = nbd::per_client_threads;
    using opened = state<nbd::concurrency::parallel>;
    awaitable<opened> open(const nbd::client&) { co_return opened{}; }
};
#elif defined RESIZE_OF_BLOCKING
struct disk : state<nbd::concurrency::parallel> {
    awaitable<void> resize(u64) { co_return; }
};
#elif defined RESIZE_WITHOUT_PROMISE
struct disk : pooled {
    u64 size() const { return 0; }
    awaitable<void> read(u64, to) { co_return; }
    void resize(u64) {}
};
#elif defined ASYNC_READ
struct disk : pooled {
    u64 size() const { return 0; }
    void async_read(u64, to) {}
};
#elif defined ASYNC_READ_WITH_A_FUNCTION
struct disk : pooled {
    u64 size() const { return 0; }
    void async_read(u64, to, std::function<void(std::error_code)>) {}
};
#elif defined ASYNC_RESIZE
struct disk : pooled_caller {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    void async_resize(u64, nbd::completion) {}
};
#elif defined ASYNC_DRAIN
struct disk : pooled_caller {
    void async_drain(nbd::drain_reason, nbd::completion) {}
};
#elif defined ASYNC_WRITE
struct disk : pooled {
    u64 size() const { return 0; }
    void async_read(u64, to, nbd::completion done) { done(); }
    void async_write(u64, to, nbd::completion) {}
};
#elif defined ASYNC_FLUSH
struct disk : pooled_caller {
    void async_flush() {}
};
#elif defined ASYNC_TRIM
struct disk : pooled_caller {
    void async_trim(u64, nbd::completion) {}
};
#elif defined ASYNC_WRITE_ZEROES
struct disk : pooled_caller {
    void async_write_zeroes(u64, u64, nbd::completion) {}
};
#elif defined ASYNC_CACHE
struct disk : pooled_caller {
    void async_cache(u64, u64) {}
};
#elif defined ASYNC_EXTENTS
struct disk : pooled_caller {
    void async_extents(u64, u64, nbd::completion) {}
};
#else
struct disk : awaited {
    awaitable<void> flush() { co_return; }
    awaitable<void> resize(u64) { co_return; }
};
void resize(nbd::export_set<disk>& set, const nbd::on_executor<strand>& on)
{
    set.async_resize(nbd::on_executor<strand>{on}.get_executor().get_inner_executor(), "disk", 512,
                     [](std::error_code) {});
}
nbd::on_executor<strand> policy_on(strand s)
{
    return nbd::on_executor<strand>{s};
}
#endif

int main()
{
    nbd::server<nbd::unix_transport, disk, disk::policy> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
