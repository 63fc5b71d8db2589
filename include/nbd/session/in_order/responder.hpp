// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/buffers/scratch.hpp>
#include <nbd/session/requests/intake.hpp>
#include <nbd/session/requests/read_answer.hpp>
#include <nbd/session/requests/replies.hpp>
#include <nbd/transmission/execution.hpp>
#include <nbd/transmission/plan.hpp>
#include <nbd/transmission/status_plan.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

namespace nbd::session {

/// The in-order transmission of one client, less its waiting: takes requests, calls the backend,
/// gathers replies. `transmit` does the I/O that it asks for.
///
/// Everything that is buffered is answered before the next wait, in one send where it fits.
template <class Opened, class Observer>
class responder {
public:
    /// What is due after all of `out()` has been sent.
    enum class step {
        receive,  ///< receive into `in().space()`, say how much, then advance again
        again,    ///< advance again: there was no room for more replies
        linger,   ///< see whether more comes within a moment, say so to `in()`, advance again
        finish,   ///< close
    };

    /// `files` says that parts of files can be sent as they are.
    responder(Opened& disk, const handshake::agreement& agreed, context<Observer>& c, bool files)
        : disk_{disk}, agreed_{agreed}, context_{c}, in_{disk, agreed, c},
          replies_{c, agreed.style, read_answer<Opened, Observer>::outbox_bytes},
          read_{disk, replies_, scratch_, files}
    {
    }

    [[nodiscard]] outbox& out() noexcept { return replies_.out(); }
    [[nodiscard]] intake<Opened, Observer>& in() noexcept { return in_; }

    /// Answers all that is buffered. Requires that `out()` is empty.
    [[nodiscard]] step advance()
    {
        using found = typename intake<Opened, Observer>::step;
        using verdict = typename intake<Opened, Observer>::verdict;
        if (!writing_)
            scratch_.give_back();
        status_.give_back();
        const bool first = std::exchange(waited_, false);
        std::uint64_t early = 0;
        for (std::uint64_t work = 0;;) {
            if (in_.receiving())
                return step::receive;
            if (writing_)
                finish_write();
            if (plan_ && !carry_on(work))
                return step::again;
            // Whoever asks for much at once lets others have their turn in between; and who has
            // gone meanwhile is found out by sending.
            if (work > most_work)
                return step::again;
            switch (in_.next()) {
            case found::receive:
                waited_ = true;
                return step::receive;
            case found::linger:
                return step::linger;
            case found::finish:
                return step::finish;
            case found::refused:
                replies_.error(in_.request(), in_.why(), transmission::explain(in_.why()));
                continue;
            case found::request:
                break;
            }
            const auto& r = in_.request();
            const bool reads = r.command == protocol::command::read;
            // What is longer than that will be refused, and needs no room.
            const auto data = reads ? std::min(r.length, replies_.largest_read) : 0;
            if (first && early == 0)
                early = early_replies(data);
            if (first && out().gathered() >= early)
                return step::again;
            if (!replies_.fits(data, reads ? read_.room(r) : 0)
                || (reads && !out().empty() && read_.wants_empty_outbox(r)))
                return step::again;
            const auto taken = in_.take();
            if (taken == verdict::leave)
                return step::finish;
            work += least_work + r.length;
            if (taken == verdict::admitted && !answer(r))
                return step::again;
        }
    }

private:
    using backend_type = typename Opened::backend_type;

    /// Bytes that are worked on at one go, where each request counts for some by itself.
    static constexpr std::uint64_t most_work = std::uint64_t{32} << 20;
    static constexpr std::uint64_t least_work = std::uint64_t{4} << 10;
    /// Bytes of replies that are worth a send of their own, and that need not wait for more.
    static constexpr std::uint64_t least_early = std::uint64_t{32} << 10;
    static constexpr std::uint64_t most_early = std::uint64_t{128} << 10;
    static constexpr int try_again = 16;

    /// Bytes of replies to send before all that is buffered has been answered, where each is that long. A
    /// client that has waited for everything gets the first half early, and works on it meanwhile; then
    /// it asks in halves by itself. Where it does not, it gains nothing by that, so it is seldom tried.
    [[nodiscard]] std::uint64_t early_replies(std::uint64_t length) noexcept
    {
        const auto all = in_.requests_buffered() * length;
        const bool parted = all > last_ + last_ / 2 || ++tried_ == try_again;
        last_ = all;
        if (!parted)
            return most_early;
        tried_ = 0;
        return std::clamp(all / 2, least_early, most_early);
    }

