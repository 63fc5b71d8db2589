// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/recording.hpp"
#include <nbd/export_set.hpp>

#include <chrono>
#include <future>
#include <limits>
#include <string>
#include <thread>

using namespace nbd::protocol::transmission_flag;
using Catch::Matchers::ContainsSubstring;
using std::string_literals::operator""s;

namespace {

/// So large, and tells when it ends.
struct disk {
    explicit disk(std::uint64_t size, int* alive = nullptr) : size_{size}, alive_{alive}
    {
        if (alive_ != nullptr)
            ++*alive_;
    }
    disk(disk&& other) noexcept : size_{other.size_}, alive_{std::exchange(other.alive_, nullptr)}
    {
    }
    ~disk()
    {
        if (alive_ != nullptr)
            --*alive_;
    }
    std::uint64_t size() const { return size_; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t, std::span<const std::byte>) {}
    std::uint64_t size_;
    int* alive_;
};
struct coarse_disk : disk {
    using disk::disk;
    nbd::block_sizes block_sizes() const { return {4096, 4096, 1 << 20}; }
};

const nbd::client somebody{.id = 1, .peer = "somebody"};

template <class B>
auto open(const nbd::export_set<B>& set, std::string_view name)
{
    std::error_code error;
    auto opened = set.open(name, somebody, error);
    CHECK(opened.has_value() == !error);
    return opened;
}
template <class B>
std::string opened_name(const nbd::export_set<B>& set, std::string_view name)
{
    auto opened = open(set, name);
    return opened ? std::string{opened->info().name} : "none";
}
using names = std::vector<std::string>;

}  // namespace

TEST_CASE("export_set: exports are added, named in order, opened and removed")
{
    nbd::export_set<disk> set;
    CHECK(set.names().empty());
    set.add("b", disk{20});
    set.add("a", disk{10});
    set.emplace("c", {}, std::uint64_t{30});
    CHECK(set.names() == names{"a", "b", "c"});
    CHECK(open(set, "a")->terms().size == 10);
    CHECK(open(set, "c")->terms().size == 30);
    CHECK(set.remove("b"));
    CHECK_FALSE(set.remove("b"));
    CHECK_FALSE(set.remove("nosuch"));
    CHECK(set.names() == names{"a", "c"});
    std::error_code error;
    CHECK_FALSE(set.open("b", somebody, error));
    CHECK(error == nbd::errc::unknown_export);
}

TEST_CASE("export_set: what a client is told of an export")
{
    nbd::export_set<disk> set;
    nbd::export_settings e;
    set.add("plain", disk{1024});
    e.description = "A text";
    e.read_only = true;
    e.rotational = true;
    e.blocks = nbd::block_sizes{512, 4096, 1 << 16};
    set.add("full", disk{1024}, e);

    const auto plain = open(set, "plain");
    CHECK(plain->info().description == "plain");
    CHECK(plain->terms().flags == (has_flags | send_write_zeroes));
    CHECK(plain->terms().blocks == nbd::block_sizes{});
    const auto full = open(set, "full");
    CHECK(full->info().description == "A text");
    CHECK(full->terms().flags == (has_flags | read_only | rotational));
    CHECK(full->terms().blocks == nbd::block_sizes{512, 4096, 1 << 16});
}

TEST_CASE("export_set: an export's block sizes go before the backend's")
{
    nbd::export_set<coarse_disk> set;
    set.add("own", coarse_disk{8192});
    nbd::export_settings e;
    e.blocks = nbd::block_sizes{1, 512, 1 << 20};
    set.add("set", coarse_disk{1}, e);
    CHECK(open(set, "own")->terms().blocks == nbd::block_sizes{4096, 4096, 1 << 20});
    CHECK(open(set, "set")->terms().blocks == nbd::block_sizes{1, 512, 1 << 20});
}

