// SPDX-License-Identifier: MIT
// What both halves of the reference model use. The model is written from the specification
// (doc/proto.md) alone and includes nothing of nbd/, so that a mistake there is not repeated here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nbd_model {

using octets = std::span<const std::byte>;

/// The server has done what the specification does not allow.
struct difference : std::logic_error {
    using std::logic_error::logic_error;
};
inline void require(bool holds, const char* otherwise)
{
    if (!holds)
        throw difference{otherwise};
}

/// Reads big-endian integers. Throws a difference past the end.
class fields {
public:
    explicit fields(octets from) : rest_{from} {}
    std::uint16_t u16() { return static_cast<std::uint16_t>(number(2)); }
    std::uint32_t u32() { return static_cast<std::uint32_t>(number(4)); }
    std::uint64_t u64() { return number(8); }
    octets take(std::uint64_t n)
    {
        require(n <= rest_.size(), "a length is larger than what contains it");
        const auto taken = rest_.first(static_cast<std::size_t>(n));
        rest_ = rest_.subspan(static_cast<std::size_t>(n));
        return taken;
    }
    std::string_view text(std::uint64_t n)
    {
        const auto taken = take(n);
        return {reinterpret_cast<const char*>(taken.data()), taken.size()};
    }
    std::size_t left() const { return rest_.size(); }

private:
    std::uint64_t number(std::size_t n)
    {
        std::uint64_t value = 0;
        for (const auto b : take(n))
            value = value << 8 | std::to_integer<std::uint64_t>(b);
        return value;
    }
    octets rest_;
};

/// "Conventions": a string is UTF-8 without NUL, of at most 4096 bytes.
inline bool is_string(std::string_view s)
{
    if (s.size() > 4096)
        return false;
    const auto at = [&s](std::size_t i) {
        return i < s.size() ? static_cast<unsigned>(static_cast<unsigned char>(s[i])) : 0U;
    };
    const auto in = [](unsigned value, unsigned low, unsigned high) {
        return low <= value && value <= high;
    };
    // Table 3-7 of the Unicode standard, row by row.
    for (std::size_t i = 0; i < s.size();) {
        const auto a = at(i), b = at(i + 1), c = at(i + 2), d = at(i + 3);
        const bool third = in(c, 0x80, 0xbf);
        if (in(a, 0x01, 0x7f))
            i += 1;
        else if (in(a, 0xc2, 0xdf) && in(b, 0x80, 0xbf))
            i += 2;
        else if ((a == 0xe0 && in(b, 0xa0, 0xbf) && third)
                 || (in(a, 0xe1, 0xec) && in(b, 0x80, 0xbf) && third)
                 || (a == 0xed && in(b, 0x80, 0x9f) && third)
                 || (in(a, 0xee, 0xef) && in(b, 0x80, 0xbf) && third))
            i += 3;
        else if (((a == 0xf0 && in(b, 0x90, 0xbf)) || (in(a, 0xf1, 0xf3) && in(b, 0x80, 0xbf))
                  || (a == 0xf4 && in(b, 0x80, 0x8f)))
                 && third && in(d, 0x80, 0xbf))
            i += 4;
        else
            return false;
    }
    return true;
}

/// Bytes that one side has sent and that were not parsed yet. The memory is reused: fuzzing makes
/// thousands of models in a second.
class pending {
public:
    pending()
    {
        if (spare().empty())
            return;
        bytes_ = std::move(spare().back());
        spare().pop_back();
        bytes_.clear();
    }
    pending(const pending&) = delete;
    pending& operator=(const pending&) = delete;
    ~pending() { spare().push_back(std::move(bytes_)); }

    void add(octets more) { bytes_.insert(bytes_.end(), more.begin(), more.end()); }
    octets rest() const { return octets{bytes_}.subspan(at_); }
    octets take(std::size_t n)
    {
        const auto taken = rest().first(n);
        at_ += n;
        return taken;
    }
    void clear()
    {
        bytes_.clear();
        at_ = 0;
    }

private:
    static std::vector<std::vector<std::byte>>& spare()
    {
        static std::vector<std::vector<std::byte>> all;
        return all;
    }

    std::vector<std::byte> bytes_;
    std::size_t at_ = 0;
};

/// How requests and replies look, which the handshake decides.
enum class reply_form { simple, structured, extended };

namespace transmission_flag {
inline constexpr unsigned has_flags = 1, read_only = 2, flush = 4, fua = 8, trim = 0x20,
                          write_zeroes = 0x40, df = 0x80, resize = 0x200, cache = 0x400,
                          fast_zero = 0x800, status_payload = 0x1000;
}

/// A meta context that the client has selected.
struct context {
    std::uint32_t id = 0;
    bool allocation = false;  ///< it is base:allocation
};

/// What the client knows about its export when transmission begins.
struct terms {
    std::uint64_t size = 0;
    unsigned flags = 0;
    std::uint32_t minimum_block = 1;
    std::uint32_t maximum_payload = 32U << 20;
    reply_form form = reply_form::simple;
    std::vector<context> contexts{};
    std::size_t most_descriptors = std::size_t{1} << 20;  ///< that the server sends of a context
};

}  // namespace nbd_model
