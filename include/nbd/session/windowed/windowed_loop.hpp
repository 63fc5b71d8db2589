// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/async_event.hpp>
#include <nbd/io/at_once.hpp>
#include <nbd/io/handler_tracker.hpp>
#include <nbd/io/periodic_notifier.hpp>
#include <nbd/io/send_file.hpp>
#include <nbd/session/buffers/memory_wait.hpp>
#include <nbd/session/requests/job.hpp>
#include <nbd/session/windowed/window.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/socket_base.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <system_error>
#include <tuple>
#include <utility>

namespace nbd::session {

/// The transmission phase of a backend whose calls take time. Many requests of the client are in
/// flight. Replies are sent in the order of completion ("Ordering of messages and writes").
///
/// `Calls` makes the calls of a job and then calls `finished(slot)`: awaited_calls, callback_calls
/// or offloaded_calls.
/// *Thread safety*: on the strand of the client, unless a member says otherwise.
template <class Io, class Stream, class Opened, class Observer, template <class> class Calls>
class windowed_loop {
public:
    using executor_type = typename Stream::executor_type;
    using opened_type = Opened;
    struct slot : Calls<windowed_loop>::state {
        session::job<Opened, Observer, false> job;
        slot* next = nullptr;
        bool under_way = false;
    };

    template <class... Args>
    windowed_loop(Stream& stream, Opened& disk, const handshake::agreement& agreed,
                  context<Observer>& c, Args&&... calls)
        : stream_{stream}, c_{c}, memory_{stream, c.memory},
          calls_{*this, std::forward<Args>(calls)...},
          exchange_{disk, agreed, c, io::socket<Stream>},
          window_{parallel ? c.limits.requests_in_flight : 1, c.memory.most_for_requests(),
                  c.limits.serialize_overlaps,
                  transmission::status_plan<backend_type>::most_bytes(
                      {.length = std::uint64_t(-1)}, agreed.contexts.size(), agreed.style,
                      exchange_.most_extents)},
          tick_{executor(), wake{*this}}
    {
        writer_.owner = this;
    }
    windowed_loop(const windowed_loop&) = delete;
    windowed_loop& operator=(const windowed_loop&) = delete;

    /// Completes when the client has left and every call has completed. `c.ended` is the reason.
    typename Io::template task<void> run()
    {
        try {
            boost::asio::co_spawn(executor(), write(),
                                  io::tracked_completion{writer_.begin([](io::handler_tracker& t) {
                                      static_cast<writer&>(t).owner->calls_over_.notify();
                                  })});
        } catch (...) {
            give_up(current_error());
        }
        bool stays = false;
        try {
            stays = !failed() && co_await read();
        } catch (...) {  // probably no memory
            give_up(current_error());
        }
        if (receiving_ != nullptr)
            abandon(*std::exchange(receiving_, nullptr));
        if (!stays)
            cancel();
        closing_ = true;
        replies_due_.notify();
        while (writer_.active()) {
            if (!gone() && c_.ending.lost())
                cancel();
            if (!gone())
                tick_.arm();
            co_await calls_over_.wait();
        }
        window_.for_each([this](slot& s) { calls_.end(s); });
        while (!calls_.ended())
            co_await calls_over_.wait();
    }