    /// False where the reply must be sent before another is made.
    [[nodiscard]] bool answer(const protocol::request& r)
    {
        using protocol::command;
        switch (r.command) {
        case command::read:
            return read_.answer(r);
        case command::write:
            answer_write(r);
            return true;
        case command::block_status:
            answer_status(r);
            return false;
        case command::resize:
            replies_.answer(r, disk_.resize(r.offset));
            return true;
        default:
            begin(r, {});
            return true;
        }
    }

    /// Begins the calls of a request without data; short ones are done at once.
    void begin(const protocol::request& r, std::span<const std::byte> payload)
    {
        plan_.emplace(r, transmission::largest_write(in_.terms()));
        planned_ = r;
        std::uint64_t work = 0;
        std::ignore = carry_on(work, payload);
    }

    /// Makes calls until there are none left, or others should have their turn: then false.
    [[nodiscard]] bool carry_on(std::uint64_t& work, std::span<const std::byte> payload = {})
    {
        const transmission::request_data request_data{.request = &planned_, .payload = payload};
        const auto over = [&](std::uint64_t zeroes) {
            work += zeroes;
            return context_.over() || disk_.gone();
        };
        if (!transmission::make_some(disk_.backend(), *plan_, request_data, disk_, over))
            return false;
        replies_.answer(planned_, plan_->result());
        plan_.reset();
        return true;
    }

    void answer_status(const protocol::request& r)
    {
        const auto refused = status_.begin(r, in_.terms(), agreed_.contexts, agreed_.style,
                                           in_.payload(), context_.limits.extents_per_reply);
        in_.consume_payload();
        transmission::make_all(disk_.backend(), status_,
                               {.request = &r, .extents = &status_.list()}, disk_);
        if (refused)
            replies_.error(r, refused->value, refused->text);
        else
            replies_.status(r, status_.result(), status_.reply());
    }

    void answer_write(const protocol::request& r)
    {
        const auto length = static_cast<std::size_t>(r.length);
        if (length <= in_.buffered_payload) {
            begin(r, in_.payload());
            in_.consume_payload();
            return;
        }
        writing_ = large_write{r, {}};
        std::span<std::byte> to;
        if constexpr (has_lend_for_write<backend_type>) {
            // What is received in place can only be made durable by a flush.
            if (has_flush<backend_type> || !r.has(protocol::command_flag::fua))
                to = disk_.backend().lend_for_write(r.offset, length);
        }
        if (to.size() != length)
            to = writing_->collected = scratch_.bytes(length);
        in_.receive_into(to);
    }

    /// The payload of a large WRITE has arrived.
    void finish_write()
    {
        const auto done = *writing_;
        writing_.reset();
        if (const auto why = in_.still_admitted(done.request); why != protocol::error_value::none) {
            replies_.error(done.request, why, transmission::explain(why));
            return;
        }
        if (!done.collected.empty()) {
            begin(done.request, done.collected);
            return;
        }
        if constexpr (has_lent_written<backend_type>)
            disk_.backend().lent_written(done.request.offset,
                                         static_cast<std::size_t>(done.request.length));
        failure failed;
        if constexpr (has_flush<backend_type>) {
            if (done.request.has(protocol::command_flag::fua))
                failed = transmission::make(disk_.backend(),
                                            {.what = transmission::step::member::flush}, {}, disk_);
        }
        replies_.answer(done.request, failed);
    }

    struct large_write {
        protocol::request request;
        std::span<std::byte> collected;  ///< scratch that holds the payload; empty: in its place
    };

    Opened& disk_;
    const handshake::agreement& agreed_;
    context<Observer>& context_;
    intake<Opened, Observer> in_;
    scratch scratch_;
    replies<Observer> replies_;
    read_answer<Opened, Observer> read_;
    transmission::status_plan<backend_type> status_;
    std::optional<transmission::plan<backend_type>> plan_;  ///< of zeroes that take their time
    protocol::request planned_;
    std::optional<large_write> writing_;
    std::uint64_t last_ = 0;  ///< bytes of replies to what was received at a time
    int tried_ = 0;           ///< receipts ago
    bool waited_ = false;     ///< what comes next was received after all before had been answered
};

}  // namespace nbd::session
