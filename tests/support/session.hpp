// SPDX-License-Identifier: MIT
// A session over a script: a stream that returns bytes in pieces of a chosen size, and a disk that
// records its calls.
#pragma once

#include "support/bytes.hpp"
#include "support/open.hpp"
#include <nbd/concepts/backend.hpp>
#include <nbd/exports/export_set.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/serve.hpp>
#include <nbd/threading/per_client_threads.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nbd_test {

inline constexpr std::size_t all_at_once = std::numeric_limits<std::size_t>::max();

struct pace {
    std::size_t read = all_at_once;      ///< largest number of bytes of one read
    std::size_t write = all_at_once;     ///< largest number of bytes of one write
    std::size_t fails_at = all_at_once;  ///< this operation, counted from 0, and all after it fail
};

/// A blocking stream in memory.
class scripted_stream {
public:
    explicit scripted_stream(bytes input, pace p = {}) : input_{std::move(input)}, pace_{p} {}

    template <class Buffers>
    std::size_t read_some(const Buffers& to, boost::system::error_code& error)
    {
        if (broken(error))
            return 0;
        if (at_ == input_.size()) {
            if (at_end)
                at_end();
            error = boost::asio::error::eof;
            return 0;
        }
        const auto n = std::min(pace_.read, input_.size() - at_);
        const auto got = boost::asio::buffer_copy(to, boost::asio::buffer(input_.data() + at_, n));
        at_ += got;
        error = {};
        return got;
    }
    template <class Buffers>
    std::size_t write_some(const Buffers& from, boost::system::error_code& error)
    {
        if (broken(error))
            return 0;
        if (on_send)
            on_send();
        bytes sent(std::min(pace_.write, boost::asio::buffer_size(from)));
        boost::asio::buffer_copy(boost::asio::buffer(sent), from);
        sends.push_back(sent);
        error = {};
        return sent.size();
    }

    bytes heard() const
    {
        bytes all;
        for (const auto& piece : sends)
            all.insert(all.end(), piece.begin(), piece.end());
        return all;
    }
    std::size_t operations() const { return operations_; }
    std::size_t unread() const { return input_.size() - at_; }

    std::vector<bytes> sends;
    std::function<void()> at_end;   ///< called when the session reads past the end of the script
    std::function<void()> on_send;  ///< called before bytes are taken

private:
    bool broken(boost::system::error_code& error)
    {
        if (operations_++ < pace_.fails_at)
            return false;
        error = boost::asio::error::connection_reset;
        return true;
    }

    bytes input_;
    pace pace_;
    std::size_t at_ = 0;
    std::size_t operations_ = 0;
};

/// pattern(size), cached for the last size, for tests that make many disks.
inline const bytes& cached_pattern(std::size_t size)
{
    static bytes last;
    if (last.size() != size)
        last = pattern(size);
    return last;
}

/// The state that the disks below share with their test.
struct disk_state {
    /// Contains `pattern(size)`.
    explicit disk_state(std::size_t size) : content(cached_pattern(size)) {}
    bytes content;
    std::vector<std::string> calls;
    std::error_code error;  ///< returned by every further call

    std::string story() const
    {
        std::string all;
        for (const auto& call : calls)
            all += (all.empty() ? "" : ", ") + call;
        return all;
    }
    void note(std::string word, std::uint64_t offset, std::uint64_t length)
    {
        calls.push_back(std::move(word) + ' ' + std::to_string(offset) + '+'
                        + std::to_string(length));
    }
};

/// read, write, flush and trim; copies each byte.
class copying_disk {
public:
    explicit copying_disk(disk_state& state) : state_{&state} {}

