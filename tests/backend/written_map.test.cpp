// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/backend/written_map.hpp>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

using nbd::written_map;

namespace {
constexpr std::uint64_t part = 4096;
}

TEST_CASE("backend/written_map: a new map has no touched part")
{
    const written_map m{10 * part};
    CHECK(m.part() == part);
    for (std::uint64_t at = 0; at < 10 * part; at += part / 2)
        REQUIRE_FALSE(m.touched(at));
    CHECK_FALSE(m.all_touched(0, 1));
    CHECK_FALSE(m.all_touched(0, 10 * part));
}

TEST_CASE("backend/written_map: one byte touches its part, and not the neighbours")
{
    for (const auto at : {3 * part, 3 * part + 1, 4 * part - 1}) {
        written_map m{10 * part};
        m.touch(at, 1);
        CHECK_FALSE(m.touched(3 * part - 1));
        CHECK(m.touched(3 * part));
        CHECK(m.touched(4 * part - 1));
        CHECK_FALSE(m.touched(4 * part));
    }
}

TEST_CASE("backend/written_map: a range touches exactly the parts that it overlaps")
{
    written_map m{10 * part};
    m.touch(part - 1, 2);
    CHECK(m.all_touched(0, 2 * part));
    CHECK_FALSE(m.all_touched(0, 2 * part + 1));
    CHECK(m.all_touched(2 * part - 1, 1));
    CHECK_FALSE(m.all_touched(2 * part - 1, 2));
    m.touch(3 * part, 0);
    CHECK_FALSE(m.touched(3 * part));
    // a gap in the middle
    m.touch(3 * part, 2 * part);
    CHECK(m.all_touched(3 * part, 2 * part));
    CHECK_FALSE(m.all_touched(part, 3 * part));
    m.touch(2 * part, 1);
    CHECK(m.all_touched(0, 5 * part));
}

TEST_CASE("backend/written_map: ranges across words of 64 parts")
{
    written_map m{200 * part};
    m.touch(63 * part, 2 * part);
    CHECK(m.all_touched(63 * part, 2 * part));
    CHECK_FALSE(m.touched(62 * part));
    CHECK_FALSE(m.touched(65 * part));
    CHECK_FALSE(m.touched(127 * part));
    m.touch(0, 200 * part);
    CHECK(m.all_touched(0, 200 * part));
}

TEST_CASE("backend/written_map: the last byte of every size has a part")
{
    for (const std::uint64_t size :
         {std::uint64_t{1}, part - 1, part, part + 1, 64 * part, 64 * part + 1,
          (std::uint64_t{1} << 40) - 1, std::uint64_t{1} << 40, (std::uint64_t{1} << 46) + 12345}) {
        written_map m{size};
        CAPTURE(size);
        CHECK_FALSE(m.touched(size - 1));
        m.touch(size - 1, 1);
        CHECK(m.touched(size - 1));
        CHECK(m.all_touched(size - 1, 1));
    }
}

TEST_CASE("backend/written_map: a map of 2^46 bytes has larger parts and is not larger")
{
    const written_map m{std::uint64_t{1} << 46};
    CHECK(m.part() > part);
    CHECK((std::uint64_t{1} << 46) / m.part() <= std::uint64_t{1} << 24);
    CHECK((m.part() & (m.part() - 1)) == 0);
}

TEST_CASE("backend/written_map: a part is one page up to 64 GiB")
{
    CHECK(written_map{std::uint64_t{1} << 36}.part() == 4096);
    CHECK(written_map{(std::uint64_t{1} << 36) + 1}.part() == 8192);
    CHECK(written_map{std::uint64_t{1} << 40}.part() == 65536);
}

TEST_CASE("backend/written_map: a map of size 0")
{
    written_map m{0};
    m.touch(0, 0);
    CHECK_FALSE(m.touched(0));
}

TEST_CASE("backend/written_map: concurrent touches of one word are all kept")
{
    written_map m{64 * part};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t)
        threads.emplace_back([&m, t] {
            for (std::uint64_t bit = t; bit < 64; bit += 4)
                m.touch(bit * part, 1);
        });
    for (auto& t : threads)
        t.join();
    CHECK(m.all_touched(0, 64 * part));
}

TEST_CASE("backend/written_map: only parts that lie completely in the range are forgotten")
{
    nbd::written_map map{std::uint64_t{1} << 20};
    REQUIRE(map.part() == part);
    map.touch(0, 8 * part);
    map.forget(part + 1, 3 * part);
    CHECK(map.touched(0));
    CHECK(map.touched(part));
    CHECK_FALSE(map.touched(2 * part));
    CHECK_FALSE(map.touched(3 * part));
    CHECK(map.touched(4 * part));
    map.forget(5 * part, 0);
    map.forget(5 * part, part - 1);
    CHECK(map.touched(5 * part));
    map.forget(5 * part, part);
    CHECK_FALSE(map.touched(5 * part));
    CHECK(map.all_touched(6 * part, 2 * part));
}

TEST_CASE("backend/written_map: runs of touched and untouched parts end at part boundaries")
{
    written_map m{1000 * part};
    CHECK(m.run_end(0, 1000 * part) == 1000 * part);
    CHECK(m.run_end(5, 6) == 6);
    m.touch(3 * part, part);
    m.touch(63 * part, 70 * part);
    const std::vector<std::uint64_t> ends{3, 4, 63, 133, 1000};
    std::uint64_t at = 0;
    for (const auto end : ends) {
        CHECK(m.run_end(at, 1000 * part) == end * part);
        at = end * part;
    }
    CHECK(m.run_end(100 * part + 7, 1000 * part) == 133 * part);
    CHECK(m.run_end(100 * part, 128 * part) == 128 * part);
    CHECK(m.run_end(100 * part, 120 * part + 1) == 120 * part + 1);
    CHECK(m.run_end(133 * part - 1, 133 * part + 1) == 133 * part);
    CHECK(m.run_end(191 * part, 193 * part) == 193 * part);
}

TEST_CASE("backend/written_map: the end of a run is the same as counted part by part")
{
    constexpr std::uint64_t parts = 64 * 64 * 3 + 100;
    written_map m{parts * part};
    std::vector<bool> touched(parts);
    std::mt19937_64 random{7};
    const auto check = [&] {
        for (int i = 0; i < 200; ++i) {
            const auto from = random() % parts;
            const auto to = from + 1 + random() % (parts - from);
            auto expected = from;
            while (expected < to && touched[expected] == touched[from])
                ++expected;
            REQUIRE(m.run_end(from * part, to * part) == expected * part);
        }
    };
    check();
    for (int round = 0; round < 60; ++round) {
        const auto from = random() % parts;
        const auto length =
            random() % std::min<std::uint64_t>(parts - from, round % 2 != 0 ? 9000 : 90) + 1;
        const bool touch = random() % 2 != 0;
        if (touch)
            m.touch(from * part, length * part);
        else
            m.forget(from * part, length * part);
        for (auto at = from; at < from + length; ++at)
            touched[at] = touch;
        check();
    }
}
