// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/handshake/action.hpp>
#include <nbd/handshake/agreement.hpp>
#include <nbd/handshake/export_info.hpp>
#include <nbd/handshake/export_listing.hpp>
#include <nbd/handshake/meta_context.hpp>
#include <nbd/handshake/option_answers.hpp>
#include <nbd/handshake/option_reader.hpp>
#include <nbd/handshake/option_replies.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/settings.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/established.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace nbd::handshake {

/// The server's newstyle handshake, without I/O. It takes bytes and returns an action and a reply.
///
/// The session receives `bytes_needed()` bytes, calls `process`, and carries out the action.
/// *Lifetime*: `limits` outlives the negotiator. Received bytes stay unchanged until the next
/// `process`, because names are views into them.
class negotiator : option_answers {
public:
    /// Puts the greeting into `reply()`. `begun`: if not null, the handshake is over: its export is
    /// opened, then the action is transmit or close, without a byte received or sent.
    /// *Lifetime*: `begun` until that action.
    explicit negotiator(const settings& limits, tls_mode tls = tls_mode::none,
                        const established* begun = nullptr)
        : option_answers{limits, tls}, opens_left_{limits.options_per_handshake},
          calls_left_{limits.options_per_handshake}, begun_{begun}
    {
        if (begun_ != nullptr) {
            reader_.assume(protocol::option::go);
            requested_.name = begun_->export_name;
            style_ = begun_->style();
            return;
        }
        const auto room = append(reply_, protocol::greeting_bytes);
        protocol::encode_greeting(room.first<protocol::greeting_bytes>(), offered);
    }

    /// *Returns* the negotiator that goes on inside TLS, after action::start_tls. It has the client
    /// flags, and what is left of the limits. Nothing that was negotiated is kept (point 32).
    [[nodiscard]] negotiator inside_tls() const { return negotiator{*this, inside{}}; }
    /// Whether the last action was start_tls.
    [[nodiscard]] bool starts_tls() const noexcept { return starts_tls_; }
    /// Whether this is inside TLS.
    [[nodiscard]] bool secured() const noexcept { return secured_; }

    [[nodiscard]] action first_action() const noexcept
    {
        return begun_ != nullptr ? action::open_export : action::receive;
    }
    /// *Returns* the number of bytes that `process` takes next.
    [[nodiscard]] std::size_t bytes_needed() const noexcept { return reader_.bytes_needed(); }

    /// The bytes to send. The session sends them and clears them.
    [[nodiscard]] reply_bytes& reply() noexcept { return reply_; }

    /// Processes exactly `bytes_needed()` bytes.
    [[nodiscard]] action process(std::span<const std::byte> bytes)
    {
        using found = option_reader::found;
        switch (reader_.process(bytes)) {
        case found::nothing:
            return action::receive;
        case found::client_flags:
            return process_client_flags(reader_.client_flags());
        case found::option:
            return answer_option(reader_.data());
        case found::oversized_option:
            return answer_oversized_option();
        case found::violation:
            break;
        }
        return close(reader_.violation());
    }

    /// The option whose header was processed last.
    using option_answers::needs_tls, option_answers::option;
    /// Whether the next byte begins an option. Otherwise, a closed connection was cut short.
    [[nodiscard]] bool between_options() const noexcept { return reader_.between_options(); }
    /// Whether no byte was processed.
    [[nodiscard]] bool untouched() const noexcept { return reader_.untouched(); }
    /// *Returns* why the action was `close`; empty after ABORT.
    [[nodiscard]] std::error_code close_reason() const noexcept { return close_reason_; }

    /// Makes all later options but ABORT, and an incomplete LIST, get ERR_SHUTDOWN (point 24).
    void shut_down() noexcept { shutting_down_ = true; }

    // --- after action::list_exports -------------------------------------------------------------

    /// *Returns* the name of the last export that was listed; nullopt at the beginning of a list.
    [[nodiscard]] const std::optional<std::string>& list_position() const noexcept
    {
        return listing_.position();
    }
    /// Adds an export to the answer. *Returns* false, without adding it, if the reply must be sent
    /// first or no more exports may be listed.
    [[nodiscard]] bool list_export(std::string_view name, std::string_view description)
    {
        if (!listing_.add(reply_, name, description))
            return false;
        if (lists_ == 1) {
            reader_.allow_more(limits_.options_per_handshake);
            ++opens_left_;
            calls_left_ += calls_per_export;
        }
        return true;
    }
    /// Goes on after an export that is not added, because the client must not see it.
    void skip_export(std::string_view name) { listing_.skip(name); }
    /// Ends a piece of the list. `complete`: there are no more exports.
    [[nodiscard]] action continue_list(bool complete)
    {
        if (shutting_down_)
            return shutdown_error();
        if (!complete && !listing_.full())
            return action::list_exports;
        return ack();
    }

