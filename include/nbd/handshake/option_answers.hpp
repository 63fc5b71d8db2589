// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/handshake/action.hpp>
#include <nbd/handshake/option_reader.hpp>
#include <nbd/handshake/option_replies.hpp>
#include <nbd/protocol/error_value.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/settings.hpp>
#include <nbd/vocabulary/printable.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <string>
#include <string_view>
#include <system_error>

namespace nbd::handshake {

/// What the answers of the negotiator have in common: the option that is answered, the reply, the
/// errors, and the rules of TLS.
class option_answers {
protected:
    option_answers(const settings& limits, tls_mode tls)
        : limits_{limits}, reader_{limits}, tls_{tls}
    {
    }
    /// Inside TLS, after `plain`.
    struct inside {};
    option_answers(const option_answers& plain, inside)
        : limits_{plain.limits_}, reader_{plain.reader_}, tls_{plain.tls_}, secured_{true}
    {
    }

    /// The option whose header was processed last.
    [[nodiscard]] const protocol::option_header& option() const noexcept
    {
        return reader_.option();
    }

    action close(std::error_code why) noexcept
    {
        close_reason_ = why;
        return action::close;
    }
    action ack()
    {
        append_reply(reply_, option().option, protocol::option_reply::ack, std::string_view{});
        return action::receive;
    }
    action error(protocol::option_reply type, std::string_view text)
    {
        append_reply(reply_, option().option, type, text);
        return action::receive;
    }
    action invalid(std::string_view text)
    {
        return error(protocol::option_reply::err_invalid, text);
    }
    action unsupported()
    {
        return error(protocol::option_reply::err_unsup, "the option is not supported");
    }
    action shutdown_error()
    {
        return error(protocol::option_reply::err_shutdown, "the server is shutting down");
    }

    // --- TLS ------------------------------------------------------------------------------------

    /// Only STARTTLS and ABORT are possible (point 72).
    [[nodiscard]] bool must_start_tls() const noexcept
    {
        return tls_ == tls_mode::forced && !secured_;
    }
    /// Whether the client can open an export only inside TLS. `only`: the export's tls_only.
    [[nodiscard]] bool needs_tls(bool only) const noexcept
    {
        return must_start_tls() || (only && !secured_);
    }
    /// "NBD_OPT_STARTTLS" (points 71 and 72).
    action answer_starttls()
    {
        if (tls_ == tls_mode::none)
            return unsupported();
        if (secured_)
            return invalid("TLS was started already");
        starts_tls_ = true;
        ack();
        return action::start_tls;
    }
    /// Any other option but ABORT, where TLS must be started.
    action refuse_before_tls()
    {
        return option().option == protocol::option::export_name ? close(errc::tls_required)
                                                                : tls_required();
    }

    // --- exports --------------------------------------------------------------------------------

    /// Answers an option that is about an export with an error, also LIST. EXPORT_NAME has no error
    /// reply (point 28).
    action refuse_export(std::error_code why)
    {
        using protocol::option;
        using protocol::option_reply;
        const auto o = this->option().option;
        if (why == errc::not_authorised)
            why = errc::unknown_export;
        if (why == errc::too_many_options)
            return close(errc::too_many_options);
        if (why == errc::tls_required || (why == errc::unknown_export && hides_names()))
            return refuse_without_tls(o);
        if (o == option::export_name)
            return close(errc::export_name_refused);
        if (why == errc::unknown_export && o != option::list)
            return unknown_export();
        if (protocol::to_error_value(why) == protocol::error_value::eperm)
            return error(option_reply::err_policy, "this is not permitted");
        if (o == option::list)
            return error(option_reply::err_platform, "the exports cannot be listed");
        return error(option_reply::err_unknown, "the export does not open");
    }

    const settings& limits_;
    option_reader reader_;
    reply_bytes reply_;
    std::error_code close_reason_;
    tls_mode tls_;
    bool secured_ = false;
    bool starts_tls_ = false;
    protocol::info_request requested_;  ///< views into the bytes that were processed last

private:
    action unknown_export()
    {
        return error(protocol::option_reply::err_unknown,
                     "no export \"" + printable(requested_.name) + '"');
    }
    action tls_required()
    {
        return error(protocol::option_reply::err_tls_reqd, "TLS must be started first");
    }
    /// An unknown export is refused like one that needs TLS, so that names cannot be guessed.
    [[nodiscard]] bool hides_names() const noexcept
    {
        return tls_ == tls_mode::selective && !secured_;
    }
    /// The export needs TLS. Only INFO and GO may say so (point 73), if there is TLS (point 71).
    action refuse_without_tls(protocol::option o)
    {
        if (o == protocol::option::export_name)
            return close(errc::tls_required);
        if (o != protocol::option::info && o != protocol::option::go)
            return unknown_export();
        return tls_ == tls_mode::none
            ? error(protocol::option_reply::err_policy, "the export needs TLS, which is off")
            : tls_required();
    }
};

}  // namespace nbd::handshake
