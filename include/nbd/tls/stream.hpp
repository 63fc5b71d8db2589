// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/tls/context.hpp>
#include <nbd/tls/error.hpp>
#include <nbd/tls/peer_info.hpp>
#include <nbd/tls/wire.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/socket_base.hpp>
#include <boost/system/error_code.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <system_error>
#include <tuple>
#include <utility>

#include <openssl/err.h>
#include <openssl/ssl.h>

namespace nbd::tls {

/// The server's end of a TLS connection on a connected socket. OpenSSL reads and writes the socket
/// itself. Nothing waits, also on a blocking socket; see io::layered. No other bytes may be sent or
/// received on the socket. Another thread may shut the socket down.
/// *Thread safety*: one thread at a time.
/// *Lifetime*: the socket outlives it.
template <class Socket>
class stream {
public:
    using executor_type = typename Socket::executor_type;
    using transfer = std::tuple<boost::system::error_code, std::size_t>;

    /// *Errors*: std::bad_alloc.
    stream(Socket& socket, std::shared_ptr<const context> from)
        : socket_{socket}, context_{std::move(from)}, wire_{socket.native_handle()},
          connection_{::SSL_new(context_->get())}
    {
        if (!connection_)
            throw std::bad_alloc{};
        auto* const bio = wire_.bio();
        ::SSL_set_bio(ssl(), bio, bio);
        SSL_set_app_data(ssl(), &data_);
        ::SSL_set_msg_callback(ssl(), &count);
        SSL_set_msg_callback_arg(ssl(), &data_);
        ::SSL_set_accept_state(ssl());
    }
    stream(const stream&) = delete;
    stream& operator=(const stream&) = delete;

    [[nodiscard]] Socket& next_layer() noexcept { return socket_; }
    [[nodiscard]] executor_type get_executor() { return socket_.get_executor(); }
    /// Shuts the socket down.
    void shutdown(boost::asio::socket_base::shutdown_type what, boost::system::error_code& error)
    {
        socket_.shutdown(what, error);
    }

    /// Goes on with the handshake. *Errors*: asio::error::would_block; errc::cut_short; those of
    /// tls::error_category and of the socket.
    [[nodiscard]] boost::system::error_code handshake_now() noexcept
    {
        for (;;) {
            begin();
            const int result = ::SSL_do_handshake(ssl());
            data_.messages = 0;
            if (result == 1)
                return {};
            if (const auto error = outcome(result))
                return error;
        }
    }
    /// What is known of the client, after the handshake. *Errors*: std::bad_alloc.
    [[nodiscard]] tls_info info() const { return peer_info(*connection_); }

    /// Receives some bytes: all that are there, and at most `to.size()`. *Errors*:
    /// asio::error::eof when the client has ended the TLS stream; errc::cut_short when it has
    /// closed the connection without that; as above.
    [[nodiscard]] transfer receive_now(boost::asio::mutable_buffer to) noexcept
    {
        std::size_t total = 0;
        while (!received_all_ && total < to.size()) {
            std::size_t n = 0;
            begin();
            if (::SSL_read_ex(ssl(), static_cast<char*>(to.data()) + total, to.size() - total, &n)
                == 1) {
                total += n;
                if (floods())
                    received_all_ = std::error_code{errc::tls_flood};
                data_.messages = 0;
                if (::SSL_has_pending(ssl()) == 0)
                    break;
                continue;
            }
            const auto error = outcome(0);
            if (error == boost::asio::error::would_block) {
                if (total == 0)
                    return {error, 0};
                break;
            }
            received_all_ = error;
        }
        return total != 0 ? transfer{boost::system::error_code{}, total}
                          : transfer{received_all_, 0};
    }

    /// Sends the first bytes of `from`, a sequence of buffers, as records of 16 KiB, until about
    /// `most` bytes are sent or the socket takes no more. Small buffers share a record. *Errors*:
    /// as above. After asio::error::would_block, the next call must begin with the same bytes.
    template <class Buffers>
    [[nodiscard]] transfer send_now(const Buffers& from, std::size_t most) noexcept
    {
        std::array<std::byte, record_bytes> joined;  // uninitialised: only what is used costs
        cursor<Buffers> at{from};
        const auto all = std::min(boost::asio::buffer_size(from), most);
        std::size_t total = 0;
        while (total < all) {
            const auto record = at.next(joined, unsent_ != 0 ? unsent_ : record_bytes);
            std::size_t n = 0;
            begin(total + record.size() < all);
            if (::SSL_write_ex(ssl(), record.data(), record.size(), &n) == 1) {
                unsent_ = 0;
                at.skip(n);
                total += n;
                continue;
            }
            if (const boost::system::error_code error = outcome(0)) {
                if (error == boost::asio::error::would_block)
                    unsent_ = record.size();
                if (total == 0)
                    return {error, 0};
                break;  // the next call reports it again
            }
        }
        return {boost::system::error_code{}, total};
    }