TEST_CASE("export_set: a wrong argument is refused by name, and the set stays as it was")
{
    nbd::export_set<disk> set;
    set.add("there", disk{1});
    const auto refused = [&](std::string name, std::uint64_t size, nbd::export_settings e,
                             const char* what) {
        CHECK_THROWS_AS(set.add(name, disk{size}, e), std::invalid_argument);
        CHECK_THROWS_WITH(set.add(name, disk{size}, e), ContainsSubstring(what));
        CHECK(set.names() == names{"there"});
    };
    refused("there", 1, {}, "\"there\"");
    refused("a\0b"s, 1, {}, "name");
    refused("\xff", 1, {}, "name");
    refused(std::string(4097, 'x'), 1, {}, "name");
    nbd::export_settings e;
    e.description = "\xc0\xaf";
    refused("new", 1, e, "description");
    e.description = std::string(4097, 'x');
    refused("new", 1, e, "description");
    refused("new", 1ULL << 63, {}, "size");
    refused("new", std::numeric_limits<std::uint64_t>::max(), {}, "size");
    e = {};
    e.blocks = nbd::block_sizes{3, 4096, 1 << 20};
    refused("new", 3, e, "block sizes");
    e.blocks = nbd::block_sizes{1, 4096, 4095};
    refused("new", 3, e, "block sizes");
    e.blocks = nbd::block_sizes{512, 4096, 1 << 20};
    refused("new", 513, e, "513");
    refused("new", 513, e, "minimum block size (512)");

    set.add("", disk{0});
    set.add(std::string(4096, 'x'), disk{(1ULL << 63) - 1});
    CHECK(set.names().size() == 3);
}

TEST_CASE("export_set: the empty name asks for the default, which is the first that was added")
{
    nbd::export_set<disk> set;
    CHECK(opened_name(set, "") == "none");
    set.add("b", disk{1});
    set.add("a", disk{1});
    CHECK(opened_name(set, "") == "b");
    set.set_default("a");
    CHECK(opened_name(set, "") == "a");
    set.set_default(std::nullopt);
    CHECK(opened_name(set, "") == "none");
    set.set_default("later");
    CHECK(opened_name(set, "") == "none");
    set.add("later", disk{1});
    CHECK(opened_name(set, "") == "later");
    set.remove("later");
    CHECK(opened_name(set, "") == "none");
    set.add("", disk{1});
    CHECK(opened_name(set, "") == "");
}

TEST_CASE("export_set: who wants no default gets none, also of exports that come later")
{
    nbd::export_set<disk> set;
    set.set_default(std::nullopt);
    set.add("a", disk{1});
    CHECK(opened_name(set, "") == "none");
}

TEST_CASE("export_set: an export named by the empty name goes before the default")
{
    nbd::export_set<disk> set;
    set.add("first", disk{1});
    set.add("", disk{2});
    CHECK(open(set, "")->terms().size == 2);
}

TEST_CASE("export_set: a backend lives until its removal and its last client (L07)")
{
    int alive = 0;
    nbd::export_set<disk> set;
    set.add("a", disk{10, &alive});
    {
        auto first = open(set, "a");
        auto second = open(set, "a");
        CHECK_FALSE(first->gone());
        set.remove("a");
        CHECK(first->gone());
        CHECK(second->gone());
        CHECK(alive == 1);
        // one of the same name is another
        set.add("a", disk{20});
        CHECK_FALSE(open(set, "a")->gone());
        CHECK(first->terms().size == 10);
        CHECK(open(set, "a")->terms().size == 20);
        first.reset();
        CHECK(alive == 1);
    }
    CHECK(alive == 0);
}

TEST_CASE("export_set: visiting stops at the limit")
{
    nbd::export_set<disk> set;
    for (const auto* const name : {"a", "b", "c"})
        set.add(name, disk{1});
    const auto visited = [&](std::size_t limit) {
        std::string all;
        set.visit(limit, [&](std::string_view name, std::string_view text) {
            all += std::string{name} + '=' + std::string{text} + ' ';
        });
        return all;
    };
    CHECK(visited(0).empty());
    CHECK(visited(2) == "a=a b=b ");
    CHECK(visited(100) == "a=a b=b c=c ");
}

// --- backends with open -----------------------------------------------------------------------

