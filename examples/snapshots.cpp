// SPDX-License-Identifier: MIT
// Ten thousand exports, none of which is added: each is looked up when a client asks for it.
//     snapshots SOCKET
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

/// A disk of 1 MiB whose bytes are the number of the snapshot.
class snapshot {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;

    explicit snapshot(unsigned number) : number_{number} {}
    [[nodiscard]] std::uint64_t size() const { return 1 << 20; }
    void read(std::uint64_t, std::span<std::byte> to)
    {
        std::fill(to.begin(), to.end(), static_cast<std::byte>(number_));
    }

private:
    unsigned number_;
};
static_assert(nbd::offers<snapshot, nbd::can::parallel>);

class snapshot_store {
public:
    static constexpr unsigned count = 10'000;

    /// *Returns* null if there is no snapshot of that name. *Thread safety*: any thread.
    [[nodiscard]] std::shared_ptr<snapshot> find(std::string_view name)
    {
        unsigned number = count;
        if (name.starts_with(prefix)) {
            const auto digits = name.substr(prefix.size());
            std::from_chars(digits.data(), digits.data() + digits.size(), number);
        }
        if (number >= count || name != name_of(number))
            return nullptr;
        // Clients of one snapshot share one object.
        const std::lock_guard lock{mutex_};
        auto& open = open_[number];
        auto shared = open.lock();
        if (!shared)
            open = shared = std::make_shared<snapshot>(number);
        return shared;
    }
    template <class F>
    void for_each_name(F f) const
    {
        for (unsigned n = 0; n < count; ++n)
            f(name_of(n));
    }

private:
    static constexpr std::string_view prefix = "snapshot-";
    [[nodiscard]] static std::string name_of(unsigned number)
    {
        return std::string{prefix} + std::to_string(number);
    }

    std::mutex mutex_;
    std::map<unsigned, std::weak_ptr<snapshot>> open_;
};

int main(int argc, char** argv)
try {
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};

    snapshot_store store;
    nbd::server<nbd::unix_transport, snapshot, nbd::strand_pool> server{
        {.path = argc > 1 ? argv[1] : "/tmp/nbd.sock"}};
    server.exports().on_lookup(
        [&](std::string_view name, const nbd::client&) { return store.find(name); });
    server.exports().on_list([&](nbd::name_list& to) {
        store.for_each_name([&](const std::string& name) { to.add(name); });
    });
    server.start();

    std::cout << "serving " << server.uri("snapshot-0") << std::endl;
    std::cout << "serving " << server.uri("snapshot-9999") << std::endl;
    signals.async_wait([](auto, int) {});
    program.run();
    server.stop();
} catch (const std::exception& e) {
    std::cerr << "snapshots: " << e.what() << '\n';
    return 1;
}
