// SPDX-License-Identifier: MIT
#include "descriptor_limit.hpp"
#include "growth.hpp"
#include <nbd/backend/null_backend.hpp>

#include <array>
#include <cerrno>
#include <system_error>

#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

/// Many clients of one export, or of an export for each.
namespace bench::growth {

namespace wire = nbd::protocol;

/// A disk that promises nothing: its calls take a lock.
class locked_disk {
public:
    explicit locked_disk(std::uint64_t size) noexcept : size_{size} {}
    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    std::error_code read(std::uint64_t, std::span<std::byte> to) noexcept
    {
        std::fill(to.begin(), to.end(), std::byte{0x5a});
        return {};
    }

private:
    std::uint64_t size_;
};

namespace {

constexpr std::size_t block = 4096;
constexpr std::uint64_t disk_bytes = std::uint64_t{1} << 30;

/// Connections with one request in flight on each, all driven by one thread.
class crowd {
public:
    crowd() : fd_{::epoll_create1(EPOLL_CLOEXEC)}
    {
        if (fd_ < 0)
            throw std::system_error{errno, std::system_category(), "epoll_create1"};
    }
    crowd(const crowd&) = delete;
    crowd& operator=(const crowd&) = delete;
    ~crowd() { ::close(fd_); }

    void add(raw_socket socket)
    {
        ::epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = members_.size();
        if (::epoll_ctl(fd_, EPOLL_CTL_ADD, socket.native_handle(), &event) != 0)
            throw std::system_error{errno, std::system_category(), "epoll_ctl"};
        members_.push_back({std::move(socket)});
    }
    /// Sends and receives until `requests` are answered: a request on each connection, and another
    /// for each reply.
    void run(std::size_t requests)
    {
        std::size_t sent = 0;
        for (auto& m : members_)
            sent += send(m, sent < requests);
        for (std::size_t answered = 0; answered < sent;) {
            const int n =
                ::epoll_wait(fd_, events_.data(), static_cast<int>(events_.size()), 20'000);
            if (n <= 0)
                throw std::runtime_error{"the server has neither sent nor received for 20 s"};
            for (int i = 0; i < n; ++i) {
                auto& m = members_[static_cast<std::size_t>(
                    events_[static_cast<std::size_t>(i)].data.u64)];
                if (!receive(m))
                    continue;
                ++answered;
                sent += send(m, sent < requests);
            }
        }
    }

private:
    struct member {
        raw_socket socket;
        std::size_t got = 0;  ///< bytes of the reply
    };

    std::size_t send(member& m, bool more)
    {
        if (!more)
            return 0;
        request_.clear();
        append_request(request_,
                       {.command = wire::command::read,
                        .offset = random_.below(disk_bytes / block) * block,
                        .length = block});
        m.socket.send(request_);
        return 1;
    }
    /// *Returns* whether the reply is complete.
    bool receive(member& m)
    {
        m.got += m.socket.receive_some(std::span{reply_}.subspan(m.got), patience::at_once);
        if (m.got < reply_.size())
            return false;
        m.got = 0;
        return true;
    }

    int fd_;
    std::vector<member> members_;
    std::array<::epoll_event, 64> events_{};
    std::vector<std::byte> request_;
    std::array<std::byte, wire::simple_reply_bytes + block> reply_{};
    numbers random_;
};

/// The descriptors that each client costs: its socket and the server's, and what a thread of the
/// server needs.
constexpr std::uint64_t descriptors_of_a_client = 6;

template <class Backend, class Policy>
figures load(std::uint64_t clients, const effort& e, bool shared)
{
    raise_descriptor_limit();
    ::rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < clients * descriptors_of_a_client + 100)
        throw left_out{"too few descriptors (ulimit -n)"};
    running<Backend, Policy> server;
    for (std::uint64_t i = 0; i < (shared ? 1 : clients); ++i)
        server.exports().add("disk-" + std::to_string(i), Backend{disk_bytes});
    crowd all;
    for (std::uint64_t i = 0; i < clients; ++i) {
        auto socket = server.connect();
        static_cast<void>(open_export(socket, "disk-" + std::to_string(shared ? 0 : i)));
        all.add(std::move(socket));
    }
    const auto requests = static_cast<std::size_t>(std::max<std::uint64_t>(4 * clients, 64));
    return server_cost(e, static_cast<double>(requests), [&] { all.run(requests); });
}

template <class Backend, class Policy, bool Shared>
figures load_of(std::uint64_t clients, const effort& e)
{
    return load<Backend, Policy>(clients, e, Shared);
}

template <class Backend, bool Shared>
void add_pair(std::vector<curve>& to, const std::string& name, const std::string& panel)
{
    const auto add_policy = [&]<class Policy>(std::type_identity<Policy>) {
        to.push_back({"clients/" + name + '-' + std::string{policy_name<Policy>},
                      panel,
                      policy_title<Policy>(),
                      "clients",
                      "µs",
                      {1, 16, 256, 1'000},
                      load_of<Backend, Policy, Shared>});
    };
    add_policy(std::type_identity<nbd::per_client_threads>{});
    add_policy(std::type_identity<nbd::strand_pool>{});
}

}  // namespace

void add_clients(std::vector<curve>& to)
{
    add_pair<nbd::null_backend, true>(to, "shared", "Clients of one export, CPU for each READ");
    add_pair<nbd::null_backend, false>(to, "own", "An export for each client, CPU for each READ");
    add_pair<locked_disk, true>(to, "locked", "Clients of one export with a lock, CPU");
}

}  // namespace bench::growth
