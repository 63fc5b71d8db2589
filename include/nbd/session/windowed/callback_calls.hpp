// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/exports/async_mutex.hpp>
#include <nbd/io/handoff.hpp>
#include <nbd/transmission/execution.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>

namespace nbd::session {

/// Makes the calls of a backend with callbacks, on the client's executor. A completion may arrive
/// on any thread, also before the member returns; it continues on the client's executor.
template <class Window>
class callback_calls {
    using backend_type = typename Window::opened_type::backend_type;
    /// One call at a time for all clients together; the window limits those of one client.
    static constexpr bool in_turn = concurrency_of<backend_type>() == concurrency::serialize_all;

public:
    enum class progress { calling, waiting, completed };
    struct state : completion::receiver, exports::async_mutex::waiter {
        callback_calls* owner = nullptr;
        std::atomic<progress> at = progress::waiting;
        bool has_turn = false;
        failure outcome;
        // The arguments of the call, for members that take them by reference.
        transmission::backend_call call;
        std::span<std::byte> to;
        std::span<const std::byte> from;
        write_flags flags;
        bool waits_for_lock = false;

        ~state()
        {
            if constexpr (in_turn) {
                if (has_turn)
                    owner->window_.disk().async_mutex().unlock();
                else if (waits_for_lock)
                    owner->window_.disk().async_mutex().abandon(*this);
            }
        }
    };

    explicit callback_calls(Window& w) : window_{w}, arrived_{w.executor()} {}

    template <class Slot>
    void begin(Slot& s)
    {
        s.owner = this;
        s.complete = [](completion::receiver& r, failure&& outcome) noexcept {
            auto& slot = static_cast<Slot&>(r);
            slot.outcome = std::move(outcome);
            // The slot may be reused after this exchange, unless it returned `waiting`.
            if (slot.at.exchange(progress::completed) == progress::waiting)
                slot.owner->continue_later(slot);
        };
        s.granted = [](exports::async_mutex::waiter& w) {
            auto& slot = static_cast<Slot&>(w);
            slot.waits_for_lock = false;
            slot.has_turn = true;
            slot.owner->continue_later(slot);
            return true;
        };
        ++under_way_;
        make_calls(s);
    }
    /// Synchronous: a backend with callbacks has no other form of it.
    template <class Slot>
    void resize(Slot& s)
    {
        s.job.resize(window_.disk());
        window_.finished(s);
    }
    template <class Slot>
    void cancel(Slot&) noexcept
    {
    }
    template <class Slot>
    void end(Slot&) noexcept
    {
    }
    [[nodiscard]] bool ended() const noexcept { return under_way_ == 0; }

private:
    /// From any thread.
    template <class Slot>
    void continue_later(Slot& s) noexcept
    {
        arrived_.put(s, [this](Slot* first) {
            while (first != nullptr) {
                Slot& next = *std::exchange(first, first->next);
                if (next.at == progress::completed)
                    take_outcome(next);
                make_calls(next);
            }
        });
    }

    /// Makes calls until one has not completed when it returns, or none is left.
    template <class Slot>
    void make_calls(Slot& s) noexcept
    {
        auto& disk = window_.disk();
        std::uint64_t work = 0;
        while (const auto next = s.job.next()) {
            if (work >= transmission::zeroes_at_a_time) {  // other clients run in between
                release(s);
                continue_later(s);
                return;
            }
            if constexpr (in_turn) {
                if (!s.has_turn) {
                    s.waits_for_lock = true;  // first: the lock may be granted on another thread
                    if (!disk.async_mutex().lock(s))
                        return;
                    s.waits_for_lock = false;
                    s.has_turn = true;
                }
            }
            if (!transmission::inside(*next, disk.size())) {
                s.outcome = transmission::cut_off();
            } else if ((next->partial && window_.abandoned())
                       || window_.is_useless(s.job.request())) {
                s.outcome = transmission::given_up();
            } else {
                work += next->what == transmission::backend_call::member::extents
                    ? transmission::zeroes_at_a_time
                    : next->length;
                s.call = *next;
                if (!call(s))
                    return;
            }
            take_outcome(s);
        }
        release(s);
        --under_way_;
        window_.finished(s);
        if (window_.closing())
            window_.ended();
    }

