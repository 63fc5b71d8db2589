// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/callback_backend.hpp>
#include <nbd/backend/mem_backend.hpp>
#include <nbd/backend/null_backend.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <system_error>
#include <vector>

namespace grid {

/// A typical first backend: read, write, flush and trim, which throw on errors, and no promise.
class plain_disk {
public:
    explicit plain_disk(std::uint64_t size) : bytes_(size) {}
    [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }
    void read(std::uint64_t offset, std::span<std::byte> to)
    {
        std::copy_n(at(offset), to.size(), to.begin());
    }
    void write(std::uint64_t offset, std::span<const std::byte> from)
    {
        std::copy(from.begin(), from.end(), at(offset));
    }
    void flush() {}
    void trim(std::uint64_t offset, std::uint64_t length)
    {
        std::fill_n(at(offset), length, std::byte{0});
    }

private:
    std::vector<std::byte>::iterator at(std::uint64_t offset)
    {
        return bytes_.begin() + static_cast<std::ptrdiff_t>(offset);
    }
    std::vector<std::byte> bytes_;
};

/// The same, as one callable.
struct on_request {
    std::shared_ptr<plain_disk> disk;

    void operator()(nbd::call& c) const
    {
        using nbd::protocol::command;
        switch (c.command()) {
        case command::read:
            disk->read(c.offset(), c.space());
            c.sent(c.space().size());
            break;
        case command::write:
            disk->write(c.offset(), c.payload());
            break;
        case command::trim:
        case command::write_zeroes:
            disk->trim(c.offset(), c.length());
            break;
        case command::flush:
        case command::cache:
            break;
        default:
            c.fail(std::make_error_code(std::errc::not_supported));
        }
        c.reply();
    }
};
class callback_disk {
public:
    explicit callback_disk(std::uint64_t size)
        : callback_{size, on_request{std::make_shared<plain_disk>(size)}}
    {
    }
    [[nodiscard]] std::uint64_t size() const { return callback_.size(); }
    void handle(nbd::call& c) { callback_.handle(c); }

private:
    nbd::callback_backend<on_request> callback_;
};

/// Whether a disk keeps what is written.
template <class Backend>
inline constexpr bool remembers = !std::is_same_v<Backend, nbd::null_backend>;

}  // namespace grid
