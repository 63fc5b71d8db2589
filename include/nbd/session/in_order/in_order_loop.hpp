// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/agreement.hpp>
#include <nbd/io/send_file.hpp>
#include <nbd/session/buffers/memory_wait.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/requests/job.hpp>

#include <boost/asio/error.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

// GCC 12 reports the operators new and delete of Asio's coroutine promise as a mismatch.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

namespace nbd::session {

/// The transmission phase for backends that answer at once: one request after the other, on the
/// thread or strand of the client. All requests that are buffered are answered before the next
/// wait, in one send where it fits.
template <class Io, class Stream, class Opened, class Observer>
class in_order_loop {
public:
    /// What to do when all of `out()` is sent.
    enum class next_step {
        receive,  ///< receive bytes, then call `answer_buffered` again
        go_on,    ///< call `answer_buffered` again: the outbox was full, or the work was long
        memory,   ///< await memory for the request, then call `answer_buffered` again
        linger,   ///< see intake::finding::linger, then call `answer_buffered` again
        close,
    };

    in_order_loop(Stream& stream, Opened& disk, const handshake::agreement& agreed,
                  context<Observer>& c)
        : stream_{stream}, context_{c}, memory_{stream, c.memory},
          exchange_{disk, agreed, c, io::socket<Stream>}
    {
    }

    /// The whole transmission. `c.ended` says why it ended.
    typename Io::template task<void> run()
    {
        auto& c = context_;
        for (;;) {
            // The time until the next wait is the server's own.
            c.deadline.disarm();
            const auto step = answer_buffered();

            // While the loop neither sends nor receives, it does not notice that the client is
            // gone.
            const bool works = step == next_step::go_on && out().empty();
            c.working.store(works, std::memory_order_relaxed);
            std::size_t sent = 0;
            c.sending.begin_transfer();
            while (!out().empty()) {
                c.arm_sending();
                auto result = io_.try_send(stream_, out());
                while (std::get<0>(result) == boost::asio::error::would_block)
                    result = co_await io_.send_some(stream_, out());
                const auto [error, n] = result;
                if (error) {
                    c.ended = error;
                    co_return;
                }
                out().sent(n);
                c.sending.moved(n);
                sent += n;
                turn_ += n;
                // The client may take its replies as fast as they are sent, so that no send waits.
                if (turn_ > io_.turn() && !out().empty())
                    co_await others_run();
            }
            c.sending.disarm();
            in().sent(sent);
            if (works || (step == next_step::go_on && turn_ > io_.turn()))
                co_await others_run();

            if (step == next_step::close || c.ending.closed_for() != errc{})
                co_return;
            if (step == next_step::linger)
                in().lingered(co_await io_.readable_within(stream_, in().linger_time));
            if (step == next_step::memory) {
                const typename context<Observer>::working_scope waits{c};
                if (memory_.for_request(job_.memory_wanted()))
                    co_await memory_.ended();
                job_.charged(memory_.request());
            }
            if (step != next_step::receive)
                continue;
            turn_ = 0;
            const auto [error, n] = co_await in().begin_receive(io_, stream_, true);
            if (!in().end_receive(error, n))
                co_return;
            if (!c.memory.begin_work()) {
                const typename context<Observer>::working_scope waits{c};
                if (memory_.for_work())
                    co_await memory_.ended();
                if (!memory_.granted())
                    co_return;
            }
        }
    }