    /// Makes one call. True where it has completed.
    template <class Slot>
    [[nodiscard]] bool call(Slot& s) noexcept
    {
        s.at = progress::calling;
        try {
            start(s, window_.disk().backend(), s.job.data());
        } catch (...) {
            // The completion was destroyed, unless the backend had stored it: then it still comes.
            if (s.at == progress::completed)
                s.outcome = current_failure();
        }
        auto expected = progress::calling;
        return !s.at.compare_exchange_strong(expected, progress::waiting);
    }

    template <class Slot>
    void take_outcome(Slot& s) noexcept
    {
        s.at = progress::waiting;
        s.job.completed(std::move(s.outcome));
    }

    template <class Slot>
    void release([[maybe_unused]] Slot& s) noexcept
    {
        if constexpr (in_turn) {
            if (std::exchange(s.has_turn, false))
                window_.disk().async_mutex().unlock();
        }
    }

    /// Calls the member for `s.call`.
    template <class Slot>
    static void start(Slot& s, backend_type& backend, const transmission::request_data& d)
    {
        using member = transmission::backend_call::member;
        const auto& c = s.call;
        completion done{s};
        switch (c.what) {
        case member::read:
            s.to = d.data.subspan(static_cast<std::size_t>(c.offset - d.request->offset),
                                  static_cast<std::size_t>(c.length));
            transmission::clear_unless_filled<backend_type>(s.to);
            return backend.async_read(c.offset, std::as_const(s.to), std::move(done));
        case member::write:
            s.from = d.payload;
            return start_write(s, backend, std::move(done));
        case member::write_block:
            s.from = std::span{transmission::zero_block}.first(static_cast<std::size_t>(c.length));
            return start_write(s, backend, std::move(done));
        case member::flush:
            if constexpr (has_flush<backend_type>)
                return backend.async_flush(std::move(done));
            break;
        case member::trim:
            if constexpr (has_trim<backend_type>)
                return backend.async_trim(c.offset, c.length, std::move(done));
            break;
        case member::write_zeroes:
            if constexpr (has_write_zeroes<backend_type>)
                return backend.async_write_zeroes(c.offset, c.length, c.zero, std::move(done));
            break;
        case member::cache:
            if constexpr (has_cache<backend_type>)
                return backend.async_cache(c.offset, c.length, std::move(done));
            break;
        case member::extents:
            if constexpr (has_extents<backend_type>) {
                if (c.index == 0)
                    return backend.async_extents(c.offset, c.length, *d.extents, std::move(done));
            }
            if constexpr (has_meta_contexts<backend_type>)
                return backend.async_context_extents(c.index - (has_extents<backend_type> ? 1 : 0),
                                                     c.offset, c.length, *d.extents,
                                                     std::move(done));
            break;
        case member::handle:
            break;
        }
        done(std::make_error_code(std::errc::invalid_argument));
    }
    template <class Slot>
    static void start_write(Slot& s, backend_type& backend, completion done)
    {
        s.flags = {.fua = s.call.fua};
        if constexpr (has_fua_write<backend_type>)
            backend.async_write(s.call.offset, std::as_const(s.from), std::as_const(s.flags),
                                std::move(done));
        else if constexpr (has_plain_write<backend_type>)
            backend.async_write(s.call.offset, std::as_const(s.from), std::move(done));
        else
            done(std::make_error_code(std::errc::invalid_argument));
    }

    Window& window_;
    std::size_t under_way_ = 0;
    io::handoff<typename Window::executor_type, typename Window::slot> arrived_;
};

}  // namespace nbd::session
