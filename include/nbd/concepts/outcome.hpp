// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/failure.hpp>

#include <concepts>
#include <type_traits>

namespace nbd {

/// What a synchronous member of a backend returns: std::error_code, std::errc, nbd::failure for an
/// error with a text or an offset, or void. Every member may also throw: std::system_error and
/// boost::system::system_error give their code, std::bad_alloc ENOMEM, any other exception EIO.
template <class T>
concept ready_outcome = std::is_void_v<T> || std::convertible_to<T, failure>;

/// What an awaited member returns: boost::asio::awaitable of a ready outcome. It is recognised by
/// its member types, so that this header does not include Asio.
template <class T>
concept awaited_outcome = requires {
    typename T::value_type;
    typename T::executor_type;
    requires ready_outcome<typename T::value_type>;
};

/// What a member returns that carries out a request or a part of one.
template <class T>
concept outcome = ready_outcome<T> || awaited_outcome<T>;

}  // namespace nbd