    // --- after action::open_export --------------------------------------------------------------

    /// *Lifetime*: as the bytes that were processed last.
    [[nodiscard]] std::string_view requested_name() const noexcept { return requested_.name; }

    [[nodiscard]] open_purpose purpose() const noexcept
    {
        const auto o = option().option;
        return o == protocol::option::go || o == protocol::option::export_name
            ? open_purpose::transmission
            : open_purpose::information;
    }
    /// Counts a call of the backend's `open`, of the program's function that looks up or lists
    /// exports, or a LIST with `authorise`; call this before it. *Returns* false if the client has
    /// caused too many calls; then call export_refused with errc::too_many_options.
    [[nodiscard]] bool may_open() noexcept { return opens_left_ != 0 && opens_left_-- != 0; }
    [[nodiscard]] bool may_call() noexcept { return calls_left_ != 0 && calls_left_-- != 0; }

    /// Answers the option with the information about the export.
    [[nodiscard]] action export_opened(const export_info& e)
    {
        if (begun_ != nullptr)
            return go_on(e);
        switch (option().option) {
        case protocol::option::list_meta_context:
            list_contexts(reply_, meta_, e, style_);
            return ack();
        case protocol::option::set_meta_context:
            selection_.select(reply_, meta_, e, style_);
            return ack();
        default:
            return answer_info(e);
        }
    }
    /// Answers the option with an error, also LIST. EXPORT_NAME has no error reply (point 28).
    [[nodiscard]] action export_refused(std::error_code why)
    {
        return begun_ != nullptr ? close(why) : refuse_export(why);
    }

    /// *Returns* the result of the negotiation, after action::transmit.
    [[nodiscard]] const agreement& agreed() const noexcept { return agreed_; }

private:
    /// Calls of the program for each export that was listed: clients that describe all exports
    /// need three.
    static constexpr std::size_t calls_per_export = 4;
    static constexpr std::uint16_t offered =
        protocol::handshake_flag::fixed_newstyle | protocol::handshake_flag::no_zeroes;

    negotiator(const negotiator& plain, inside in)
        : option_answers{plain, in}, fixed_newstyle_{plain.fixed_newstyle_},
          no_zeroes_{plain.no_zeroes_}, shutting_down_{plain.shutting_down_},
          opens_left_{plain.opens_left_}, calls_left_{plain.calls_left_}
    {
    }

    // "Client flags": a flag that was not offered MUST end the session (point 14).
    action process_client_flags(std::uint32_t flags) noexcept
    {
        if ((flags & ~std::uint32_t{offered}) != 0)
            return close(errc::unknown_client_flags);
        fixed_newstyle_ = (flags & protocol::client_flag::fixed_newstyle) != 0;
        no_zeroes_ = (flags & protocol::client_flag::no_zeroes) != 0;
        return action::receive;
    }

    action answer_oversized_option()
    {
        if (option().option == protocol::option::set_meta_context)
            selection_.clear();
        const bool starts_tls = option().option == protocol::option::starttls;
        if (option().option == protocol::option::abort || shutting_down_ || !fixed_newstyle_
            || (must_start_tls() && !starts_tls))
            return answer_option({});
        if (!supported(option().option) && !(starts_tls && tls_ != tls_mode::none))
            return unsupported();
        return error(protocol::option_reply::err_too_big, "the option has too much data");
    }