    // --- for the calls --------------------------------------------------------------------------
    [[nodiscard]] executor_type executor() { return stream_.get_executor(); }
    [[nodiscard]] Opened& disk() noexcept { return exchange_.disk; }
    /// All calls of the job have completed. On the strand, as the next two members.
    void finished(slot& s)
    {
        window_.finished(s);
        replies_due_.notify();
    }
    /// `Calls::ended` may be true now.
    void ended() { calls_over_.notify(); }
    [[nodiscard]] bool closing() const noexcept { return closing_; }
    /// The client is disconnected, so no reply is needed any more. From any thread.
    [[nodiscard]] bool gone() const noexcept
    {
        return disconnected_.load(std::memory_order_relaxed);
    }
    /// No reply reaches the client, so the next call of a READ is not made. From any thread.
    [[nodiscard]] bool is_useless(const protocol::request& r) const noexcept
    {
        return r.command == protocol::command::read && hung_up_.load(std::memory_order_relaxed);
    }
    /// Whether long work must end, also for a client that has sent DISC. From any thread.
    [[nodiscard]] bool abandoned() const noexcept { return gone() || c_.over() || disk_gone(); }

private:
    using backend_type = typename Opened::backend_type;
    using finding = typename intake<Opened, Observer>::finding;
    using decision = typename intake<Opened, Observer>::decision;
    using beginning = typename job<Opened, Observer, false>::beginning;
    static constexpr bool parallel = concurrency_of<backend_type>() == concurrency::parallel;

    [[nodiscard]] bool failed() const noexcept { return c_.ending.has_failed(); }
    static constexpr std::uint64_t much_work = std::uint64_t{1} << 20;  ///< bytes of READs
    [[nodiscard]] bool disk_gone() const noexcept { return exchange_.disk.gone(); }
    [[nodiscard]] intake<Opened, Observer>& in() noexcept { return exchange_.in; }

    void cancel()
    {
        disconnected_ = true;
        window_.for_each([this](slot& s) { calls_.cancel(s); });
    }
    void give_up(std::error_code why) noexcept
    {
        if (!c_.ended)
            c_.ended = why;
        c_.ending.sending_failed();
        hung_up_ = true;
        boost::system::error_code ignored;
        stream_.shutdown(boost::asio::socket_base::shutdown_both, ignored);
        room_.notify();
        calls_over_.notify();
        c_.memory.close();
    }

    /// Receives requests until no more come. *Returns* false if the client is disconnected and no
    /// reply is needed; true if earlier requests must still be answered.
    typename Io::template task<bool> read()
    {
        for (std::uint64_t work = 0;;) {
            if (work >= much_work) {  // other clients of the thread run in between
                work = 0;
                co_await Io::resume_on(executor(), pause_);
            }
            if (receiving_ != nullptr && !in().receiving()) {
                slot& s = *std::exchange(receiving_, nullptr);
                s.job.payload_arrived(exchange_);
                call(s);
            }
            const auto found = in().next();
            if (found == finding::close)
                co_return true;
            if (found == finding::linger) {
                in().lingered(co_await io_.readable_within(stream_, in().linger_time));
                continue;
            }
            if (found == finding::receive) {
                while (in().must_pause() && !in().mid_message() && !window_.empty()) {
                    const typename context<Observer>::working_scope works{c_};
                    tick_.arm();
                    co_await room_.wait();
                    if (failed() || c_.ending.lost())
                        co_return false;
                }
                const auto [error, n] = co_await in().begin_receive(io_, stream_, window_.empty());
                if (!in().end_receive(error, n)) {
                    hung_up_ = failed() || io::is_hung_up(stream_);
                    // See serve.hpp. A server that stops ends the stream itself.
                    co_return (error == boost::asio::error::eof || c_.stopping) && !hung_up_;
                }
                if (!c_.memory.begin_work()) {
                    const typename context<Observer>::working_scope works{c_};
                    if (memory_.for_work())
                        co_await memory_.ended();
                    if (!memory_.granted())
                        co_return true;
                }
                continue;
            }
            const auto r = in().request();
            const bool leaves = r.command == protocol::command::disc;
            if (!leaves && !window_.has_room_for(r) && !co_await room())
                co_return false;
            if (found == finding::refusal) {
                slot& s = window_.occupy(r);
                s.job.refuse(r, exchange_.out, in().why());
                finished(s);
                continue;
            }
            switch (in().accept()) {
            case decision::leave:
                if (leaves)
                    c_.ending.disc_received();
                co_return true;
            case decision::refused:
                continue;
            case decision::admitted:
                break;
            }
            slot& s = window_.occupy(r);
            if (r.command == protocol::command::read && (work += r.length) >= much_work)
                hung_up_ = failed() || io::is_hung_up(stream_);
            auto begun = s.job.begin(exchange_);
            if (begun == beginning::waits) {
                receiving_ = &s;  // where the wait fails, it is answered like a broken off WRITE
                {
                    const typename context<Observer>::working_scope works{c_};
                    if (memory_.for_request(s.job.memory_wanted()))
                        co_await memory_.ended();
                }
                receiving_ = nullptr;
                s.job.charged(memory_.request());
                begun = s.job.begin_charged(exchange_);
            }
            if (begun != beginning::begun)
                window_.vacate(s, r);
            else if (s.job.awaits_payload())
                receiving_ = &s;
            else
                call(s);
        }
    }