    [[nodiscard]] bool wants_write() const noexcept { return wants_write_; }
    /// Holds received bytes, or the end, which may have been received with the last bytes.
    [[nodiscard]] bool has_pending() const noexcept
    {
        return received_all_ || ::SSL_has_pending(ssl()) == 1;
    }

    /// Tells the client that nothing more is sent (close_notify), if the socket takes that at once.
    void close_now() noexcept
    {
        if (!broken_ && ::SSL_is_init_finished(ssl()) == 1)
            ::SSL_shutdown(ssl());
        ERR_clear_error();
    }

private:
    static constexpr std::size_t record_bytes = SSL3_RT_MAX_PLAIN_LENGTH;
    /// Messages without data in a row, such as KeyUpdate, that a client may send.
    static constexpr std::size_t most_messages = 64;

    /// A position in a sequence of buffers.
    template <class Buffers>
    class cursor {
        using iterator =
            decltype(boost::asio::buffer_sequence_begin(std::declval<const Buffers&>()));

    public:
        explicit cursor(const Buffers& all)
            : at_{boost::asio::buffer_sequence_begin(all)},
              end_{boost::asio::buffer_sequence_end(all)}
        {
        }
        /// *Returns* the next `n` bytes, or all if there are fewer: those of a buffer where they
        /// are contiguous, otherwise a copy in `joined`.
        [[nodiscard]] boost::asio::const_buffer next(std::array<std::byte, record_bytes>& joined,
                                                     std::size_t n)
        {
            skip(0);
            if (at_ == end_)
                return {};
            const auto first = boost::asio::const_buffer{*at_} + offset_;
            if (first.size() >= n || std::next(at_) == end_)
                return boost::asio::buffer(first, n);
            std::size_t filled = 0;
            auto skipped = offset_;
            for (auto i = at_; i != end_ && filled < n; ++i) {
                const auto part = boost::asio::buffer(
                    boost::asio::const_buffer{*i} + std::exchange(skipped, 0), n - filled);
                std::memcpy(joined.data() + filled, part.data(), part.size());
                filled += part.size();
            }
            return {joined.data(), filled};
        }
        void skip(std::size_t n)
        {
            offset_ += n;
            for (; at_ != end_ && offset_ >= boost::asio::const_buffer{*at_}.size(); ++at_)
                offset_ -= boost::asio::const_buffer{*at_}.size();
        }

    private:
        iterator at_;
        iterator end_;
        std::size_t offset_ = 0;
    };

    /// Before each operation: neither errors nor waits of earlier ones count.
    void begin(bool more_follows = false) noexcept
    {
        ERR_clear_error();
        std::ignore = wire_.take_blocked();
        wire_.more_follows(more_follows);
    }

    /// For OpenSSL, which calls it for each message and each header of a record.
    static void count(int, int, int type, const void*, std::size_t, ::SSL*, void* data) noexcept
    {
        if (type != SSL3_RT_HEADER && type != SSL3_RT_INNER_CONTENT_TYPE)
            ++static_cast<context::connection_data*>(data)->messages;
    }
    [[nodiscard]] bool floods() const noexcept { return data_.messages > most_messages; }

    [[nodiscard]] ::SSL* ssl() const noexcept { return connection_.get(); }

    /// What it means that a function of OpenSSL has failed with `result`. No error: call it again.
    [[nodiscard]] boost::system::error_code outcome(int result) noexcept
    {
        const int why = ::SSL_get_error(ssl(), result);
        switch (why) {
        case SSL_ERROR_WANT_READ:
        case SSL_ERROR_WANT_WRITE:
            if (wire_.take_blocked()) {
                wants_write_ = why == SSL_ERROR_WANT_WRITE;
                return boost::asio::error::would_block;
            }
            if (wire_.ended())
                return std::error_code{errc::cut_short};
            return floods() ? boost::system::error_code{std::error_code{errc::tls_flood}}
                            : boost::system::error_code{};
        case SSL_ERROR_ZERO_RETURN:
            return boost::asio::error::eof;
        default:
            break;
        }
        broken_ = true;
        if (wire_.failure() != 0)
            return {wire_.failure(), boost::system::system_category()};
        const auto refused = ::SSL_get_verify_result(ssl());
        const auto error = take_error();
        if (refused != X509_V_OK
            && ERR_GET_REASON(static_cast<unsigned long>(error.value()))
                == SSL_R_CERTIFICATE_VERIFY_FAILED)
            return std::error_code{-static_cast<int>(refused), error_category()};
        return error;
    }

    Socket& socket_;
    std::shared_ptr<const context> context_;
    context::connection_data data_;
    wire wire_;
    owned<::SSL, &::SSL_free> connection_;
    std::size_t unsent_ = 0;  ///< the length of the record that the socket did not take
    bool wants_write_ = false;
    bool broken_ = false;                     ///< OpenSSL allows no further calls
    boost::system::error_code received_all_;  ///< the end of what can be received
};

}  // namespace nbd::tls
