// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/observer.hpp>
#include <nbd/error.hpp>
#include <nbd/handshake/action.hpp>
#include <nbd/handshake/agreement.hpp>
#include <nbd/handshake/export_info.hpp>
#include <nbd/handshake/meta_context.hpp>
#include <nbd/protocol/error_value.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/settings.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace nbd::handshake {

/// The newstyle handshake, decided: bytes in, reply bytes and a action out. No I/O, no clock.
///
/// The session hands exactly `wants()` bytes to `take`, and keeps them as they are until the action
/// is carried out, since names are views into them.
class negotiator {
public:
    explicit negotiator(const settings& limits)
        : limits_{limits}, options_left_{limits.options_per_handshake},
          bytes_left_{limits.handshake_bytes}
    {
        const auto room = append(reply_, protocol::greeting_bytes);
        protocol::encode_greeting(room.first<protocol::greeting_bytes>(), offered);
    }

    /// Bytes due from the client; never more than settings.option_bytes allows.
    [[nodiscard]] std::size_t wants() const noexcept { return wants_; }

    /// What the client is to get. The session sends it and clears it.
    [[nodiscard]] reply_bytes& reply() noexcept { return reply_; }

    [[nodiscard]] action take(std::span<const std::byte> bytes)
    {
        switch (phase_) {
        case phase::client_flags:
            return take_client_flags(protocol::load<std::uint32_t>(bytes));
        case phase::option_header:
            return take_header(bytes.first<protocol::option_header_bytes>());
        case phase::option_data:
            return next(take_option(bytes));
        case phase::oversized:
            excess_ -= bytes.size();
            if (excess_ != 0)
                return await(phase::oversized, std::min(excess_, discard_step));
            if (option_.option == protocol::option::set_meta_context)
                selection_.clear();
            return next(take_oversized());
        }
        return close(errc::bad_option_magic);
    }

    /// The option that was taken last, for the observer.
    [[nodiscard]] const protocol::option_header& option() const noexcept { return option_; }
    /// The client has finished its options or is in the midst of one: for telling a clean close.
    [[nodiscard]] bool between_options() const noexcept { return phase_ == phase::option_header; }
    /// Not even the client's flags have come.
    [[nodiscard]] bool nothing_taken() const noexcept { return phase_ == phase::client_flags; }
    [[nodiscard]] std::error_code ended() const noexcept { return ended_; }

    /// From now on every option but ABORT is answered ERR_SHUTDOWN (point 24).
    void shut_down() noexcept { shutting_down_ = true; }

    // --- after action::list --------------------------------------------------------------------

    void list(std::string_view name, std::string_view description)
    {
        append_server(reply_, name, description);
        if (!listed_)
            options_left_ += limits_.options_per_handshake;
    }
    [[nodiscard]] action listed()
    {
        listed_ = true;
        return next(ack());
    }

    // --- after action::open --------------------------------------------------------------------

    [[nodiscard]] std::string_view asked_name() const noexcept { return asked_.name; }

    [[nodiscard]] action opened(const export_info& e)
    {
        if (option_.option == protocol::option::list_meta_context) {
            list_contexts(reply_, meta_, e, style_);
            return next(ack());
        }
        if (option_.option == protocol::option::set_meta_context) {
            selection_.select(reply_, meta_, e, style_);
            return next(ack());
        }
        agreed_ = settle(e.terms, style_, selection_.resolve(e, style_));
        const auto& terms = agreed_.terms;
        const bool must_ask = e.require_block_sizes && terms.blocks != protocol::block_sizes{}
            && !asked_.wants(protocol::info::block_size);
        if (option_.option == protocol::option::export_name && must_ask)
            return close(errc::export_name_refused);  // point 77
        if (option_.option == protocol::option::export_name) {
            append_export_name(reply_, terms, no_zeroes_);
            return action::transmit;
        }
        if (must_ask) {
            append_info_block_size(reply_, option_.option, terms.blocks);
            return next(error(protocol::option_reply::err_block_size_reqd,
                              "ask for the block sizes first"));
        }
        append_info_export(reply_, option_.option, terms);
        if (asked_.wants(protocol::info::name))
            append_info_text(reply_, option_.option, protocol::info::name, e.name);
        if (asked_.wants(protocol::info::description))
            append_info_text(reply_, option_.option, protocol::info::description, e.description);
        if (asked_.wants(protocol::info::block_size))
            append_info_block_size(reply_, option_.option, terms.blocks);
        const auto done = next(ack());
        return option_.option == protocol::option::go ? action::transmit : done;
    }

