// SPDX-License-Identifier: MIT
// A client of the negotiator without a socket: takes bytes, returns reply bytes and the action.
#pragma once

#include "support/bytes.hpp"
#include <nbd/handshake/negotiator.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd_test {

/// Replaces the session: passes exactly bytes_needed() bytes to the negotiator, and carries out its
/// actions on a list of exports. The empty name opens the first one.
class negotiation {
public:
    using action = nbd::handshake::action;
    struct entry {
        std::string name;
        std::string description;
        nbd::protocol::export_terms terms;
    };

    explicit negotiation(nbd::settings limits = {}, std::vector<entry> exports = default_exports())
        : limits_{std::move(limits)}, exports_{std::move(exports)}, negotiator_{limits_}
    {
    }
    explicit negotiation(nbd::tls_mode tls) : exports_{default_exports()}, negotiator_{limits_, tls}
    {
    }
    /// What goes on inside TLS.
    explicit negotiation(const negotiation& plain)
        : limits_{plain.limits_}, exports_{plain.exports_},
          negotiator_{plain.negotiator_.inside_tls()}
    {
    }
    negotiation& operator=(const negotiation&) = delete;

    /// Exchanges greeting and client flags, and discards the server's bytes.
    negotiation& begun(std::uint32_t flags = 3)
    {
        say(client_flags(flags));
        heard();
        return *this;
    }

    /// Sends bytes of the client. Bytes that do not complete a step of `bytes_needed()` are kept;
    /// bytes after the end of the handshake are not processed.
    action say(const bytes& more)
    {
        pending_.insert(pending_.end(), more.begin(), more.end());
        while (!over() && pending_.size() >= negotiator_.bytes_needed()) {
            const auto n = static_cast<std::ptrdiff_t>(negotiator_.bytes_needed());
            longest_step_ = std::max(longest_step_, negotiator_.bytes_needed());
            const bytes step(pending_.begin(), pending_.begin() + n);
            pending_.erase(pending_.begin(), pending_.begin() + n);
            last_ = carry_out(negotiator_.process(step));
        }
        return last_;
    }

    /// The bytes that the server has sent since the last call.
    bytes heard() { return std::exchange(negotiator_.reply(), {}); }

    /// Sends bytes; returns the server's reply as text, for comparisons.
    std::string answer(const bytes& more)
    {
        heard();
        say(more);
        return shown(heard());
    }
    std::string answer(std::uint32_t number, const bytes& data = {})
    {
        return answer(option(number, data));
    }
    /// Sends bytes; returns the type of the option reply. Nothing if the reply is not exactly one.
    std::optional<std::uint32_t> answer_type(const bytes& more)
    {
        heard();
        say(more);
        const auto all = heard();
        if (all.size() < 20 || all.size() != 20 + nbd::protocol::load<std::uint32_t>(at(all, 16)))
            return std::nullopt;
        return nbd::protocol::load<std::uint32_t>(at(all, 12));
    }

    /// Whether the stream is in step: an unknown option gets ERR_UNSUP.
    bool in_step() { return answer_type(option(0x4711)) == 0x80000001 && !over(); }

    bool over() const
    {
        return last_ == action::close || last_ == action::transmit || last_ == action::start_tls;
    }
    std::error_code ended() const { return negotiator_.close_reason(); }
    std::size_t longest_step() const { return longest_step_; }
    std::size_t opens() const { return opens_; }
    nbd::handshake::negotiator& negotiator() { return negotiator_; }
    /// From now on, opening an export fails with this error; none: it succeeds.
    void refuse_with(std::error_code why) { refusal_ = why; }

    static std::vector<entry> default_exports()
    {
        using namespace nbd::protocol::transmission_flag;
        return {
            {"disk", "A disk", {.size = 0x100000, .flags = has_flags | send_flush, .blocks = {}}},
            {"other",
             "\xc3\x84",
             {.size = 512, .flags = has_flags | read_only, .blocks = {512, 4096, 1 << 20}}}};
    }

private:
    static std::span<const std::byte> at(const bytes& all, std::size_t n)
    {
        return std::span{all}.subspan(n);
    }

    action carry_out(action v)
    {
        if (v == action::list_exports) {
            bool complete = true;
            for (const auto& e : exports_)
                complete = complete && negotiator_.list_export(e.name, e.description);
            return negotiator_.continue_list(complete);
        }
        if (v == action::open_export) {
            ++opens_;
            if (refusal_)
                return negotiator_.export_refused(refusal_);
            for (const auto& e : exports_) {
                if (negotiator_.requested_name() == e.name || negotiator_.requested_name().empty())
                    return negotiator_.export_opened({e.name, e.description, e.terms});
            }
            return negotiator_.export_refused(nbd::errc::unknown_export);
        }
        return v;
    }

    nbd::settings limits_;
    std::vector<entry> exports_;
    nbd::handshake::negotiator negotiator_;
    bytes pending_;
    action last_ = action::receive;
    std::size_t longest_step_ = 0;
    std::size_t opens_ = 0;
    std::error_code refusal_;
};

}  // namespace nbd_test
