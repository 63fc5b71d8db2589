// SPDX-License-Identifier: MIT
// Whether a request is admitted, and the error value if not: a table over commands,
// flags and ranges (P58 to P69, P75 to P80, P87; R03 to R17, R22, R23, R26, R30 of the hostile
// cases).
#include "catch.hpp"
#include <nbd/transmission/admission.hpp>

#include <limits>

using namespace nbd::protocol;
namespace tf = transmission_flag;
namespace cf = command_flag;
using nbd::transmission::admit;
using nbd::transmission::flags_allowed;
using nbd::transmission::longest_payload;

namespace {

constexpr std::uint16_t all = tf::has_flags | tf::send_flush | tf::send_fua | tf::send_trim
    | tf::send_write_zeroes | tf::send_fast_zero | tf::send_cache;
constexpr std::uint64_t size = 1 << 20;
constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();

constexpr export_terms with(std::uint16_t flags, block_sizes blocks = {},
                            std::uint64_t bytes = size)
{
    return {.size = bytes, .flags = flags, .blocks = blocks};
}
constexpr auto full = with(all);

constexpr request make(command c, std::uint64_t offset, std::uint64_t length,
                       std::uint16_t flags = 0)
{
    return {.flags = flags, .command = c, .cookie = 1, .offset = offset, .length = length};
}
constexpr error_value judged(command c, std::uint64_t offset, std::uint64_t length,
                             std::uint16_t flags = 0, const export_terms& terms = full)
{
    return admit(make(c, offset, length, flags), terms);
}

constexpr command ranged[] = {command::read, command::write, command::trim, command::cache,
                              command::write_zeroes};
constexpr error_value past_end(command c)
{
    return c == command::write || c == command::write_zeroes ? error_value::enospc
                                                             : error_value::einval;
}

}  // namespace

// admission is constexpr
static_assert(judged(command::read, 0, 512) == error_value::none);
static_assert(judged(command::read, most, 1) == error_value::einval);

TEST_CASE("transmission/admission: ranges up to the last byte are admitted, one byte more is not "
          "(P80, P87, R04)")
{
    for (const auto c : ranged) {
        CAPTURE(static_cast<int>(c));
        CHECK(judged(c, 0, 1) == error_value::none);
        CHECK(judged(c, 0, size) == error_value::none);
        CHECK(judged(c, size - 1, 1) == error_value::none);
        CHECK(judged(c, size, 0) == error_value::none);
        CHECK(judged(c, 0, 0) == error_value::none);
        CHECK(judged(c, size, 1) == past_end(c));
        CHECK(judged(c, size - 1, 2) == past_end(c));
        CHECK(judged(c, 0, size + 1) == past_end(c));
        CHECK(judged(c, size + 1, 0) == past_end(c));
        CHECK(judged(c, 1, size) == past_end(c));
    }
}

TEST_CASE("transmission/admission: ranges whose sum wraps in 64 bits are refused (R05, R06, R07)")
{
    for (const auto c : ranged) {
        CAPTURE(static_cast<int>(c));
        for (const std::uint64_t length : {1ULL, 2ULL, 0x1001ULL, 0x1000ULL, 0xffffffffULL, 0ULL}) {
            CHECK(judged(c, most, length) == past_end(c));
            CHECK(judged(c, most - 0xfff, length) == past_end(c));
            CHECK(judged(c, most - length + 1, length)
                  == (length == 0 ? error_value::none : past_end(c)));
            CHECK(judged(c, most - length, length) == past_end(c));
            CHECK(judged(c, 1ULL << 63, length) == past_end(c));
            CHECK(judged(c, (1ULL << 63) - 1, length) == past_end(c));
        }
    }
}

TEST_CASE("transmission/admission: the largest possible export (D12)")
{
    const auto huge = with(all, {1, 4096, 0xffffffff}, (1ULL << 63) - 1);
    for (const auto c : ranged) {
        CHECK(judged(c, huge.size - 0xffffffff, 0xffffffff, 0, huge) == error_value::none);
        CHECK(judged(c, huge.size - 0xfffffffe, 0xffffffff, 0, huge) == past_end(c));
        CHECK(judged(c, (1ULL << 41) - 1, 2, 0, huge) == error_value::none);
        CHECK(judged(c, most, 0xffffffff, 0, huge) == past_end(c));
    }
}

