// SPDX-License-Identifier: MIT
// What waits until the input chooses it: operations of a stream, calls of a backend with callbacks,
// and functions of a program.
#pragma once

#include "disks.hpp"
#include "harness.hpp"
#include <nbd/vocabulary/completion.hpp>

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/socket_base.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace nbd_fuzz {

using executor = boost::asio::io_context::executor_type;

/// Something that can happen next. It happens once.
struct happening {
    happening() = default;
    happening(const happening&) = delete;
    happening& operator=(const happening&) = delete;
    virtual ~happening() = default;
    virtual void happen() = 0;
};
template <class F>
struct happening_of final : happening {
    explicit happening_of(F f) : f_{std::move(f)} {}
    void happen() override { f_(); }

private:
    F f_;
};

/// All that can happen, and the order that an input chooses.
class agenda {
public:
    void begin(std::span<const std::byte> order)
    {
        order_ = order;
        at_ = 0;
    }
    template <class F>
    void add(F f)
    {
        all_.push_back(std::make_unique<happening_of<F>>(std::move(f)));
    }
    bool empty() const { return all_.empty(); }
    /// One of them.
    void next()
    {
        const auto i = choose() % all_.size();
        const auto chosen = std::move(all_[i]);
        all_.erase(all_.begin() + static_cast<std::ptrdiff_t>(i));
        chosen->happen();
    }
    /// The next byte of the input that chooses.
    std::size_t choose()
    {
        if (order_.empty())
            return 0;
        return std::to_integer<std::size_t>(order_[at_++ % order_.size()]);
    }
    /// What is awaited until the input chooses it.
    boost::asio::awaitable<void, executor> turn()
    {
        return boost::asio::async_initiate<const boost::asio::use_awaitable_t<executor>&, void()>(
            [this](auto handler) {
                add([handler = std::move(handler)]() mutable { std::move(handler)(); });
            },
            boost::asio::use_awaitable_t<executor>{});
    }

private:
    std::vector<std::unique_ptr<happening>> all_;
    std::span<const std::byte> order_;
    std::size_t at_ = 0;
};

/// A stream of Asio over the one in memory.
class waiting_stream {
public:
    using executor_type = executor;

    waiting_stream(boost::asio::io_context& context, memory_stream& below, agenda& all)
        : context_{context}, below_{below}, all_{all}
    {
    }
    void begin() { closed_ = false; }
    executor_type get_executor() { return context_.get_executor(); }
    /// That there are none would be a reason to wait for a time.
    std::size_t available(boost::system::error_code& error)
    {
        error = {};
        return 1;
    }
    void shutdown(boost::asio::socket_base::shutdown_type, boost::system::error_code& error)
    {
        error = {};
        closed_ = true;
    }
    template <class Buffers, class Handler>
    void async_read_some(const Buffers& to, Handler handler)
    {
        later(std::move(handler),
              [this, to](boost::system::error_code& error) { return below_.read_some(to, error); });
    }
    template <class Buffers, class Handler>
    void async_write_some(const Buffers& from, Handler handler)
    {
        later(std::move(handler), [this, from](boost::system::error_code& error) {
            return below_.write_some(from, error);
        });
    }

private:
    template <class Handler, class Operation>
    void later(Handler handler, Operation operation)
    {
        all_.add([this, handler = std::move(handler), operation]() mutable {
            boost::system::error_code error = boost::asio::error::eof;
            const std::size_t n = closed_ ? 0 : operation(error);
            boost::asio::post(context_, [handler = std::move(handler), error, n]() mutable {
                handler(error, n);
            });
        });
    }

    boost::asio::io_context& context_;
    memory_stream& below_;
    agenda& all_;
    bool closed_ = false;
};

/// What the waiting disks of a target share.
struct waiting_memory {
    disk_memory& memory;
    agenda& all;
    bool some_at_once = false;  ///< some calls complete before the member returns
    bool early = false;         ///< a call takes effect when it is made, not when it completes
};

/// A backend with callbacks. Its calls complete in the order that the input chooses.
class waiting_disk : public disk {
public:
    static constexpr bool fast_zero = true;
    static constexpr bool multi_conn = true;

    waiting_disk(waiting_memory& m, std::uint64_t size) : disk{m.memory, size}, waiting_{&m} {}

    void async_read(std::uint64_t offset, std::span<std::byte> to, nbd::completion done)
    {
        later(std::move(done), [this, offset, to] { return memory_->read(offset, to); });
    }
    void async_write(std::uint64_t offset, std::span<const std::byte> from, nbd::completion done)
    {
        later(std::move(done), [this, offset, from] { return memory_->write(offset, from); });
    }
    void async_flush(nbd::completion done)
    {
        later(std::move(done), [this] { return simple(nbd_model::call::flush, 0, 0); });
    }
    void async_trim(std::uint64_t offset, std::uint64_t length, nbd::completion done)
    {
        later(std::move(done),
              [this, offset, length] { return simple(nbd_model::call::trim, offset, length); });
    }
    void async_write_zeroes(std::uint64_t offset, std::uint64_t length, nbd::zero_flags,
                            nbd::completion done)
    {
        later(std::move(done), [this, offset, length] { return memory_->zero(offset, length); });
    }
    void async_cache(std::uint64_t offset, std::uint64_t length, nbd::completion done)
    {
        later(std::move(done),
              [this, offset, length] { return simple(nbd_model::call::cache, offset, length); });
    }
    void async_extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to,
                       nbd::completion done)
    {
        later(std::move(done),
              [this, offset, length, &to] { return memory_->extents(offset, length, to); });
    }
    std::span<const nbd::meta_context> meta_contexts() const
    {
        static constexpr std::array<nbd::meta_context, 2> all{
            {{"x-fuzz:one"}, {"x-fuzz:wide", true}}};
        return all;
    }
    void async_context_extents(std::size_t index, std::uint64_t offset, std::uint64_t length,
                               nbd::extent_list& to, nbd::completion done)
    {
        later(std::move(done), [this, index, offset, length, &to] {
            auto failed = simple(nbd_model::call::extents, offset, length);
            return failed ? failed : disk_memory::context(index, length, to);
        });
    }

private:
    template <class F>
    void later(nbd::completion done, F f)
    {
        if (waiting_->some_at_once && waiting_->all.choose() % 4 == 0)
            return done(f());
        if (waiting_->early) {
            nbd::failure outcome = f();
            waiting_->all.add([done = std::move(done), outcome = std::move(outcome)]() mutable {
                done(std::move(outcome));
            });
            return;
        }
        waiting_->all.add([done = std::move(done), f]() mutable {
            try {
                done(f());
            } catch (const std::system_error& why) {
                done(why.code());
            }
        });
    }

    waiting_memory* waiting_;
};

}  // namespace nbd_fuzz
