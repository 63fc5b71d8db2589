// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/exports/export_set.hpp>
#include <nbd/exports/size_watchers.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <system_error>
#include <vector>

namespace {

using sizes = std::vector<std::uint64_t>;
void note(void* object, std::uint64_t bytes) noexcept
{
    static_cast<sizes*>(object)->push_back(bytes);
}

struct growing_disk {
    std::uint64_t size() const { return bytes; }
    std::error_code read(std::uint64_t, std::span<std::byte>) { return {}; }
    std::error_code write(std::uint64_t, std::span<const std::byte>) { return {}; }
    std::error_code resize(std::uint64_t to)
    {
        if (to > 8192)
            return std::make_error_code(std::errc::no_space_on_device);
        bytes = to;
        return {};
    }
    std::uint64_t bytes = 4096;
};

}  // namespace

TEST_CASE("watchers are told each size while they exist")
{
    nbd::exports::size_watchers watchers;
    const auto first = std::make_shared<sizes>();
    auto second = std::make_shared<sizes>();
    watchers.add(first, note);
    watchers.tell(1);
    watchers.add(second, note);
    watchers.tell(2);
    const std::weak_ptr<sizes> gone = second;
    second.reset();
    CHECK(gone.expired());
    watchers.tell(3);
    CHECK(*first == sizes{1, 2, 3});
}

TEST_CASE("a resize of an export tells its watchers, also one that fails")
{
    nbd::export_set<growing_disk> set;
    set.add("disk", growing_disk{});
    const auto told = std::make_shared<sizes>();
    set.registered("disk")->shared->watchers.add(told, note);
    CHECK_FALSE(set.resize("disk", 8192));
    CHECK(set.resize("disk", 16384));
    CHECK_FALSE(set.resize("disk", 512));
    CHECK(*told == sizes{8192, 8192, 512});
}