TEST_CASE("transmission/admission: an export of size 0")
{
    const auto empty = with(all, {}, 0);
    for (const auto c : ranged) {
        CHECK(judged(c, 0, 0, 0, empty) == error_value::none);
        CHECK(judged(c, 0, 1, 0, empty) == past_end(c));
        CHECK(judged(c, most, 1, 0, empty) == past_end(c));
    }
}

TEST_CASE("transmission/admission: the maximum applies only to payloads (P79, P96, R08, R09)")
{
    const auto terms = with(all, {1, 4096, 8192}, size);
    for (const auto c : ranged) {
        const bool carries = c == command::read || c == command::write;
        CHECK(judged(c, 0, 8192, 0, terms) == error_value::none);
        CHECK(judged(c, 0, 8193, 0, terms) == (carries ? error_value::einval : error_value::none));
        CHECK(judged(c, 0, size, 0, terms) == (carries ? error_value::einval : error_value::none));
    }
}

TEST_CASE("transmission/admission: misaligned requests are EINVAL (P80, P100, R13, R25)")
{
    for (const std::uint32_t minimum : {2U, 512U, 4096U, 65536U}) {
        const auto terms = with(all, {minimum, 65536, 1 << 20});
        for (const auto c : ranged) {
            CAPTURE(minimum, static_cast<int>(c));
            CHECK(judged(c, 0, minimum, 0, terms) == error_value::none);
            CHECK(judged(c, size - minimum, minimum, 0, terms) == error_value::none);
            CHECK(judged(c, minimum, 0, 0, terms) == error_value::none);
            CHECK(judged(c, 0, minimum - 1, 0, terms) == error_value::einval);
            CHECK(judged(c, 0, minimum + 1, 0, terms) == error_value::einval);
            CHECK(judged(c, 1, minimum, 0, terms) == error_value::einval);
            CHECK(judged(c, minimum / 2, minimum, 0, terms) == error_value::einval);
            CHECK(judged(c, minimum - 1, 1, 0, terms) == error_value::einval);
        }
    }
    // CVE-2025-47712: rounding almost 4 GiB up to a block must not wrap to 0
    const auto terms = with(all, {4096, 4096, 1 << 20}, 8ULL << 30);
    for (const std::uint64_t length : {0xffffffffULL, 0xfffffe00ULL, 0xfffff001ULL}) {
        for (const auto c : {command::trim, command::write_zeroes, command::cache})
            CHECK(judged(c, 4096, length, 0, terms) == error_value::einval);
    }
}

TEST_CASE("transmission/admission: a read-only export answers EPERM to commands that write (P46, "
          "P87, P97, R22)")
{
    const auto terms = with(tf::has_flags | tf::read_only | tf::send_flush | tf::send_cache);
    for (const auto c : {command::write, command::trim, command::write_zeroes}) {
        CAPTURE(static_cast<int>(c));
        CHECK(judged(c, 0, 512, 0, terms) == error_value::eperm);
        // permission before flags, range, size and alignment
        CHECK(judged(c, most, 512, 0, terms) == error_value::eperm);
        CHECK(judged(c, size, 1, 0xffff, terms) == error_value::eperm);
        CHECK(judged(c, 0, 0xffffffff, 0, terms) == error_value::eperm);
        CHECK(judged(c, 0, 0, 0, terms) == error_value::eperm);
    }
    CHECK(judged(command::read, 0, 512, 0, terms) == error_value::none);
    CHECK(judged(command::cache, 0, 512, 0, terms) == error_value::none);
    CHECK(judged(command::flush, 0, 0, 0, terms) == error_value::none);
}

TEST_CASE("transmission/admission: an unsupported command is EINVAL (R14, R23, R26)")
{
    const auto terms = with(tf::has_flags);
    for (const auto c : {command::flush, command::trim, command::cache, command::write_zeroes}) {
        CAPTURE(static_cast<int>(c));
        CHECK(judged(c, 0, 0, 0, terms) == error_value::einval);
        CHECK(judged(c, 0, 512, 0, terms) == error_value::einval);
        CHECK(judged(c, 0, c == command::flush ? 0 : 512) == error_value::none);
    }
    CHECK(judged(command::read, 0, 512, 0, terms) == error_value::none);
    CHECK(judged(command::write, 0, 512, 0, terms) == error_value::none);
}

