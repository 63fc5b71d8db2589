// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/exports/authorisation.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/program_call.hpp>
#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/permission.hpp>
#include <nbd/vocabulary/printable.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <string_view>
#include <utility>

namespace nbd::session {

/// One call of the program's `authorise`, for an export that a client asks for.
/// *Lifetime*: `name` until the call has ended.
template <class Io, class Stream, class Observer>
class authorise_call {
public:
    authorise_call(Stream& stream, context<Observer>& c, std::string_view name)
        : scope_{c, name}, works_{c}, c_{c}, name_{name}, call_{stream}
    {
    }

    /// *Returns* what is awaited until the decision is there.
    [[nodiscard]] auto decided()
    {
        return call_.run(
            [this](const boost::asio::any_io_executor& on) { (*c_.authorise)(on, call_, c_.who); });
    }
    /// Why the client must not use the export; nothing if it may. An exception refuses.
    [[nodiscard]] failure refusal() const
    {
        if (!call_.why && call_.result.allowed != permission::refused)
            return {};
        auto text = "export \"" + printable(name_) + '"';
        if (call_.why)
            text += ": the function of authorise failed: " + call_.why.message();
        else if (!call_.result.reason.empty())
            text += ": " + call_.result.reason;
        return {errc::not_authorised, std::move(text)};
    }
    [[nodiscard]] bool reads_only() const noexcept
    {
        return call_.result.allowed == permission::read_only;
    }

private:
    const typename context<Observer>::program_scope scope_;
    const typename context<Observer>::working_scope works_;
    context<Observer>& c_;
    const std::string_view name_;
    program_call<Io, Stream, decision> call_;
};

}  // namespace nbd::session
