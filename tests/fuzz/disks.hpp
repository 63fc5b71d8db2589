// SPDX-License-Identifier: MIT
// Backends over memory whose calls fail as the input chooses.
#pragma once

#include "harness.hpp"
#include "transmission_model.hpp"
#include <nbd/concepts/backend.hpp>
#include <nbd/vocabulary/call.hpp>

#include <boost/asio/error.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace nbd_fuzz {

/// How calls go wrong.
enum class trouble { none, fails, throws, with_offset, leaves_out, foreign };
/// What a backend reports as extents. All are true, and not all are what the server needs.
enum class layout { exact, too_long, empty_ones, nothing, odd, uneven };

/// The memory of all disks of a target, and the plan of one run.
struct disk_memory {
    explicit disk_memory(memory_stream& s) : stream{s} {}

    static constexpr std::size_t bytes = std::size_t{192} << 10;
    static constexpr std::size_t block = 512;

    void begin(trouble t, unsigned nth, int e, layout l)
    {
        how = t;
        calls_until = nth;
        error = e;
        shape = l;
    }
    /// Undoes what the last run has written.
    void restore()
    {
        for (const auto& [offset, n] : written)
            std::copy_n(pristine().begin() + static_cast<std::ptrdiff_t>(offset), n,
                        content.begin() + static_cast<std::ptrdiff_t>(offset));
        written.clear();
    }

    /// Data and zeroes in turn, in pieces of different lengths.
    static const std::vector<std::byte>& pristine()
    {
        static const auto all = [] {
            std::vector<std::byte> made(bytes);
            for (std::size_t i = 0; i < bytes; ++i)
                if ((i / 4096 % 3 == 0 || i / block % 7 == 1) && i / 65536 != 1)
                    made[i] = static_cast<std::byte>(i * 7 + i / 251 + 1);
            return made;
        }();
        return all;
    }

    /// The outcome of a call.
    nbd::failure outcome(nbd_model::call what, std::uint64_t offset, std::uint64_t length)
    {
        if (how == trouble::none || how == trouble::leaves_out || calls_until-- != 1)
            return {};
        // Zeroes that are written instead take long.
        const bool unlikely = what == nbd_model::call::write_zeroes && length > bytes;
        const int e = error == ENOTSUP && unlikely ? EIO : error;
        if (how == trouble::foreign) {  // an error number that is not one of POSIX
            tell(what, EIO, offset, length);
            return std::error_code{error, boost::asio::error::get_misc_category()};
        }
        tell(what, e, offset, length);
        const std::error_code code{e, std::generic_category()};
        if (how == trouble::throws)
            throw std::system_error{code, "a text that is not for clients"};
        if (how == trouble::with_offset)
            return {code, "the disk \xe2\x82\xac is full of " + std::string(250, '\xc3'),
                    offset + length / 2};
        return code;
    }
    void tell(nbd_model::call what, int e, std::uint64_t offset, std::uint64_t length)
    {
        stream.note({.what = event::kind::failed,
                     .offset = offset,
                     .length = length,
                     .call = static_cast<int>(what),
                     .error = e});
    }

