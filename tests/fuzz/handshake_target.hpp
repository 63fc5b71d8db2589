// SPDX-License-Identifier: MIT
// The handshake, without a session: the negotiator alone, in all modes of TLS and past STARTTLS.
// The first four bytes of an input choose the circumstances; the others are what the client sends.
#pragma once

#include "handshake_model.hpp"
#include "harness.hpp"
#include "option_limits.hpp"
#include <nbd/handshake/negotiator.hpp>
#include <nbd/vocabulary/established.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

namespace nbd_fuzz::handshake_target {

using nbd::handshake::action;

/// An export, and how the server tells of it.
struct entry {
    nbd_model::served_export model;
    std::uint16_t flags;
    std::vector<nbd::protocol::meta_context> contexts;

    nbd::handshake::export_info info() const
    {
        return {model.name,
                model.description,
                {.size = model.size,
                 .flags = flags,
                 .blocks = {model.minimum_block, model.preferred_block, model.maximum_payload}},
                contexts,
                model.require_block_sizes};
    }
};

/// The exports, in the order of LIST.
inline const std::vector<entry>& entries()
{
    namespace tf = nbd::protocol::transmission_flag;
    static const std::vector<entry> all{
        {{.name = "a",
          .description = "block sizes",
          .size = 1U << 20,
          .minimum_block = 512,
          .preferred_block = 4096,
          .maximum_payload = 65'536,
          .require_block_sizes = true},
         tf::has_flags | tf::read_only,
         {}},
        {{.name = "disk",
          .description = "\xc3\xa4 disk",
          .size = std::uint64_t{1} << 40,
          .contexts = {{"base:allocation"}, {"x-a:b"}, {"x-a:wide", true}}},
         tf::has_flags | tf::send_flush | tf::send_write_zeroes | tf::send_fast_zero,
         {nbd::protocol::base_allocation, {"x-a:b"}, {"x-a:wide", true}}},
        {{.name = "secret",
          .description = std::string(4096, 's'),
          .tls_only = true,
          .contexts = {{"base:allocation"}}},
         tf::has_flags,
         {nbd::protocol::base_allocation}},
        {{.name = std::string(4096, 'x'), .description = std::string(4096, 'd')},
         tf::has_flags,
         {}},
        {{.name = std::string(4096, 'y'), .description = std::string(4096, 'd')},
         tf::has_flags,
         {}},
        {{.name = std::string(4096, 'z'),
          .description = std::string(4096, 'd'),
          .size = 1,
          .require_block_sizes = true},
         tf::has_flags,
         {}},
    };
    return all;
}

/// A handshake that another program has made: no byte is sent, and the export opens, or not.
inline void adopt(const nbd::settings& limits, unsigned which, unsigned contexts)
{
    const nbd_model::served_context wanted[] = {{"base:allocation"}, {"x-a:wide"}, {"x-b:c"}};
    const auto& e = entries()[which % entries().size()];
    nbd::established begun{.export_name = e.model.name,
                           .structured_replies = (contexts & 8) != 0,
                           .extended_headers = (contexts & 16) != 0};
    bool fits = true;
    for (std::uint32_t i = 0; i < std::size(wanted); ++i) {
        if ((contexts >> i & 1) == 0)
            continue;
        begun.meta_contexts.push_back({wanted[i].name, i + 5});
        fits = fits && (contexts & (i == 1 ? 16 : 24)) != 0
            && std::any_of(e.contexts.begin(), e.contexts.end(),
                           [&](const auto& c) { return c.name == wanted[i].name; });
    }
    nbd::handshake::negotiator n{limits, nbd::tls_mode::none, &begun};
    using nbd_model::require;
    require(n.first_action() == action::open_export && n.requested_name() == e.model.name
                && n.purpose() == nbd::open_purpose::transmission && n.reply().empty(),
            "an adopted client does not begin with its export");
    const auto next = (contexts & 32) != 0 ? n.export_refused(nbd::errc::unknown_export)
                                           : n.export_opened(e.info());
    const bool opens = fits && (contexts & 32) == 0;
    require(next == (opens ? action::transmit : action::close) && n.reply().empty(),
            "an adopted client is served, or not");
    require(!opens || n.agreed().contexts.size() == begun.meta_contexts.size(),
            "an adopted client has other contexts");
}

/// Carries out what the negotiator wants, for a client that has sent `input`.
class server {
public:
    server(const nbd::settings& limits, nbd::tls_mode mode, bool fails, bool pages,
           nbd_model::handshake& model)
        : negotiator_{limits, mode}, fails_{fails}, pages_{pages}, model_{model}
    {
    }

