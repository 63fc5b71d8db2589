// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/gather.hpp>
#include <nbd/io/send_file.hpp>

#include <boost/asio/associated_allocator.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/system/error_code.hpp>

#include <concepts>
#include <cstddef>
#include <tuple>
#include <utility>

#include <poll.h>

namespace nbd::io {

/// A stream above a socket, such as TLS. Its operations do not wait: they return
/// asio::error::would_block where the socket is not ready.
///
///     transfer receive_now(mutable_buffer)         receives some bytes
///     transfer send_now(buffers, most)             sends some of the first bytes, about `most` at
///                                                  the most. After would_block it is called again
///                                                  with the same bytes.
///     bool wants_write()                           after would_block: whether the socket must
///                                                  become writable, or readable
///     bool has_pending()                           it holds received bytes, or the end of them
///     next_layer()                                 the socket
template <class Stream>
concept layered = requires(Stream& s, const boost::asio::mutable_buffer to) {
    { s.receive_now(to) } -> std::same_as<transfer>;
    { s.wants_write() } -> std::same_as<bool>;
    { s.has_pending() } -> std::same_as<bool>;
    { s.next_layer().native_handle() } -> std::convertible_to<int>;
};

template <class Stream>
concept on_socket = socket<Stream> || layered<Stream>;

template <on_socket Stream>
[[nodiscard]] int descriptor_of(Stream& stream) noexcept
{
    if constexpr (layered<Stream>)
        return stream.next_layer().native_handle();
    else
        return stream.native_handle();
}

/// Whether bytes can be received, now or within a time. They may be too few for a message of a
/// layer.
template <on_socket Stream>
[[nodiscard]] bool is_readable(Stream& stream, int milliseconds) noexcept
{
    if constexpr (layered<Stream>) {
        if (stream.has_pending())
            return true;
    }
    ::pollfd wanted{.fd = descriptor_of(stream), .events = POLLIN, .revents = 0};
    return ::poll(&wanted, 1, milliseconds) > 0;
}

/// Waits on the calling thread until the socket is ready for the operation that would have blocked.
template <layered Stream>
void block_until_ready(Stream& stream) noexcept
{
    ::pollfd wanted{.fd = descriptor_of(stream),
                    .events = static_cast<short>(stream.wants_write() ? POLLOUT : POLLIN),
                    .revents = 0};
    ::poll(&wanted, 1, -1);
}

/// The same as an operation of Asio. `handler` gets the error.
template <layered Stream, class Handler>
void async_wait_ready(Stream& stream, Handler handler)
{
    auto& socket = stream.next_layer();
    socket.async_wait(stream.wants_write() ? socket.wait_write : socket.wait_read,
                      std::move(handler));
}

/// An operation of Asio that calls `attempt()`, a transfer of a layered stream, when the socket is
/// ready, until it does not return would_block. `handler` gets its result. The operation uses the
/// allocator of the handler, for one handler at a time.
template <layered Stream, class Attempt, class Handler>
class attempts {
public:
    using allocator_type = boost::asio::associated_allocator_t<Handler>;

    attempts(Stream& stream, Attempt attempt, Handler handler)
        : stream_{&stream}, attempt_{std::move(attempt)}, handler_{std::move(handler)}
    {
    }
    [[nodiscard]] allocator_type get_allocator() const noexcept
    {
        return boost::asio::get_associated_allocator(handler_);
    }

    void start()
    {
        const auto result = attempt_();
        if (std::get<0>(result) == boost::asio::error::would_block)
            return wait();
        auto executor = stream_->get_executor();
        auto allocator = get_allocator();
        boost::asio::post(executor,
                          boost::asio::bind_allocator(
                              allocator, [handler = std::move(handler_), result]() mutable {
                                  handler(std::get<0>(result), std::get<1>(result));
                              }));
    }
    void operator()(boost::system::error_code failed)
    {
        transfer result{failed, 0};
        if (!failed)
            result = attempt_();
        if (std::get<0>(result) == boost::asio::error::would_block)
            return wait();
        handler_(std::get<0>(result), std::get<1>(result));
    }

private:
    void wait()
    {
        auto& stream = *stream_;
        async_wait_ready(stream, std::move(*this));
    }

    Stream* stream_;
    Attempt attempt_;
    Handler handler_;
};

}  // namespace nbd::io