    nbd::failure read(std::uint64_t offset, std::span<std::byte> to)
    {
        auto failed = outcome(nbd_model::call::read, offset, to.size());
        auto n = to.size();
        if (how == trouble::leaves_out && calls_until-- == 1) {
            n /= 2;
            stream.note(
                {.what = event::kind::left_out, .offset = offset + n, .length = to.size() - n});
        }
        copy_out(offset, to.first(n));
        return failed;
    }
    void copy_out(std::uint64_t offset, std::span<std::byte> to) const
    {
        const auto n = inside(offset, to.size());
        if (n != 0)
            std::copy_n(content.begin() + static_cast<std::ptrdiff_t>(offset), n, to.begin());
        // Beyond the memory the model takes any bytes, so that long READs are quick.
        const auto rest = to.subspan(n);
        std::fill_n(rest.begin(), std::min<std::size_t>(rest.size(), block), std::byte{0});
    }
    nbd::failure write(std::uint64_t offset, std::span<const std::byte> from)
    {
        auto failed = outcome(nbd_model::call::write, offset, from.size());
        if (failed)
            return failed;
        const auto n = inside(offset, from.size());
        if (n != 0) {
            std::copy_n(from.begin(), n, content.begin() + static_cast<std::ptrdiff_t>(offset));
            written.emplace_back(static_cast<std::size_t>(offset), n);
        }
        if (n == from.size())
            return {};
        tell(nbd_model::call::write, ENOSPC, offset, from.size());
        return std::errc::no_space_on_device;
    }
    nbd::failure zero(std::uint64_t offset, std::uint64_t length)
    {
        auto failed = outcome(nbd_model::call::write_zeroes, offset, length);
        if (const auto n = inside(offset, length); n != 0 && !failed) {
            std::fill_n(content.begin() + static_cast<std::ptrdiff_t>(offset), n, std::byte{0});
            written.emplace_back(static_cast<std::size_t>(offset), n);
        }
        return failed;
    }
    nbd::failure extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)
    {
        auto failed = outcome(nbd_model::call::extents, offset, length);
        if (shape == layout::nothing && !failed)
            tell(nbd_model::call::extents, EIO, offset, length);
        if (shape == layout::nothing || failed)
            return failed;
        if (shape == layout::empty_ones)
            to.add(0, 3);
        // Beyond the memory everything is zero.
        const auto end = offset + length;
        if (shape == layout::uneven) {
            uneven(offset, end, to);
            return {};
        }
        for (auto at = offset; at < end;) {
            const auto step = at >= bytes ? end - at : block - at % block;
            static constexpr std::array<std::byte, block> zeroes{};
            const bool is_zero = at >= bytes
                || std::memcmp(content.data() + at, zeroes.data(), static_cast<std::size_t>(step))
                    == 0;
            const auto flags = shape == layout::odd && at / block % 2 != 0 ? 0U : is_zero ? 3U : 0U;
            const auto n = shape == layout::odd && step > 100 ? step - 100 : step;
            if (!to.add(shape == layout::too_long && at + step >= end ? ~std::uint64_t{0} : n,
                        flags))
                break;
            at += n;
        }
        return {};
    }
    /// Two statuses in turn, each for a part of a block: rounded to blocks there are three.
    void uneven(std::uint64_t offset, std::uint64_t end, nbd::extent_list& to) const
    {
        constexpr std::uint64_t part = 1600;
        for (auto at = offset; at < end; at += part) {
            const auto n = inside(at, part);
            const auto* const from = content.data() + (n != 0 ? at : 0);
            const bool is_zero =
                std::all_of(from, from + n, [](std::byte b) { return b == std::byte{0}; });
            if (!to.add(part, is_zero && at / part % 2 == 0 ? 2 : 1))
                return;
        }
    }
    /// Of a context with 64-bit status, or of another one.
    static nbd::failure context(std::size_t index, std::uint64_t length, nbd::extent_list& to)
    {
        if (index == 0)
            to.add(length, 7);
        else
            while (to.add(4096, to.extents().size() % 2 == 0 ? ~std::uint64_t{0} : 1)
                   && to.extents().size() < 100)
                ;
        return {};
    }
    std::size_t inside(std::uint64_t offset, std::uint64_t length) const
    {
        return offset >= bytes
            ? 0
            : static_cast<std::size_t>(std::min<std::uint64_t>(length, bytes - offset));
    }

    memory_stream& stream;
    std::vector<std::byte> content = pristine();
    std::vector<std::pair<std::size_t, std::size_t>> written;
    trouble how = trouble::none;
    unsigned calls_until = 0;
    int error = 0;
    layout shape = layout::exact;
};

/// Plans a run. `kind`: bits 0-2 how a call fails, bits 3-7 with which error; `nth`: which call,
/// from 1 on; `shape`: the layout of extents.
inline void begin(disk_memory& m, unsigned kind, unsigned nth, unsigned shape)
{
    constexpr std::array hows{trouble::none,        trouble::fails,      trouble::throws,
                              trouble::with_offset, trouble::leaves_out, trouble::foreign};
    constexpr std::array shapes{layout::exact,   layout::too_long, layout::empty_ones,
                                layout::nothing, layout::odd,      layout::uneven};
    constexpr std::array errors{EIO,     EPERM,  EACCES,    EROFS,     ENOMEM,
                                ENOSPC,  EDQUOT, EFBIG,     ESHUTDOWN, EINVAL,
                                ENOTSUP, EBADF,  EOVERFLOW, ETIMEDOUT, ECONNRESET};
    m.begin(hows[(kind & 7) % hows.size()], nth, errors[(kind >> 3) % errors.size()],
            shapes[shape % shapes.size()]);
}

