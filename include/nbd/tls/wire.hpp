// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>
#include <cstddef>
#include <new>
#include <utility>

#include <openssl/bio.h>
#include <sys/socket.h>
#include <sys/types.h>

namespace nbd::tls {

/// The socket as OpenSSL sees it. OpenSSL's own one calls read(2) and write(2), which wait where
/// the socket is blocking, and raise SIGPIPE. This one does neither, and it tells the end of the
/// stream from a socket that has no bytes.
/// *Lifetime*: it must not move, and outlives the object that `bio` returns.
class wire {
public:
    explicit wire(int descriptor) noexcept : descriptor_{descriptor} {}
    wire(const wire&) = delete;
    wire& operator=(const wire&) = delete;

    /// *Returns* an object that the caller owns. *Errors*: std::bad_alloc.
    [[nodiscard]] ::BIO* bio()
    {
        auto* const made = ::BIO_new(method());
        if (made == nullptr)
            throw std::bad_alloc{};
        ::BIO_set_data(made, this);
        ::BIO_set_init(made, 1);
        return made;
    }

    /// Whether an operation would have had to wait for the socket since the last call.
    [[nodiscard]] bool take_blocked() noexcept { return std::exchange(blocked_, false); }
    /// Whether other bytes follow at once those that OpenSSL sends now: the system then sends them
    /// together, and wakes the peer once.
    void more_follows(bool yes) noexcept { more_ = yes ? MSG_MORE : 0; }
    /// The peer has closed its sending side.
    [[nodiscard]] bool ended() const noexcept { return ended_; }
    /// The error of the socket; 0 if there was none.
    [[nodiscard]] int failure() const noexcept { return failure_; }

private:
    static const ::BIO_METHOD* method()
    {
        static const ::BIO_METHOD* const made = [] {
            auto* const m =
                ::BIO_meth_new(::BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "nbd socket");
            if (m == nullptr)
                throw std::bad_alloc{};
            ::BIO_meth_set_read_ex(m, &receive);
            ::BIO_meth_set_write_ex(m, &send);
            ::BIO_meth_set_ctrl(m, [](::BIO*, int command, long, void*) noexcept {
                return command == BIO_CTRL_FLUSH ? 1L : 0L;
            });
            return m;
        }();
        return made;
    }

    static int receive(::BIO* bio, char* to, std::size_t n, std::size_t* received) noexcept
    {
        return transfer(bio, received, BIO_FLAGS_READ,
                        [&](int socket) { return ::recv(socket, to, n, MSG_DONTWAIT); });
    }
    static int send(::BIO* bio, const char* from, std::size_t n, std::size_t* sent) noexcept
    {
        const int more = static_cast<const wire*>(::BIO_get_data(bio))->more_;
        return transfer(bio, sent, BIO_FLAGS_WRITE, [&](int socket) {
            return ::send(socket, from, n, MSG_DONTWAIT | MSG_NOSIGNAL | more);
        });
    }
    template <class Call>
    static int transfer(::BIO* bio, std::size_t* moved, int direction, Call call) noexcept
    {
        auto& self = *static_cast<wire*>(::BIO_get_data(bio));
        ::BIO_clear_flags(bio, BIO_FLAGS_RWS | BIO_FLAGS_SHOULD_RETRY);
        *moved = 0;
        ::ssize_t n = 0;
        do
            n = call(self.descriptor_);
        while (n < 0 && errno == EINTR);
        if (n > 0) {
            *moved = static_cast<std::size_t>(n);
            return 1;
        }
        if (n < 0 && errno != EAGAIN) {
            self.failure_ = errno;
            return 0;
        }
        // The end is not one of TLS, so OpenSSL need not know of it.
        (n == 0 ? self.ended_ : self.blocked_) = true;
        ::BIO_set_flags(bio, direction | BIO_FLAGS_SHOULD_RETRY);
        return 0;
    }

    int descriptor_;
    int more_ = 0;  ///< a flag of send(2)
    bool blocked_ = false;
    bool ended_ = false;
    int failure_ = 0;
};

}  // namespace nbd::tls
