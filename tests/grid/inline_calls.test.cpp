// SPDX-License-Identifier: MIT
// Calls that have completed before they return: no number of them may grow the stack.
#include "catch.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/server.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <system_error>
#include <tuple>

namespace asio = boost::asio;
using namespace grid;
using proto::error_value;

namespace {

using executor = asio::io_context::executor_type;

/// The lowest and the highest place on the stack at which one thread was called.
class stack_span {
public:
    void note()
    {
        const std::byte here{};
        const auto at = reinterpret_cast<std::uintptr_t>(&here);
        low_ = low_ == 0 ? at : std::min<std::uintptr_t>(low_, at);
        high_ = std::max<std::uintptr_t>(high_, at);
        ++calls_;
    }
    [[nodiscard]] std::size_t bytes() const { return high_ - low_; }
    [[nodiscard]] std::size_t calls() const { return calls_; }

private:
    std::atomic<std::uintptr_t> low_{0};
    std::atomic<std::uintptr_t> high_{0};
    std::atomic<std::size_t> calls_{0};
};

struct called_back {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    std::shared_ptr<stack_span> stack = std::make_shared<stack_span>();
    [[nodiscard]] std::uint64_t size() const { return 1 << 20; }
    void async_read(std::uint64_t, std::span<std::byte>, nbd::completion done)
    {
        stack->note();
        done(std::error_code{});
    }
};

struct awaited_at_once {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    std::shared_ptr<stack_span> stack = std::make_shared<stack_span>();
    [[nodiscard]] std::uint64_t size() const { return 1 << 20; }
    asio::awaitable<std::error_code, executor> read(std::uint64_t, std::span<std::byte>)
    {
        stack->note();
        co_return std::error_code{};
    }
};

template <class Policy, class Disk>
void read_often(std::size_t batches)
{
    constexpr std::uint64_t in_batch = 1000;
    const Disk disk;
    nbd::server<nbd::unix_transport, Disk, Policy> server{somewhere<nbd::unix_transport>()};
    server.exports().add("disk", disk);
    server.start();
    auto client = connect(server);
    client.go("disk");
    bytes batch;
    for (std::uint64_t i = 0; i < in_batch; ++i)
        raw_client::append(batch, {.cookie = i, .offset = i, .length = 1});
    bool all_right = true;
    for (std::size_t n = 0; n < batches; ++n) {
        client.send(batch);
        for (std::uint64_t i = 0; i < in_batch; ++i) {
            all_right = client.receive_reply().error == error_value::none && all_right;
            std::ignore = client.receive(1);
        }
    }
    CHECK(all_right);
    CHECK(disk.stack->calls() == batches * in_batch);
    CHECK(disk.stack->bytes() < 64 << 10);
}

}  // namespace

TEST_CASE("B09: 200,000 calls that complete at once do not grow the stack")
{
    read_often<nbd::per_client_threads, called_back>(50);
    read_often<nbd::strand_pool, called_back>(50);
    read_often<nbd::per_client_threads, awaited_at_once>(50);
    read_often<nbd::strand_pool, awaited_at_once>(50);
}