/// A disk of `size()` bytes. What is beyond the memory cannot be written.
class disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;

    disk(disk_memory& m, std::uint64_t size) : memory_{&m}, size_{size} {}
    std::uint64_t size() const { return size_; }

protected:
    nbd::failure simple(nbd_model::call what, std::uint64_t offset, std::uint64_t length)
    {
        return memory_->outcome(what, offset, length);
    }
    disk_memory* memory_;
    std::uint64_t size_;
};

/// Has each member that is not about lending.
class full_disk : public disk {
public:
    static constexpr bool fast_zero = true;
    static constexpr bool multi_conn = true;
    using disk::disk;

    nbd::failure read(std::uint64_t offset, std::span<std::byte> to)
    {
        return memory_->read(offset, to);
    }
    nbd::failure write(std::uint64_t offset, std::span<const std::byte> from)
    {
        return memory_->write(offset, from);
    }
    nbd::failure flush() { return simple(nbd_model::call::flush, 0, 0); }
    nbd::failure trim(std::uint64_t offset, std::uint64_t length)
    {
        return simple(nbd_model::call::trim, offset, length);
    }
    nbd::failure write_zeroes(std::uint64_t offset, std::uint64_t length, nbd::zero_flags)
    {
        return memory_->zero(offset, length);
    }
    nbd::failure cache(std::uint64_t offset, std::uint64_t length)
    {
        return simple(nbd_model::call::cache, offset, length);
    }
    nbd::failure extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)
    {
        return memory_->extents(offset, length, to);
    }
    std::span<const nbd::meta_context> meta_contexts() const
    {
        static constexpr std::array<nbd::meta_context, 2> all{
            {{"x-fuzz:one"}, {"x-fuzz:wide", true}}};
        return all;
    }
    nbd::failure context_extents(std::size_t index, std::uint64_t offset, std::uint64_t length,
                                 nbd::extent_list& to)
    {
        auto failed = simple(nbd_model::call::extents, offset, length);
        return failed ? failed : disk_memory::context(index, length, to);
    }
    nbd::failure resize(std::uint64_t size)
    {
        auto failed = simple(nbd_model::call::resize, size, 0);
        if (!failed)
            size_ = size;
        return failed;
    }
};

/// Lends its memory, writes durably by itself, and has no flush and no write_zeroes.
class lending_disk : public disk {
public:
    using disk::disk;

    nbd::failure read(std::uint64_t offset, std::span<std::byte> to)
    {
        return memory_->read(offset, to);
    }
    nbd::failure write(std::uint64_t offset, std::span<const std::byte> from, nbd::write_flags)
    {
        return memory_->write(offset, from);
    }
    nbd::failure trim(std::uint64_t offset, std::uint64_t length)
    {
        return simple(nbd_model::call::trim, offset, length);
    }
    nbd::failure extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)
    {
        return memory_->extents(offset, length, to);
    }
    std::span<const std::byte> lend(std::uint64_t offset, std::size_t length) noexcept
    {
        const bool lends = memory_->inside(offset, length) == length && offset % 3 == 0;
        return lends ? std::span{memory_->content}.subspan(static_cast<std::size_t>(offset), length)
                     : std::span<const std::byte>{};
    }
    std::span<std::byte> lend_for_write(std::uint64_t offset, std::size_t length) noexcept
    {
        if (memory_->inside(offset, length) != length || offset % 2 != 0)
            return {};
        memory_->written.emplace_back(static_cast<std::size_t>(offset), length);
        return std::span{memory_->content}.subspan(static_cast<std::size_t>(offset), length);
    }
};

/// Handles whole requests.
class handling_disk : public disk {
public:
    using disk::disk;

    nbd::failure handle(nbd::call& c)
    {
        using protocol_command = nbd::protocol::command;
        const auto failed = simple(nbd_model::call::whole, c.offset(), c.length());
        if (failed)
            return failed;
        if (c.command() == protocol_command::read) {
            memory_->copy_out(c.offset(), c.space());
            c.sent(c.space().size());
        } else if (c.command() == protocol_command::write) {
            return answered(c, memory_->write(c.offset(), c.payload()));
        } else if (c.command() == protocol_command::write_zeroes) {
            return answered(c, memory_->zero(c.offset(), c.length()));
        }
        c.reply();
        return {};
    }

private:
    static nbd::failure answered(nbd::call& c, nbd::failure outcome)
    {
        if (!outcome)
            c.reply();
        return outcome;
    }
};

}  // namespace nbd_fuzz