    /// What was settled for transmission, after action::transmit.
    [[nodiscard]] const agreement& agreed() const noexcept { return agreed_; }
    /// The export is not there or did not open. EXPORT_NAME leaves only closing (point 28).
    [[nodiscard]] action refused(std::error_code why)
    {
        if (option_.option == protocol::option::export_name)
            return close(errc::export_name_refused);
        if (why == errc::unknown_export)
            return next(error(protocol::option_reply::err_unknown,
                              "no export \"" + printable(asked_.name) + '"'));
        if (protocol::to_error_value(why) == protocol::error_value::eperm)
            return next(error(protocol::option_reply::err_policy, "the export may not be opened"));
        return next(error(protocol::option_reply::err_unknown, "the export does not open"));
    }

private:
    enum class phase { client_flags, option_header, option_data, oversized };

    static constexpr std::uint16_t offered =
        protocol::handshake_flag::fixed_newstyle | protocol::handshake_flag::no_zeroes;
    static constexpr std::size_t discard_step = 4096;

    action await(phase next_phase, std::size_t bytes) noexcept
    {
        phase_ = next_phase;
        wants_ = bytes;
        return action::more;
    }
    action close(errc why) noexcept
    {
        ended_ = why;
        return action::close;
    }
    /// The next option is due, unless the answer to this one decided otherwise.
    action next(action v) noexcept
    {
        if (v != action::more)
            return v;
        return await(phase::option_header, protocol::option_header_bytes);
    }

    action ack()
    {
        append_reply(reply_, option_.option, protocol::option_reply::ack, std::string_view{});
        return action::more;
    }
    action error(protocol::option_reply type, std::string_view text)
    {
        append_reply(reply_, option_.option, type, text);
        return action::more;
    }
    action invalid(std::string_view text)
    {
        return error(protocol::option_reply::err_invalid, text);
    }
    action unsupported()
    {
        return error(protocol::option_reply::err_unsup, "the option is not supported");
    }

    // proto.md "Client flags": a flag that was not offered MUST end the session (point 14).
    action take_client_flags(std::uint32_t flags) noexcept
    {
        if ((flags & ~std::uint32_t{offered}) != 0)
            return close(errc::unknown_client_flags);
        fixed_newstyle_ = (flags & protocol::client_flag::fixed_newstyle) != 0;
        no_zeroes_ = (flags & protocol::client_flag::no_zeroes) != 0;
        return await(phase::option_header, protocol::option_header_bytes);
    }

    action take_header(std::span<const std::byte, protocol::option_header_bytes> bytes)
    {
        const auto header = protocol::decode_option_header(bytes);
        if (!header)
            return close(errc::bad_option_magic);
        option_ = *header;
        if (options_left_ == 0)
            return close(errc::too_many_options);
        --options_left_;
        if (option_.length > bytes_left_)
            return close(errc::handshake_too_long);
        bytes_left_ -= option_.length;
        if (option_.length > limits_.option_bytes) {
            // Nothing that long is an export's name, and EXPORT_NAME cannot be answered.
            if (option_.option == protocol::option::export_name)
                return close(errc::export_name_refused);
            excess_ = option_.length;
            return await(phase::oversized, std::min(excess_, discard_step));
        }
        if (option_.length == 0)
            return next(take_option({}));
        return await(phase::option_data, option_.length);
    }

    /// An option whose data were consumed, and are too much for any that we know.
    action take_oversized()
    {
        if (option_.option == protocol::option::abort || shutting_down_ || !fixed_newstyle_)
            return take_option({});
        if (!known(option_.option))
            return unsupported();
        return error(protocol::option_reply::err_too_big, "the option has too much data");
    }

