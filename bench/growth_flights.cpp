// SPDX-License-Identifier: MIT
#include "growth.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <memory>
#include <system_error>

/// Many requests in flight on one connection.
namespace bench::growth {

namespace wire = nbd::protocol;

/// A disk whose calls complete together, when `together` of them wait. For one client.
class gathering_disk {
public:
    using executor_type = boost::asio::io_context::executor_type;
    using awaited = boost::asio::awaitable<std::error_code, executor_type>;
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool fills_reads = true;
    /// So that calls which nobody completes end if the benchmark fails.
    static constexpr bool cancellable = true;

    explicit gathering_disk(std::uint64_t together) noexcept : together_{together} {}

    [[nodiscard]] std::uint64_t size() const noexcept { return std::uint64_t{1} << 30; }
    awaited read(std::uint64_t, std::span<std::byte> to)
    {
        std::ranges::fill(to, std::byte{0x5a});
        // One timer for all: a timer for each would cost the logarithm of their number.
        if (!gate_)
            gate_ = std::make_shared<timer>(co_await boost::asio::this_coro::executor,
                                            timer::time_point::max());
        if (++waiting_ == together_) {
            waiting_ = 0;
            std::exchange(gate_, nullptr)->cancel();
            co_return std::error_code{};
        }
        const auto here = gate_;
        co_await here->async_wait(token{});
        co_return std::error_code{};
    }

private:
    using clock = std::chrono::steady_clock;
    using timer =
        boost::asio::basic_waitable_timer<clock, boost::asio::wait_traits<clock>, executor_type>;
    using token = boost::asio::as_tuple_t<boost::asio::use_awaitable_t<executor_type>>;

    std::uint64_t together_;
    std::uint64_t waiting_ = 0;
    std::shared_ptr<timer> gate_;
};

namespace {

constexpr std::size_t block = 512;

template <class Policy>
figures flight(std::uint64_t depth, const effort& e)
{
    auto limits = without_limits();
    limits.requests_in_flight = static_cast<std::size_t>(depth);
    running<gathering_disk, Policy> server{limits};
    server.exports().emplace("disk", {}, depth);
    auto socket = server.connect();
    static_cast<void>(open_export(socket, "disk"));
    buffered in{socket};
    std::vector<std::byte> requests;
    for (std::uint64_t i = 0; i < depth; ++i)
        append_request(
            requests,
            {.command = wire::command::read, .cookie = i, .offset = i * block, .length = block});
    return server_cost(e, static_cast<double>(depth), [&] {
        exchange_simple(in, requests, static_cast<std::size_t>(depth), block);
    });
}

template <class Policy>
void add_policy(std::vector<curve>& to)
{
    to.push_back({"flight/" + std::string{policy_name<Policy>},
                  "512 byte READ of an awaited backend, CPU",
                  policy_title<Policy>(),
                  "requests in flight",
                  "µs",
                  {1, 4, 16, 64, 256, 1'024, 4'096, 16'384},
                  flight<Policy>});
}

}  // namespace

void add_flights(std::vector<curve>& to)
{
    add_policy<nbd::per_client_threads>(to);
    add_policy<nbd::strand_pool>(to);
}

}  // namespace bench::growth