    action answer_option(std::span<const std::byte> data)
    {
        using protocol::option;
        const auto o = reader_.option().option;
        if (shutting_down_ && o != option::abort)
            return o == option::export_name ? close(errc::server_stopped) : shutdown_error();
        if (!fixed_newstyle_ && o != option::export_name && o != option::abort)
            return invalid("the client did not negotiate fixed newstyle");  // point 16
        if (must_start_tls() && o != option::starttls && o != option::abort)
            return refuse_before_tls();
        if (!data.empty() && takes_no_data(o))
            return invalid("the option takes no data");
        switch (o) {
        case option::export_name:
            return answer_export_name(data);
        case option::abort:
            ack();
            return action::close;
        case option::list:
            ++lists_;
            listing_.begin(limits_.exports_listed);
            return action::list_exports;
        case option::info:
        case option::go:
            return answer_info_request(data);
        case option::starttls:
            return answer_starttls();
        case option::structured_reply:
            return answer_structured_reply();
        case option::extended_headers:  // point 44
            style_ = protocol::reply_style::extended;
            return ack();
        case option::list_meta_context:
        case option::set_meta_context:
            return answer_meta_context(data);
        default:
            return unsupported();
        }
    }

    // A client with extended headers MUST NOT use EXPORT_NAME, which has no error reply.
    action answer_export_name(std::span<const std::byte> data)
    {
        requested_ = {{reinterpret_cast<const char*>(data.data()), data.size()}, {}};
        if (style_ == protocol::reply_style::extended || !protocol::valid_string(requested_.name))
            return close(errc::export_name_refused);
        return action::open_export;
    }

    action answer_info_request(std::span<const std::byte> data)
    {
        const auto request = protocol::decode_info_request(data);
        if (!request)
            return invalid("the lengths in the option do not add up");
        if (!protocol::valid_string(request->name))
            return invalid("the export name is not UTF-8 of at most 4096 bytes without NUL");
        requested_ = *request;
        return action::open_export;
    }

    // "NBD_OPT_STRUCTURED_REPLY" (point 38); not possible after EXTENDED_HEADERS.
    action answer_structured_reply()
    {
        if (style_ == protocol::reply_style::extended)
            return error(protocol::option_reply::err_ext_header_reqd,
                         "extended headers were negotiated");
        style_ = protocol::reply_style::structured;
        return ack();
    }

    // "NBD_OPT_SET_META_CONTEXT": the option clears the earlier selection, even if it fails (point
    // 42).
    action answer_meta_context(std::span<const std::byte> data)
    {
        if (option().option == protocol::option::set_meta_context)
            selection_.clear();
        if (style_ == protocol::reply_style::simple)
            return invalid("meta contexts need structured replies");
        const auto request = protocol::decode_meta_request(data);
        if (!request)
            return invalid("the lengths in the option do not add up, or a string is not valid");
        meta_ = *request;
        requested_ = {meta_.export_name, {}};
        return action::open_export;
    }

    /// Answers EXPORT_NAME, INFO or GO.
    action answer_info(const export_info& e)
    {
        const auto o = option().option;
        agreed_ = agree(e.terms, style_, selection_.resolve(e, style_));
        const auto& terms = agreed_.terms;
        const bool must_ask = e.require_block_sizes && terms.blocks != protocol::block_sizes{}
            && !requested_.wants(protocol::info::block_size);
        if (o == protocol::option::export_name) {
            if (must_ask)
                return close(errc::export_name_refused);  // point 77
            append_export_name(reply_, terms, no_zeroes_);
            return action::transmit;
        }
        if (must_ask) {
            append_info_block_size(reply_, o, terms.blocks);
            return error(protocol::option_reply::err_block_size_reqd,
                         "ask for the block sizes first");
        }
        append_info(reply_, o, requested_, e, terms);
        ack();
        return o == protocol::option::go ? action::transmit : action::receive;
    }

    /// Goes on with what was negotiated before.
    action go_on(const export_info& e)
    {
        selection_.assume(e.name, begun_->meta_contexts);
        agreed_ = agree(e.terms, style_, selection_.resolve(e, style_));
        if (agreed_.contexts.size() != begun_->meta_contexts.size())
            return close(std::make_error_code(std::errc::invalid_argument));
        return action::transmit;
    }

    bool fixed_newstyle_ = false;
    bool no_zeroes_ = false;
    bool shutting_down_ = false;

    protocol::reply_style style_ = protocol::reply_style::simple;
    protocol::meta_request meta_;  ///< views into the bytes that were processed last
    context_selection selection_;
    agreement agreed_;
    std::size_t opens_left_;
    std::size_t calls_left_;
    export_listing listing_;
    std::size_t lists_ = 0;
    const established* begun_ = nullptr;
};

}  // namespace nbd::handshake
