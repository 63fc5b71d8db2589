// SPDX-License-Identifier: MIT
// An observer with a member of a wrong shape, or none.
// expect AT_CONNECT: nbd: this observer's at_connect has the wrong shape; expected
// expect AT_OPTION: nbd: this observer's at_option has the wrong shape; expected
// expect AT_EXPORT_OPENED: nbd: this observer's at_export_opened has the wrong shape; expected
// expect AT_REQUEST: nbd: this observer's at_request has the wrong shape; expected
// expect AT_REPLY: nbd: this observer's at_reply has the wrong shape; expected
// expect AT_ERROR: nbd: this observer's at_error has the wrong shape; expected
// expect AT_OPTION_ERROR: nbd: this observer's at_option_error has the wrong shape; expected
// expect NOTE: nbd: what this observer's at_request returns must be a type that can be default-constructed and copied
// expect NOTE_NOT_RETURNED: nbd: this observer's at_reply has the wrong shape; expected
// expect AT_DISCONNECT: nbd: this observer's at_disconnect has the wrong shape; expected
// expect AT_DRAIN_ERROR: nbd: this observer's at_drain_error has the wrong shape; expected
// expect AT_ACCEPT_ERROR: nbd: this observer's at_accept_error has the wrong shape; expected
// expect NO_EVENT: nbd: this observer has none of the at_... members
// expect REFERENCE: nbd: an observer is a class that is not const
// expect POINTER: nbd: an observer is a class that is not const
// expect ATOMIC: nbd: an observer must be movable
// expect MUTEX: nbd: an observer must be movable
// expect LIKE_AT_CONNECT: nbd: this observer has a member with a name similar to `at_connect`
// expect LIKE_AT_OPTION: nbd: this observer has a member with a name similar to `at_option`
// expect LIKE_AT_OPTION_ERROR: nbd: this observer has a member with a name similar to `at_option_error`
// expect LIKE_AT_EXPORT_OPENED: nbd: this observer has a member with a name similar to `at_export_opened`
// expect LIKE_AT_REQUEST: nbd: this observer has a member with a name similar to `at_request`
// expect LIKE_AT_REPLY: nbd: this observer has a member with a name similar to `at_reply`
// expect LIKE_AT_ERROR: nbd: this observer has a member with a name similar to `at_error`
// expect LIKE_AT_DISCONNECT: nbd: this observer has a member with a name similar to `at_disconnect`
// expect LIKE_AT_DRAIN_ERROR: nbd: this observer has a member with a name similar to `at_drain_error`
// expect LIKE_AT_ACCEPT_ERROR: nbd: this observer has a member with a name similar to `at_accept_error`
#include <nbd/server.hpp>

#include <atomic>
#include <mutex>

#if defined AT_CONNECT
struct listener {
    void at_connect(int) {}
};
#elif defined AT_OPTION
struct listener {
    void at_option() {}
};
#elif defined AT_EXPORT_OPENED
struct listener {
    void at_export_opened(const nbd::client&, std::string_view) {}
};
#elif defined AT_REQUEST
struct listener {
    void at_request(nbd::protocol::request) {}
};
#elif defined AT_REPLY
struct listener {
    void at_reply(const nbd::client&, const nbd::protocol::request&) {}
};
#elif defined AT_ERROR
struct listener {
    void at_error(const nbd::client&, std::error_code, std::string_view) {}
};
#elif defined AT_OPTION_ERROR
struct listener {
    void at_option_error(const nbd::client&, const nbd::failure&) {}
};
#elif defined NOTE
struct listener {
    struct place {
        explicit place(int) {}
    };
    place at_request(const nbd::client&, const nbd::protocol::request&) { return place{1}; }
};
#elif defined NOTE_NOT_RETURNED
struct listener {
    void at_request(const nbd::client&, const nbd::protocol::request&) {}
    void at_reply(const nbd::client&, const nbd::protocol::request&, nbd::protocol::error_value,
                  int)
    {
    }
};
#elif defined AT_DISCONNECT
struct listener {
    void at_disconnect(const nbd::client&) {}
};
#elif defined AT_DRAIN_ERROR
struct listener {
    void at_drain_error(nbd::drain_reason, const nbd::failure&) {}
};
#elif defined AT_ACCEPT_ERROR
struct listener {
    void at_accept_error(const nbd::client&) {}
};
#elif defined NO_EVENT
struct listener {
    void connected(const nbd::client&) {}
};
#elif defined REFERENCE
struct counter {
    void at_connect(const nbd::client&) {}
};
using listener = counter&;
#elif defined POINTER
struct counter {
    void at_connect(const nbd::client&) {}
};
using listener = counter*;
#elif defined ATOMIC
struct listener {
    std::atomic<int> count{0};
    void at_connect(const nbd::client&) { ++count; }
};
#elif defined MUTEX
struct listener {
    std::mutex lock;
    void at_connect(const nbd::client&) {}
};
#elif defined LIKE_AT_CONNECT
struct listener {
    void at_disconnect(const nbd::client&, std::error_code) {}
    void at_connected(const nbd::client&) {}
};
#elif defined LIKE_AT_OPTION
struct listener {
    void at_connect(const nbd::client&) {}
    void at_options(const nbd::client&) {}
};
#elif defined LIKE_AT_OPTION_ERROR
struct listener {
    void at_connect(const nbd::client&) {}
    void at_option_errors(const nbd::client&) {}
};
#elif defined LIKE_AT_EXPORT_OPENED
struct listener {
    void at_connect(const nbd::client&) {}
    void at_export_open(const nbd::client&) {}
};
#elif defined LIKE_AT_REQUEST
struct listener {
    void at_connect(const nbd::client&) {}
    void at_requests(const nbd::client&) {}
};
#elif defined LIKE_AT_REPLY
struct listener {
    void at_connect(const nbd::client&) {}
    void at_replies(const nbd::client&) {}
};
#elif defined LIKE_AT_ERROR
struct listener {
    void at_connect(const nbd::client&) {}
    void at_errors(const nbd::client&) {}
};
#elif defined LIKE_AT_DISCONNECT
struct listener {
    void at_connect(const nbd::client&) {}
    void at_disconect(const nbd::client&) {}
};
#elif defined LIKE_AT_DRAIN_ERROR
struct listener {
    void at_connect(const nbd::client&) {}
    void at_drain_errors(const nbd::client&) {}
};
#elif defined LIKE_AT_ACCEPT_ERROR
struct listener {
    void at_connect(const nbd::client&) {}
    void at_accept_errors(const nbd::client&) {}
};
#else
struct listener {
    void at_connect(const nbd::client&) {}
    void at_error(const nbd::client&, const nbd::protocol::request&, const nbd::failure&) {}
};
#endif

int main()
{
    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads, listener> server{
        {.path = "disk.sock"}};
    server.exports().add("disk", nbd::mem_backend{512});
    server.run();
}