    /// Answers all requests that are buffered, as far as the replies fit into the outbox. Requires
    /// that `out()` is empty. Errors: std::bad_alloc.
    [[nodiscard]] next_step answer_buffered()
    {
        using finding = typename intake<Opened, Observer>::finding;
        using decision = typename intake<Opened, Observer>::decision;
        if (!begun_ && !waits_)
            job_.done();
        if (std::exchange(waits_, false))
            begun_ = job_.begin_charged(exchange_) == beginning::begun;
        const bool first = std::exchange(waited_, false);
        std::uint64_t early = 0;
        const auto end = turn_ + io_.turn();
        for (;;) {
            if (in().receiving())
                return next_step::receive;
            if (begun_ && !carry_out())
                return next_step::go_on;
            // After much work the other clients of the thread may run; and the next send shows
            // whether the client is still there.
            if (turn_ > end)
                return next_step::go_on;
            switch (in().next()) {
            case finding::receive:
                waited_ = true;
                return next_step::receive;
            case finding::linger:
                return next_step::linger;
            case finding::close:
                return next_step::close;
            case finding::refusal:
                exchange_.out.reserve();
                job_.refuse(in().request(), exchange_.out, in().why());
                job_.answer();
                continue;
            case finding::complete:
                break;
            }
            const auto& r = in().request();
            const bool reads = r.command == protocol::command::read;
            if (first && early == 0)
                early = early_replies(reads ? std::min(r.length, exchange_.out.largest_read) : 0);
            if ((first && out().gathered() >= early)
                || !(reads ? job_type::reading_type::will_fit(r, exchange_.out)
                           : exchange_.out.fits(0, 0)))
                return next_step::go_on;
            if (reads)
                job_type::reading_type::reserve(r, exchange_.out);
            else
                exchange_.out.reserve();
            switch (in().accept()) {
            case decision::leave:
                return next_step::close;
            case decision::admitted: {
                const auto begun = job_.begin(exchange_);
                begun_ = begun == beginning::begun;
                waits_ = begun == beginning::waits;
                if (waits_)
                    return next_step::memory;
                break;
            }
            case decision::refused:
                break;
            }
            turn_ += least_work + r.length;
        }
    }

    [[nodiscard]] outbox& out() noexcept { return exchange_.out.out(); }
    [[nodiscard]] intake<Opened, Observer>& in() noexcept { return exchange_.in; }

private:
    using job_type = job<Opened, Observer, true>;
    using beginning = typename job_type::beginning;

    /// What each request counts in `turn_`, besides its data.
    static constexpr std::uint64_t least_work = std::uint64_t{4} << 10;
    /// Bytes of replies that are worth a send of their own; and bytes that wait for no more
    /// replies.
    static constexpr std::uint64_t least_early = std::uint64_t{32} << 10;
    static constexpr std::uint64_t most_early = std::uint64_t{1} << 20;
    static constexpr int try_again = 16;

    /// Ends the client's turn.
    [[nodiscard]] auto others_run()
    {
        turn_ = 0;
        return io_.yield(stream_);
    }

    /// Carries out the request that has begun and adds its reply. False if something must be done
    /// first: the reply must be sent, or other clients should have the thread.
    [[nodiscard]] bool carry_out()
    {
        auto& disk = exchange_.disk;
        if (job_.awaits_payload())
            job_.payload_arrived(exchange_);
        const auto over = [&](std::uint64_t zeroes) {
            turn_ += zeroes;
            return context_.over() || disk.gone();
        };
        if (!job_.make_calls(disk, over))
            return false;
        begun_ = false;
        job_.reserve();
        job_.answer();
        if (job_.must_be_sent_first())
            return false;
        job_.done();  // the memory of a WRITE is not kept while the client is idle
        return true;
    }

    /// Bytes of replies after which a send does not wait for the rest, where each reply has
    /// `length` bytes. A client that has waited for all its replies gets the first half early and
    /// works on it meanwhile; from then on it sends its requests in halves. A client that does not,
    /// gains nothing, so this is tried seldom.
    [[nodiscard]] std::uint64_t early_replies(std::uint64_t length) noexcept
    {
        const auto all = in().requests_buffered() * length;
        const bool parted = all > last_ + last_ / 2 || ++tried_ == try_again;
        last_ = all;
        if (!parted)
            return most_early;
        tried_ = 0;
        return std::clamp(all / 2, least_early, most_early);
    }

    Stream& stream_;
    context<Observer>& context_;
    memory_wait<Io> memory_;
    exchange<Opened, Observer> exchange_;
    job_type job_;
    [[no_unique_address]] Io io_;
    bool begun_ = false;      ///< the job's request is not answered yet
    bool waits_ = false;      ///< the job's request has to wait for memory
    bool waited_ = false;     ///< all was answered when the next bytes were received
    std::uint64_t turn_ = 0;  ///< bytes of work since other clients of the thread could run
    std::uint64_t last_ = 0;  ///< bytes of replies to all requests of the last receive
    int tried_ = 0;           ///< receives since early replies were tried
};

}  // namespace nbd::session

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
