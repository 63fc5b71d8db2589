// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/async_event.hpp>
#include <nbd/io/periodic_notifier.hpp>
#include <nbd/session/requests/intake.hpp>
#include <nbd/session/requests/job.hpp>
#include <nbd/session/windowed/window.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/socket_base.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <span>
#include <system_error>
#include <utility>

namespace nbd::session {

/// The windowed loop of the transmission phase, for backends that wait: keeps many requests of a
/// client under way and sends their replies as they are ready, in any order ("Ordering of messages
/// and writes"). Whatever of it runs, runs on the client's strand.
///
/// `Calls` makes the calls of a job, and tells `finished(slot)` then: awaited_calls, offloaded_calls.
template <class Io, class Stream, class Opened, class Observer, template <class> class Calls>
class windowed_loop {
public:
    using executor_type = typename Stream::executor_type;
    using opened_type = Opened;
    struct slot : Calls<windowed_loop>::state {
        session::job<Opened, Observer> job;
        slot* next = nullptr;
        bool under_way = false;
    };

    template <class... Args>
    windowed_loop(Stream& stream, Opened& disk, const handshake::agreement& agreed,
                  context<Observer>& c, Args&&... calls)
        : stream_{stream}, disk_{disk}, agreed_{agreed}, c_{c},
          calls_{*this, std::forward<Args>(calls)...}, in_{disk, agreed, c},
          replies_{c, agreed.style, read_answer<Opened, Observer>::outbox_bytes},
          window_{parallel ? c.limits.requests_in_flight : 1, c.memory.most_for_requests(),
                  c.limits.serialise_overlaps,
                  transmission::status_plan<backend_type>::most_bytes(agreed.contexts.size(),
                                                                      c.limits.extents_per_reply)}
    {
    }
    windowed_loop(const windowed_loop&) = delete;
    windowed_loop& operator=(const windowed_loop&) = delete;

    /// The whole transmission; `c.ended` says why it ended. What was begun has ended then too.
    typename Io::template task<void> run()
    {
        bool writing = true;
        boost::asio::co_spawn(executor(), write(), [&](const std::exception_ptr& failed) {
            writing = false;
            if (failed)  // no memory
                give_up(std::make_error_code(std::errc::not_enough_memory));
            calls_over_.notify();
        });
        bool stays = false;
        try {
            stays = co_await read();
        } catch (...) {  // no memory, most likely
            give_up(current_error());
        }
        if (receiving_ != nullptr)
            abandon(*std::exchange(receiving_, nullptr));
        // A client that has gone wants nothing any more. One that said DISC, or is shown out, gets
        // what it asked for before, unless that takes too long.
        if (!stays)
            cancel();
        closing_ = true;
        replies_due_.notify();
        io::periodic_notifier<executor_type> tick{executor(), calls_over_};
        while (writing) {
            if (!gone() && is_lost())
                cancel();
            if (!gone())
                tick.arm();
            co_await calls_over_.wait();
        }
        while (!tick.stop())
            co_await calls_over_.wait();
        window_.for_each([this](slot& s) { calls_.end(s); });
        while (!calls_.ended())
            co_await calls_over_.wait();
    }

    // --- for the calls --------------------------------------------------------------------------
    [[nodiscard]] executor_type executor() { return stream_.get_executor(); }
    [[nodiscard]] Opened& disk() noexcept { return disk_; }
    /// All calls of the slot's job have been made. On the strand, as all that follows.
    void finished(slot& s)
    {
        window_.finished(s);
        replies_due_.notify();
    }
    /// The calls have ended what they had been told to.
    void ended() { calls_over_.notify(); }
    [[nodiscard]] bool closing() const noexcept { return closing_; }
    /// From any thread: nobody wants what was asked for any more.
    [[nodiscard]] bool gone() const noexcept { return unwanted_.load(std::memory_order_relaxed); }
    /// From any thread: what may take for ever is to be given up, also by who has said DISC and gone.
    [[nodiscard]] bool abandoned() const noexcept { return gone() || c_.over() || disk_.gone(); }

private:
    using backend_type = typename Opened::backend_type;
    using found = typename intake<Opened, Observer>::step;
    using verdict = typename intake<Opened, Observer>::verdict;
    static constexpr bool parallel = concurrency_of<backend_type>() == concurrency::parallel;

