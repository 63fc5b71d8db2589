// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <exception>
#include <type_traits>

namespace nbd {

/// *Returns* the exception that is being handled, as a failure with its text. Call it in a `catch
/// (...)`.
[[nodiscard]] inline failure current_failure() noexcept
{
    try {
        throw;
    } catch (const std::exception& e) {
        failure f = current_error();
        f.thrown = true;
        try {
            f.text = e.what();
        } catch (...) {  // no memory for the text
        }
        return f;
    } catch (...) {
        return current_error();
    }
}

/// Calls a synchronous member of a backend, whatever it returns (std::error_code, std::errc,
/// nbd::failure, void):
///
///     const nbd::failure outcome = nbd::outcome_of([&] { return next_.flush(); });
///
/// *Returns* its outcome, empty after success. An exception becomes a failure.
template <class F>
[[nodiscard]] failure outcome_of(F&& member) noexcept
{
    try {
        if constexpr (std::is_void_v<decltype(member())>) {
            member();
            return {};
        } else {
            return member();
        }
    } catch (...) {
        return current_failure();
    }
}

}  // namespace nbd