    action take_option(std::span<const std::byte> data)
    {
        using protocol::option;
        if (shutting_down_ && option_.option != option::abort) {
            if (option_.option == option::export_name)
                return close(errc::server_stopped);
            return error(protocol::option_reply::err_shutdown, "the server is shutting down");
        }
        if (!fixed_newstyle_ && option_.option != option::export_name
            && option_.option != option::abort)
            return invalid("the client did not negotiate fixed newstyle");  // point 16
        switch (option_.option) {
        case option::export_name:
            // A client with extended headers MUST NOT use it, and there is no other way to say so.
            if (style_ == protocol::reply_style::extended)
                return close(errc::export_name_refused);
            asked_ = {{reinterpret_cast<const char*>(data.data()), data.size()}, {}};
            return protocol::valid_string(asked_.name) ? action::open
                                                       : close(errc::export_name_refused);
        case option::abort:
            ack();
            return action::close;
        case option::list:
            return data.empty() ? action::list : invalid("LIST takes no data");
        case option::info:
        case option::go:
            return take_info(data);
        case option::structured_reply:
            return take_structured_reply(data);
        case option::extended_headers:
            return take_extended_headers(data);
        case option::list_meta_context:
        case option::set_meta_context:
            return take_meta_context(data);
        case option::starttls:
            return data.empty() ? unsupported() : invalid("STARTTLS takes no data");
        default:
            return unsupported();
        }
    }

    action take_info(std::span<const std::byte> data)
    {
        const auto request = protocol::decode_info_request(data);
        if (!request)
            return invalid("the lengths in the option do not add up");
        if (!protocol::valid_string(request->name))
            return invalid("the export name is not UTF-8 of at most 4096 bytes without NUL");
        asked_ = *request;
        return action::open;
    }

    // "NBD_OPT_STRUCTURED_REPLY" (point 38); extended headers leave no way back to it.
    action take_structured_reply(std::span<const std::byte> data)
    {
        if (!data.empty())
            return invalid("STRUCTURED_REPLY takes no data");
        if (style_ == protocol::reply_style::extended)
            return error(protocol::option_reply::err_ext_header_reqd,
                         "extended headers were negotiated");
        style_ = protocol::reply_style::structured;
        return ack();
    }

    // "NBD_OPT_EXTENDED_HEADERS" (point 44).
    action take_extended_headers(std::span<const std::byte> data)
    {
        if (!data.empty())
            return invalid("EXTENDED_HEADERS takes no data");
        style_ = protocol::reply_style::extended;
        return ack();
    }

    // "NBD_OPT_SET_META_CONTEXT": whatever was selected before is forgotten, even if this one fails
    // (point 42).
    action take_meta_context(std::span<const std::byte> data)
    {
        if (option_.option == protocol::option::set_meta_context)
            selection_.clear();
        if (style_ == protocol::reply_style::simple)
            return invalid("contexts need structured replies");
        const auto request = protocol::decode_meta_request(data);
        if (!request)
            return invalid("the lengths in the option do not add up, or a string is none");
        meta_ = *request;
        asked_ = {meta_.export_name, {}};
        return action::open;
    }

    static constexpr bool known(protocol::option o) noexcept
    {
        using protocol::option;
        return o == option::abort || o == option::list || o == option::info || o == option::go
            || o == option::structured_reply || o == option::extended_headers
            || o == option::list_meta_context || o == option::set_meta_context;
    }

    const settings& limits_;
    std::size_t options_left_;
    std::size_t bytes_left_;
    std::size_t excess_ = 0;
    std::size_t wants_ = protocol::client_flags_bytes;
    phase phase_ = phase::client_flags;
    protocol::option_header option_;
    protocol::info_request asked_;
    protocol::meta_request meta_;
    protocol::reply_style style_ = protocol::reply_style::simple;
    context_selection selection_;
    agreement agreed_;
    reply_bytes reply_;
    std::error_code ended_;
    bool fixed_newstyle_ = false;
    bool no_zeroes_ = false;
    bool listed_ = false;
    bool shutting_down_ = false;
};

}  // namespace nbd::handshake