    void cancel()
    {
        unwanted_ = true;
        window_.for_each([this](slot& s) { calls_.cancel(s); });
    }
    void give_up(std::error_code why)
    {
        if (!c_.ended)
            c_.ended = why;
        failed_ = true;
        boost::system::error_code ignored;
        stream_.shutdown(boost::asio::socket_base::shutdown_both, ignored);
        room_.notify();
    }

    /// Takes requests until the client leaves. False where it is gone, and nobody waits for replies.
    typename Io::template task<bool> read()
    {
        for (;;) {
            if (receiving_ != nullptr && !in_.receiving()) {
                slot& s = *std::exchange(receiving_, nullptr);
                const auto why = in_.still_admitted(s.job.request());
                if (why != protocol::error_value::none)
                    s.job.refuse(s.job.request(), why);
                call(s);
            }
            const auto step = in_.next();
            if (step == found::finish)
                co_return true;
            if (step == found::linger) {
                in_.lingered(co_await Io::readable_within(stream_, std::chrono::milliseconds{200}));
                continue;
            }
            if (step == found::receive) {
                if (!co_await receive())
                    co_return !Calls<windowed_loop>::can_cancel || shown_out();
                continue;
            }
            const bool leaves = in_.request().command == protocol::command::disc;
            if (!leaves && !window_.has_room_for(in_.request()) && !co_await room())
                co_return false;
            const auto r = in_.request();
            if (step == found::refused) {
                slot& s = window_.take(r);
                s.job.refuse(r, in_.why());
                finished(s);
                continue;
            }
            switch (in_.take()) {
            case verdict::leave:
                said_goodbye_ = leaves;
                co_return true;
            case verdict::refused:
                continue;
            case verdict::admitted:
                receiving_ = begin(in_.request());
            }
        }
    }

    /// Nothing can be sent to the client any more, and it did not say before that it leaves.
    [[nodiscard]] bool is_lost() const noexcept
    {
        const auto cut = c_.cut.load(std::memory_order_relaxed);
        return said_goodbye_ ? cut != errc{} && cut != errc::cut_short : failed_ || cut != errc{};
    }
    /// Asked to leave, by a server that has not lost its patience.
    [[nodiscard]] bool shown_out() const noexcept
    {
        return c_.stopping.load(std::memory_order_relaxed)
            && c_.cut.load(std::memory_order_relaxed) == errc{};
    }

    /// Begins a request; gives its slot where its payload has yet to come.
    [[nodiscard]] slot* begin(const protocol::request& r)
    {
        slot& s = window_.take(r);
        s.job.refuse(r, protocol::error_value::enomem);  // until it is begun
        try {
            if (r.command != protocol::command::resize && !s.job.begin_lent(disk_.backend(), r)) {
                const bool large = r.payload() > in_.buffered_payload;
                const auto payload = large ? std::span<const std::byte>{} : in_.payload();
                s.job.begin(r, in_.terms(), agreed_, replies_, payload,
                            c_.limits.extents_per_reply);
                if (large) {
                    in_.receive_into(s.job.memory());
                    return &s;
                }
                in_.consume_payload();
            }
        } catch (...) {
            finished(s);
            throw;
        }
        call(s);
        return nullptr;
    }

    /// Has the calls of its job made.
    void call(slot& s)
    {
        if (s.job.request().command == protocol::command::resize)
            return calls_.resize(s);
        if (!s.job.next()) {
            finished(s);
            return;
        }
        try {
            calls_.begin(s);
        } catch (...) {
            s.job.refuse(s.job.request(), protocol::error_value::enomem);
            finished(s);
            throw;
        }
    }
    /// Its request will not be carried out.
    void abandon(slot& s)
    {
        s.job.refuse(s.job.request(), protocol::error_value::eshutdown);
        finished(s);
    }