    /// Begins the calls of the slot's job.
    void call(slot& s)
    {
        if (s.job.is_resize())
            return calls_.resize(s);
        if (!s.job.next()) {
            finished(s);
            return;
        }
        calls_.begin(s);
    }
    /// Replies ESHUTDOWN to a request whose payload did not arrive.
    void abandon(slot& s)
    {
        s.job.refuse(protocol::error_value::eshutdown);
        finished(s);
    }

    /// Waits until there is room for the request that was found. *Returns* false if the client is
    /// disconnected. Nothing is received during the wait, so the server checks the connection.
    typename Io::template task<bool> room()
    {
        const typename context<Observer>::working_scope works{c_};
        while (!failed() && !c_.ending.lost() && !window_.has_room_for(in().request())) {
            tick_.arm();
            co_await room_.wait();
        }
        co_return !failed() && !c_.ending.lost();
    }

    /// Sends each reply when it is ready, until no request is in flight and no more come.
    typename Io::template task<void> write()
    {
        auto& out = exchange_.out.out();
        while (!closing_ || !window_.empty()) {
            try {
                failed() ? window_.drop_replies() : window_.gather();
                if (out.empty()) {
                    if (closing_ && window_.empty())
                        continue;
                    // Nothing is received or sent now, so the server checks the connection.
                    std::optional<typename context<Observer>::working_scope> works;
                    if (closing_)
                        works.emplace(c_);
                    co_await replies_due_.wait();
                    continue;
                }
                c_.sending.begin_transfer();
                while (!out.empty() && !failed()) {
                    c_.arm_sending();
                    auto result = io_.try_send(stream_, out);
                    while (std::get<0>(result) == boost::asio::error::would_block)
                        result = co_await io_.send_some(stream_, out);
                    const auto [error, n] = result;
                    c_.sending.moved(n);
                    if (error)
                        give_up(error);
                    else
                        out.sent(n);
                }
            } catch (...) {  // no memory
                give_up(current_error());
            }
            c_.sending.disarm();
            if (failed())
                out.clear();
            window_.sent();
            if (window_.empty())
                in().now_idle();
            room_.notify();
        }
    }

    struct writer : io::handler_tracker {
        windowed_loop* owner = nullptr;
    };
    struct wake {
        windowed_loop& loop;
        void operator()() const
        {
            loop.room_.notify();
            loop.calls_over_.notify();
        }
    };

    Stream& stream_;
    context<Observer>& c_;
    memory_wait<Io> memory_;
    Calls<windowed_loop> calls_;
    exchange<Opened, Observer> exchange_;
    window<slot> window_;
    [[no_unique_address]] Io io_;
    io::async_event<executor_type> replies_due_;
    io::async_event<executor_type> room_;
    io::async_event<executor_type> calls_over_;
    writer writer_;
    io::periodic_notifier<executor_type, wake> tick_;
    slot* receiving_ = nullptr;               ///< receives its payload
    bool closing_ = false;                    ///< no more requests come
    std::atomic<bool> disconnected_ = false;  ///< no reply is needed any more
    std::atomic<bool> hung_up_ = false;       ///< no reply reaches the client any more
    io::handler_memory pause_;
};

}  // namespace nbd::session