    std::uint64_t size() const { return state_->content.size(); }
    std::error_code read(std::uint64_t offset, std::span<std::byte> to)
    {
        state_->note("read", offset, to.size());
        std::copy_n(at(offset), to.size(), to.begin());
        return state_->error;
    }
    std::error_code write(std::uint64_t offset, std::span<const std::byte> from)
    {
        state_->note("write", offset, from.size());
        if (!state_->error)
            std::copy(from.begin(), from.end(), at(offset));
        return state_->error;
    }
    std::error_code flush()
    {
        state_->calls.push_back("flush");
        return state_->error;
    }
    std::error_code trim(std::uint64_t offset, std::uint64_t length)
    {
        state_->note("trim", offset, length);
        return state_->error;
    }

protected:
    bytes::iterator at(std::uint64_t offset)
    {
        return state_->content.begin() + static_cast<std::ptrdiff_t>(offset);
    }
    disk_state* state_;
};

/// The same, and lends its memory for reads and writes.
class lending_disk : public copying_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    using copying_disk::copying_disk;

    std::span<const std::byte> lend(std::uint64_t offset, std::size_t length) noexcept
    {
        return {&*at(offset), length};
    }
    std::span<std::byte> lend_for_write(std::uint64_t offset, std::size_t length) noexcept
    {
        return {&*at(offset), length};
    }
};

/// Returns nothing whenever it is asked to lend.
class reluctant_disk : public copying_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    using copying_disk::copying_disk;

    std::span<const std::byte> lend(std::uint64_t, std::size_t) noexcept { return {}; }
    std::span<std::byte> lend_for_write(std::uint64_t, std::size_t) noexcept { return {}; }
};

/// One client of one export "disk", without threads and sockets.
template <class Backend, class Observer = nbd::silent>
class one_client {
public:
    explicit one_client(Backend disk, nbd::export_settings e = {})
    {
        exports.add("disk", std::move(disk), std::move(e));
    }

    /// Handshake and transmission.
    scripted_stream& serve(bytes input, pace p = {})
    {
        begin(std::move(input), p);
        nbd::session::serve<nbd::io::blocking>(*stream, exports, *context, policy).get();
        return *stream;
    }
    /// The handshake alone; true if the client chose an export.
    bool negotiate(bytes input, pace p = {})
    {
        begin(std::move(input), p);
        nbd::handshake::negotiator negotiator{context->limits};
        return nbd::session::negotiate<nbd::io::blocking>(*stream, exports, negotiator, agreed,
                                                          *context)
            .get()
            .has_value();
    }
    /// The transmission alone.
    scripted_stream& transmit(bytes input, pace p = {})
    {
        begin(std::move(input), p);
        std::error_code error;
        auto opened = nbd_test::open(exports, "disk", context->who, error);
        if (remove_first)
            exports.remove("disk");
        agreed = {.terms = opened->info().terms};
        nbd::session::in_order_loop<nbd::io::blocking, scripted_stream,
                                    typename nbd::export_set<Backend>::opened, Observer>
            loop{*stream, *opened, agreed, *context};
        loop.run().get();
        return *stream;
    }

    std::error_code ended() const { return context->ended; }
    std::string heard() const { return shown(stream->heard()); }

    nbd::export_set<Backend> exports;
    nbd::settings limits;
    nbd::per_client_threads policy;
    Observer observer;
    nbd::session::ticker clock;
    std::atomic<bool> stopping{false};
    nbd::session::memory_budget memory{nbd::settings{}};
    nbd::handshake::agreement agreed;
    bool remove_first = false;  ///< the export is removed after the client has opened it
    std::function<void()> at_end;
    std::function<void()> on_send;
    std::optional<nbd::session::context<Observer>> context;
    std::unique_ptr<scripted_stream> stream;

private:
    void begin(bytes input, pace p)
    {
        stream = std::make_unique<scripted_stream>(std::move(input), p);
        stream->at_end = at_end;
        stream->on_send = on_send;
        // The context is an aggregate that cannot be moved, so it is constructed in place.
        struct made {
            one_client& self;
            operator nbd::session::context<Observer>() const
            {
                return {self.limits,
                        self.observer,
                        {.id = 1, .peer = "script"},
                        nbd::session::deadline{self.clock},
                        nbd::session::deadline{self.clock},
                        self.stopping,
                        {self.memory}};
            }
        };
        context.emplace(made{*this});
    }
};

}  // namespace nbd_test