    void run(std::span<const std::byte> input, std::size_t stops_at)
    {
        auto next = action::receive;
        for (std::size_t step = 1;; ++step) {
            if (next == action::list_exports) {
                if (step == stops_at) {
                    negotiator().shut_down();
                    model_.server_stops();
                }
                next = list();
                tell();
                continue;
            }
            if (next == action::open_export) {
                next = open();
                continue;
            }
            tell();
            if (next == action::start_tls) {
                model_.secure();
                inside_.emplace(negotiator().inside_tls());
                next = action::receive;
            }
            const auto n = negotiator().bytes_needed();
            if (next != action::receive || n > input.size()) {
                model_.client_sent(next == action::transmit ? std::span<const std::byte>{} : input);
                break;
            }
            if (step == stops_at) {
                negotiator().shut_down();
                model_.server_stops();
            }
            // A copy of exactly that size, so that a sanitizer sees a read past its end.
            piece_.assign(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(n));
            piece_.shrink_to_fit();
            input = input.subspan(n);
            model_.client_sent(piece_);
            next = negotiator().process(piece_);
        }
        if (next != action::close)
            model_.client_ended();
        model_.ended(true);
        nbd_model::require((next == action::transmit) == model_.transmits(),
                           "transmission begins for one side only");
        if (next == action::transmit)
            compare(negotiator().agreed());
    }

private:
    nbd::handshake::negotiator& negotiator() { return inside_ ? *inside_ : negotiator_; }

    void tell()
    {
        model_.server_sent(negotiator().reply());
        negotiator().reply().clear();
    }

    action list()
    {
        auto& n = negotiator();
        const auto position = n.list_position();
        if (fails_ && !n.may_call())
            return n.export_refused(nbd::errc::too_many_options);
        if (fails_ && ++failures_ % 4 == 0)
            return n.export_refused(std::make_error_code(std::errc::io_error));
        std::size_t named = 0;
        for (const auto& e : entries()) {
            if (position && e.model.name <= *position)
                continue;
            if (e.model.tls_only && !n.secured()) {
                n.skip_export(e.model.name);
                continue;
            }
            if ((pages_ && ++named > 1) || !n.list_export(e.model.name, e.model.description))
                return n.continue_list(false);
        }
        return n.continue_list(true);
    }

    action open()
    {
        auto& n = negotiator();
        const auto name = n.requested_name();
        const auto found = std::find_if(entries().begin(), entries().end(), [&](const entry& e) {
            return e.model.name == (name.empty() ? "disk" : name);
        });
        if (found == entries().end())
            return n.export_refused(nbd::errc::unknown_export);
        if (n.needs_tls(found->model.tls_only))
            return n.export_refused(nbd::errc::tls_required);
        if (!n.may_open())
            return n.export_refused(nbd::errc::too_many_options);
        if (fails_ && n.purpose() == nbd::open_purpose::information) {
            if (!n.may_call())
                return n.export_refused(nbd::errc::too_many_options);
            const std::array<std::error_code, 3> whys{
                std::make_error_code(std::errc::permission_denied),
                std::make_error_code(std::errc::io_error), nbd::errc::not_authorised};
            return n.export_refused(whys[failures_++ % whys.size()]);
        }
        return n.export_opened(found->info());
    }

    void compare(const nbd::handshake::agreement& made) const
    {
        using nbd_model::require;
        const auto& told = model_.agreed();
        require(made.terms.size == told.size && made.terms.flags == told.flags,
                "the session has other terms than the client");
        require(made.contexts.size() == told.contexts.size()
                    && std::is_permutation(
                        made.contexts.begin(), made.contexts.end(), told.contexts.begin(),
                        [](const auto& a, const auto& b) { return a.id == b.id; }),
                "the session has other contexts than the client");
        require(static_cast<int>(made.style) == static_cast<int>(told.form),
                "the session has another form of replies than the client");
        require(made.terms.block_status == !told.contexts.empty(), "block_status is wrong");
    }

    nbd::handshake::negotiator negotiator_;
    std::optional<nbd::handshake::negotiator> inside_;
    bool fails_;
    bool pages_;
    nbd_model::handshake& model_;
    std::size_t failures_ = 0;
    std::vector<std::byte> piece_;
};

inline void run(std::span<const std::byte> rest)
{
    static std::vector<std::byte> input;
    static nbd_model::served served = [] {
        nbd_model::served made{.exports = {}, .default_export = "disk"};
        for (const auto& e : entries())
            made.exports.push_back(e.model);
        return made;
    }();
    choices c{rest};
    const auto how = c.next();
    const auto small = c.next();
    const auto stops_at = c.next();
    const auto adopted = c.next();
    expand(rest, input, std::size_t{256} << 10);

    const auto mode = std::array{nbd::tls_mode::none, nbd::tls_mode::forced,
                                 nbd::tls_mode::selective, nbd::tls_mode::none}[how & 3];
    served.mode = std::array{nbd_model::tls::none, nbd_model::tls::forced,
                             nbd_model::tls::selective, nbd_model::tls::none}[how & 3];
    nbd::settings limits;
    limits.exports_listed = (small & 1) != 0 ? 2 : 100;
    limit_options(limits, small);
    tell_limits(served, limits);
    served.most_listed = limits.exports_listed;

    if ((how & 16) != 0)
        return adopt(limits, stops_at, adopted);
    nbd_model::handshake model{served};
    if ((how & 4) != 0)
        model.open_fails();
    server{limits, mode, (how & 4) != 0, (how & 8) != 0, model}.run(input, stops_at);
}

}  // namespace nbd_fuzz::handshake_target
