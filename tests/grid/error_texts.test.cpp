// SPDX-License-Identifier: MIT
// Which text of a backend's error reaches its client, in each loop.
#include "grid/chunk_client.hpp"
#include "grid/waiting.hpp"

#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace grid;
using style = proto::reply_style;
using executor = boost::asio::io_context::executor_type;

[[noreturn]] void fail_with_secret()
{
    throw std::runtime_error{"password=1234"};
}

/// READ throws, WRITE gives a text for clients, FLUSH an error code.
struct faulty_disk {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return 1 << 20; }
    void read(std::uint64_t, std::span<std::byte>) { fail_with_secret(); }
    nbd::failure write(std::uint64_t, std::span<const std::byte>)
    {
        return {std::make_error_code(std::errc::io_error), "sector 7 is bad"};
    }
    std::error_code flush() { return std::make_error_code(std::errc::read_only_file_system); }
};
struct faulty_blocking_disk : faulty_disk {
    static constexpr bool blocks = true;
};
struct faulty_awaited_disk {
    template <class T>
    using awaitable = boost::asio::awaitable<T, executor>;
    static constexpr auto concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return 1 << 20; }
    awaitable<void> read(std::uint64_t, std::span<std::byte>)
    {
        fail_with_secret();
        co_return;
    }
    awaitable<nbd::failure> write(std::uint64_t, std::span<const std::byte>)
    {
        co_return nbd::failure{std::make_error_code(std::errc::io_error), "sector 7 is bad"};
    }
    awaitable<std::error_code> flush()
    {
        co_return std::make_error_code(std::errc::read_only_file_system);
    }
};

struct heard_errors {
    std::mutex mutex;
    std::vector<std::string> texts;
};
struct error_listener {
    heard_errors* heard = nullptr;
    void at_error(const nbd::client&, const nbd::protocol::request&, const nbd::failure& why)
    {
        const std::lock_guard lock{heard->mutex};
        heard->texts.push_back(why.message());
    }
};

}  // namespace

TEMPLATE_TEST_CASE("the observer gets an exception's text, the client gets a failure's text", "",
                   (with<faulty_disk, nbd::per_client_threads>),
                   (with<faulty_blocking_disk, nbd::strand_pool>),
                   (with<faulty_awaited_disk, nbd::strand_pool>))
{
    const bool send = GENERATE(false, true);
    nbd::settings limits;
    limits.send_error_details = send;
    heard_errors heard;
    nbd::server<nbd::unix_transport, typename TestType::backend, typename TestType::policy,
                error_listener>
        server{somewhere<nbd::unix_transport>(), limits, {}, error_listener{&heard}};
    server.exports().emplace("disk", {});
    server.start();
    const auto read_only = std::make_error_code(std::errc::read_only_file_system).message();
    for (const auto s : {style::structured, style::extended}) {
        chunk_client client{server.local_endpoint(), s};
        client.go("disk");
        for (const std::uint64_t length : {512U, 512U << 10})
            CHECK(client.read(0, length).text() == (send ? "password=1234" : "input/output error"));
        const auto written = client.request(
            command::write, 0, 512,
            s == style::extended ? proto::command_flag::payload_len : std::uint16_t{0}, bytes(512));
        CHECK(written.text() == "sector 7 is bad");
        CHECK(client.request(command::flush, 0, 0).text()
              == (send ? read_only : "operation not permitted"));
    }
    server.stop();
    const std::vector<std::string> once{"password=1234", "password=1234", "sector 7 is bad",
                                        read_only};
    auto twice = once;
    twice.insert(twice.end(), once.begin(), once.end());
    CHECK(heard.texts == twice);
}