TEST_CASE("transmission/admission: an unknown command is EINVAL, also with a valid range (R14)")
{
    for (unsigned c = 0; c <= 0xffff; ++c) {
        if (c <= 6)
            continue;
        const auto command = static_cast<nbd::protocol::command>(c);
        REQUIRE(judged(command, 0, 0) == error_value::einval);
        REQUIRE(judged(command, 0, 4096) == error_value::einval);
    }
}

TEST_CASE("transmission/admission: FLUSH has neither offset nor length (P62, R23)")
{
    CHECK(judged(command::flush, 0, 0) == error_value::none);
    CHECK(judged(command::flush, 1, 0) == error_value::einval);
    CHECK(judged(command::flush, 0, 1) == error_value::einval);
    CHECK(judged(command::flush, most, 0xffffffff) == error_value::einval);
    const auto coarse = with(all, {4096, 4096, 1 << 20});
    CHECK(judged(command::flush, 0, 0, 0, coarse) == error_value::none);
}

TEST_CASE(
    "transmission/admission: every command times every flag (P46, P58, P65, R15, R16, R17, R30)")
{
    for (const bool fua : {false, true}) {
        for (const bool fast : {false, true}) {
            unsigned flags = all;
            if (!fua)
                flags &= ~unsigned{tf::send_fua};
            if (!fast)
                flags &= ~unsigned{tf::send_fast_zero};
            const auto terms = with(static_cast<std::uint16_t>(flags));
            for (const auto c : {command::read, command::write, command::flush, command::trim,
                                 command::cache, command::write_zeroes}) {
                for (unsigned set = 0; set <= 0xffff; ++set) {
                    unsigned unknown = set;
                    if (fua)
                        unknown &= ~unsigned{cf::fua};
                    if (c == command::write_zeroes)
                        unknown &= ~unsigned{cf::no_hole};
                    if (c == command::write_zeroes && fast)
                        unknown &= ~unsigned{cf::fast_zero};
                    const auto expected = unknown == 0 ? error_value::none : error_value::einval;
                    const std::uint64_t length = c == command::flush ? 0 : 512;
                    const auto got = judged(c, 0, length, static_cast<std::uint16_t>(set), terms);
                    if (got != expected) {
                        CAPTURE(fua, fast, static_cast<int>(c), set);
                        REQUIRE(got == expected);
                    }
                }
            }
        }
    }
    SUCCEED();
}

TEST_CASE("transmission/admission: flags are checked before ranges")
{
    CHECK(judged(command::write, most, 512, cf::df) == error_value::einval);
    CHECK(judged(command::write_zeroes, size, 512, cf::req_one) == error_value::einval);
    CHECK(judged(command::write, size, 512, cf::fua) == error_value::enospc);
}

TEST_CASE("transmission/admission: which flags a command may have")
{
    CHECK(flags_allowed(command::read, full) == cf::fua);
    CHECK(flags_allowed(command::write_zeroes, full) == (cf::fua | cf::no_hole | cf::fast_zero));
    CHECK(flags_allowed(command::write_zeroes, with(tf::send_write_zeroes)) == cf::no_hole);
    CHECK(flags_allowed(command::write, with(tf::has_flags)) == 0);
}

TEST_CASE("transmission/admission: a payload that is refused is consumed up to 32 MiB or the "
          "maximum (P78)")
{
    CHECK(longest_payload(with(all)) == 32 << 20);
    CHECK(longest_payload(with(all, {1, 4096, 4096})) == 32 << 20);
    CHECK(longest_payload(with(all, {1, 4096, 64 << 20})) == 64 << 20);
    CHECK(longest_payload(with(all, {1, 4096, 0xffffffff})) == 0xffffffff);
}

TEST_CASE("transmission/admission: a WRITE with extended headers is checked like any other (P55)")
{
    const auto terms = with(all, {512, 4096, 65'536});
    const auto judged_extended = [&](std::uint64_t offset, std::uint64_t length) {
        auto r = make(command::write, offset, length, cf::payload_len);
        r.extended = true;
        return admit(r, terms);
    };
    CHECK(judged_extended(0, 512) == error_value::none);
    CHECK(judged_extended(size, 512) == error_value::enospc);
    CHECK(judged_extended(256, 512) == error_value::einval);
    CHECK(judged_extended(0, 100) == error_value::einval);
    CHECK(judged_extended(0, 65'536 + 512) == error_value::einval);
}
