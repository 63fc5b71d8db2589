// SPDX-License-Identifier: MIT
// Backends that record their calls, with one short word for each.
#pragma once

#include <nbd/concepts/backend.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace nbd_test {

/// Shared by the parts below: the recorded calls, and the errors that later calls return.
struct recording {
    std::vector<std::string> calls;
    std::error_code read_error, write_error, flush_error, trim_error, zero_error, cache_error;

    void note(std::string word, std::uint64_t offset, std::uint64_t length)
    {
        calls.push_back(std::move(word) + ' ' + std::to_string(offset) + '+'
                        + std::to_string(length));
    }
    /// All of it in one line.
    std::string story() const
    {
        std::string all;
        for (const auto& call : calls)
            all += (all.empty() ? "" : ", ") + call;
        return all;
    }
    std::uint64_t size() const { return 1 << 20; }
    std::error_code read(std::uint64_t offset, std::span<std::byte> to)
    {
        note("read", offset, to.size());
        if (!read_error)
            std::fill(to.begin(), to.end(), std::byte{0x5a});
        return read_error;
    }
};

// One part for each ability; a disk is composed of them.

template <class Base>
struct with_write : Base {
    std::error_code write(std::uint64_t offset, std::span<const std::byte> from)
    {
        this->note("write", offset, from.size());
        const bool zero =
            std::all_of(from.begin(), from.end(), [](auto b) { return b == std::byte{0}; });
        all_zero = all_zero && zero;
        return this->write_error;
    }
    bool all_zero = true;
};
template <class Base>
struct with_fua_write : Base {
    std::error_code write(std::uint64_t offset, std::span<const std::byte> from,
                          nbd::write_flags flags)
    {
        this->note(flags.fua ? "write!" : "write", offset, from.size());
        return this->write_error;
    }
};
template <class Base>
struct with_flush : Base {
    std::error_code flush()
    {
        this->calls.push_back("flush");
        return this->flush_error;
    }
};
template <class Base>
struct with_trim : Base {
    std::error_code trim(std::uint64_t offset, std::uint64_t length)
    {
        this->note("trim", offset, length);
        return this->trim_error;
    }
};
template <class Base>
struct with_zeroes : Base {
    std::error_code write_zeroes(std::uint64_t offset, std::uint64_t length, nbd::zero_flags flags)
    {
        this->note(std::string{"zero"} + (flags.no_hole ? " no_hole" : "")
                       + (flags.fast ? " fast" : ""),
                   offset, length);
        return this->zero_error;
    }
};
template <class Base>
struct with_cache : Base {
    std::error_code cache(std::uint64_t offset, std::uint64_t length)
    {
        this->note("cache", offset, length);
        return this->cache_error;
    }
};

}  // namespace nbd_test