namespace {

struct hotel {
    struct room {
        room(int n, int& guests) : number{n}, guests_{&guests} { ++*guests_; }
        room(room&& other) noexcept
            : number{other.number}, guests_{std::exchange(other.guests_, nullptr)}
        {
        }
        room& operator=(room&&) = delete;
        ~room()
        {
            if (guests_ != nullptr)
                --*guests_;
        }
        std::uint64_t size() const { return static_cast<std::uint64_t>(number) * 512; }
        void read(std::uint64_t, std::span<std::byte>) {}
        void trim(std::uint64_t, std::uint64_t) {}
        void write(std::uint64_t, std::span<const std::byte>) {}
        int number;
        int* guests_;
    };
    room open(const nbd::client& who)
    {
        if (full)
            throw std::system_error{std::make_error_code(std::errc::permission_denied)};
        return {static_cast<int>(who.id), *guests};
    }
    int* guests;
    bool full = false;
};

}  // namespace

TEST_CASE("export_set: each client has a state of its own, which ends with the client (N-12)")
{
    int guests = 0;
    nbd::export_set<hotel> set;
    set.add("inn", {.guests = &guests});
    CHECK(guests == 0);
    std::error_code error;
    {
        auto one = set.open("inn", {.id = 1, .peer = ""}, error);
        auto two = set.open("inn", {.id = 2, .peer = ""}, error);
        CHECK(guests == 2);
        CHECK(one->terms().size == 512);
        CHECK(two->terms().size == 1024);
        CHECK(one->terms().flags == (has_flags | send_write_zeroes | send_trim));
        CHECK(&one->backend() != &two->backend());
        auto moved = std::move(one);
        CHECK(moved->backend().number == 1);
        CHECK(guests == 2);
    }
    CHECK(guests == 0);
}

TEST_CASE("export_set: an open that throws is an error, and leaves nothing behind (B03)")
{
    int guests = 0;
    nbd::export_set<hotel> set;
    set.add("full", {.guests = &guests, .full = true});
    std::error_code error;
    CHECK_FALSE(set.open("full", somebody, error));
    CHECK(error == std::errc::permission_denied);
    CHECK(guests == 0);
}

TEST_CASE("export_set: what a client's own state says is checked when it is opened")
{
    int guests = 0;
    nbd::export_set<hotel> set;
    nbd::export_settings e;
    e.blocks = nbd::block_sizes{1024, 4096, 1 << 20};
    set.add("inn", {.guests = &guests}, e);
    std::error_code error;
    CHECK(set.open("inn", {.id = 2, .peer = ""}, error));
    CHECK_FALSE(set.open("inn", {.id = 1, .peer = ""}, error));
    CHECK(error);
    CHECK(guests == 0);
}

// --- the lock ---------------------------------------------------------------------------------

namespace {
struct parallel_disk : disk {
    using disk::disk;
    static constexpr auto concurrency = nbd::concurrency::parallel;
};
struct client_disk : disk {
    using disk::disk;
    static constexpr auto concurrency = nbd::concurrency::serialize_client;
};
static_assert(nbd::export_set<disk>::locks);
static_assert(!nbd::export_set<parallel_disk>::locks);
static_assert(!nbd::export_set<client_disk>::locks);

/// A disk whose size is asked for while a call is being made, which it does not promise to survive.
struct unguarded_disk {
    std::uint64_t size() const
    {
        if (busy->load())
            collided->store(true);
        return 512;
    }
    void read(std::uint64_t, std::span<std::byte>) {}
    std::atomic<bool>* busy;
    std::atomic<bool>* collided;
};
}  // namespace

TEST_CASE("export_set: a backend that promises nothing is opened under its lock as well")
{
    std::atomic<bool> busy{false};
    std::atomic<bool> collided{false};
    nbd::export_set<unguarded_disk> set;
    set.add("a", {&busy, &collided});
    auto one = open(set, "a");
    std::future<void> other;
    {
        const auto lock = one->lock();  // a call of the backend is under way
        busy = true;
        other = std::async(std::launch::async, [&] {
            std::error_code error;
            auto two = set.open("a", somebody, error);
        });
        // Either it waits for us, or it has come through at once.
        other.wait_for(std::chrono::milliseconds{100});
        busy = false;
    }
    other.get();
    CHECK_FALSE(collided);
}
