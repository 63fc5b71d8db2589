// SPDX-License-Identifier: MIT
// Open exports: the state of each client, and the lock.
#include "catch.hpp"
#include "support/open.hpp"
#include <nbd/exports/export_set.hpp>

#include <atomic>
#include <chrono>
#include <future>

using namespace nbd::protocol::transmission_flag;

namespace {

struct disk {
    explicit disk(std::uint64_t size) : size_{size} {}
    std::uint64_t size() const { return size_; }
    void read(std::uint64_t, std::span<std::byte>) {}
    std::uint64_t size_;
};
const nbd::client somebody{.id = 1, .peer = "somebody"};

}  // namespace

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

TEST_CASE("export_set: each client has its own state, which is destroyed with it (N-12)")
{
    int guests = 0;
    nbd::export_set<hotel> set;
    set.add("inn", {.guests = &guests});
    CHECK(guests == 0);
    std::error_code error;
    {
        auto one = nbd_test::open(set, "inn", {.id = 1, .peer = ""}, error);
        auto two = nbd_test::open(set, "inn", {.id = 2, .peer = ""}, error);
        CHECK(guests == 2);
        CHECK(one->info().terms.size == 512);
        CHECK(two->info().terms.size == 1024);
        CHECK(one->info().terms.flags == (has_flags | send_write_zeroes | send_trim));
        CHECK(&one->backend() != &two->backend());
        auto moved = std::move(one);
        CHECK(moved->backend().number == 1);
        CHECK(guests == 2);
    }
    CHECK(guests == 0);
}

TEST_CASE("export_set: an open that throws is an error and leaves no state behind (B03)")
{
    int guests = 0;
    nbd::export_set<hotel> set;
    set.add("full", {.guests = &guests, .full = true});
    std::error_code error;
    CHECK_FALSE(nbd_test::open(set, "full", somebody, error));
    CHECK(error == std::errc::permission_denied);
    CHECK(guests == 0);
}

TEST_CASE("export_set: the size and block sizes of a client's state are checked when it is opened")
{
    int guests = 0;
    nbd::export_set<hotel> set;
    nbd::export_settings e;
    e.blocks = nbd::block_sizes{1024, 4096, 1 << 20};
    set.add("inn", {.guests = &guests}, e);
    std::error_code error;
    CHECK(nbd_test::open(set, "inn", {.id = 2, .peer = ""}, error));
    CHECK_FALSE(nbd_test::open(set, "inn", {.id = 1, .peer = ""}, error));
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

/// A disk that detects a call of size() during another call. It makes no promise about concurrency.
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

TEST_CASE("export_set: a backend without promises is also opened under its lock")
{
    std::atomic<bool> busy{false};
    std::atomic<bool> collided{false};
    nbd::export_set<unguarded_disk> set;
    set.add("a", {&busy, &collided});
    std::error_code error;
    auto one = nbd_test::open(set, "a", somebody, error);
    std::future<void> other;
    {
        const auto lock = one->lock();  // a call of the backend is in progress
        busy = true;
        other = std::async(std::launch::async, [&] {
            std::error_code ignored;
            auto two = nbd_test::open(set, "a", somebody, ignored);
        });
        // The other thread waits for the lock, or has ignored it.
        other.wait_for(std::chrono::milliseconds{100});
        busy = false;
    }
    other.get();
    CHECK_FALSE(collided);
}

// --- a size that changes ------------------------------------------------------------------------

namespace {

/// A disk whose size is found out again.
struct growing {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return size_; }
    std::uint64_t refresh_size() noexcept { return size_ = next; }
    void read(std::uint64_t, std::span<std::byte>) {}
    static inline std::uint64_t next = 4096;
    std::uint64_t size_ = 4096;
};

}  // namespace

TEST_CASE("exports/export_set: each client that opens an export gets its current size")
{
    nbd::export_set<growing> set;
    set.emplace("disk", {.blocks = nbd::block_sizes{512, 4096, 1 << 20}});
    std::error_code error;
    auto first = nbd_test::open(set, "disk", somebody, error);
    REQUIRE(first);
    CHECK(first->info().terms.size == 4096);
    for (const std::uint64_t size : {1U << 20, 1000U, 0U, 512U}) {
        growing::next = size;
        const auto other = nbd_test::open(set, "disk", somebody, error);
        REQUIRE(other);
        CHECK(other->info().terms.size == size / 512 * 512);
        CHECK(first->size() == size / 512 * 512);
    }
}