    /// Receives some bytes. False where there are no more.
    typename Io::template task<bool> receive()
    {
        const bool mid_message = in_.mid_message();
        if (mid_message)
            c_.deadline.arm(c_.limits.progress_timeout, errc::progress_timeout);
        else if (window_.empty())
            c_.deadline.arm(c_.limits.idle_timeout, errc::idle_timeout);
        between_requests_ = !mid_message;
        if (in_.holds_much() && Io::must_wait(stream_))
            in_.shrink();
        const auto space = in_.space();
        const auto [error, n] =
            co_await Io::read_some(stream_, boost::asio::buffer(space.data(), space.size()));
        between_requests_ = false;
        c_.deadline.disarm();
        if (error && error != boost::asio::error::eof && !c_.ended)
            c_.ended = error;
        else if (error && mid_message && !c_.ended)
            c_.ended = errc::cut_short;
        in_.received(n);
        co_return !error;
    }

    /// Waits until there is room for the request that was found. False where the client has gone
    /// meanwhile: nobody reads from it, so its end has to be looked for.
    typename Io::template task<bool> room()
    {
        bool gone = false;
        bool watching = true;
        boost::asio::cancellation_signal stop;
        stream_.async_wait(Stream::wait_error,
                           boost::asio::bind_cancellation_slot(
                               stop.slot(), [&](const boost::system::error_code& error) {
                                   watching = false;
                                   gone = !error;
                                   room_.notify();
                               }));
        c_.working.store(Calls<windowed_loop>::can_cancel, std::memory_order_relaxed);
        while (!gone && !failed_ && !window_.has_room_for(in_.request()))
            co_await room_.wait();
        c_.working.store(false, std::memory_order_relaxed);
        const bool went = gone || failed_;
        if (watching)
            stop.emit(boost::asio::cancellation_type::terminal);
        while (watching)
            co_await room_.wait();
        co_return !went;
    }

    /// Sends replies as they become ready, until nothing is under way and nothing will be.
    typename Io::template task<void> write()
    {
        auto& out = replies_.out();
        while (!closing_ || !window_.empty()) {
            if (!failed_)
                window_.gather(replies_);
            else
                window_.drop_replies();
            if (out.empty()) {
                if (closing_ && window_.empty())
                    continue;
                // Nobody reads from the client any more, nor sends to it, so who has gone is not seen.
                if (closing_)
                    c_.working.store(true, std::memory_order_relaxed);
                co_await replies_due_.wait();
                if (closing_)
                    c_.working.store(false, std::memory_order_relaxed);
                continue;
            }
            while (!out.empty() && !failed_) {
                c_.sending.arm(c_.limits.send_timeout, errc::send_timeout);
                const auto [error, n] = co_await Io::send_some(stream_, out);
                if (error)
                    give_up(error);
                else
                    out.sent(n);
            }
            c_.sending.disarm();
            if (failed_)
                out.clear();
            window_.sent();
            if (between_requests_ && window_.empty())
                c_.deadline.arm(c_.limits.idle_timeout, errc::idle_timeout);
            room_.notify();
        }
    }

    Stream& stream_;
    Opened& disk_;
    const handshake::agreement& agreed_;
    context<Observer>& c_;
    Calls<windowed_loop> calls_;
    intake<Opened, Observer> in_;
    replies<Observer> replies_;
    window<slot> window_;
    io::async_event<executor_type> replies_due_;
    io::async_event<executor_type> room_;
    io::async_event<executor_type> calls_over_;
    slot* receiving_ = nullptr;      ///< whose payload comes next
    bool between_requests_ = false;  ///< waits for the next one's first byte
    bool said_goodbye_ = false;      ///< and left: what it asked for before is done all the same
    bool closing_ = false;           ///< no more requests come
    bool failed_ = false;            ///< no more replies can be sent
    std::atomic<bool> unwanted_ = false;  ///< what was asked for
};

}  // namespace nbd::session
