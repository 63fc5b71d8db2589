// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/observer.hpp>
#include <nbd/error.hpp>
#include <nbd/exports/authorisation.hpp>
#include <nbd/exports/drain_order.hpp>
#include <nbd/exports/presence.hpp>
#include <nbd/session/buffers/client_memory.hpp>
#include <nbd/session/deadline.hpp>
#include <nbd/session/ending.hpp>
#include <nbd/settings.hpp>
#include <nbd/vocabulary/established.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

namespace nbd::session {

/// What the loops of one client share with the server around them.
/// *Thread safety*: the atomic members, and those whose contract says so, from any thread; the
/// others from the session.
template <class Observer>
struct context {
    const settings& limits;
    Observer& observer;
    client who;  ///< who.export_name: constant, and for any thread to read, once `admitted` is true
    session::deadline deadline;  ///< for bytes from the client
    session::deadline sending;   ///< for bytes to the client
    /// The server is stopping: finish what was begun, refuse what is new.
    const std::atomic<bool>& stopping;
    client_memory memory;
    /// The handshake is over. Until then the server may end the connection to free its place.
    std::atomic<bool> admitted{false};
    /// The client has started TLS: `who.tls` is constant from now on.
    std::atomic<bool> secured{false};
    /// The session waits for its client, so a deadline that passes is the fault of the client.
    std::atomic<bool> waiting{false};
    /// The session neither receives nor sends for a long time, so it does not notice a closed
    /// connection; the server checks the connection instead.
    std::atomic<bool> working{false};
    session::ending ending{};
    /// Why the session ended, as it noticed; empty after DISC, ABORT or a clean close.
    std::error_code ended{};
    /// Constant, and for any thread to read, once `admitted` is true.
    std::shared_ptr<const exports::presence> in_set{};

    /// The handshake that was over before the server adopted the connection; null: there was none.
    std::unique_ptr<const established> begun{};

    /// What is due when the client has left an export whose backend has `drain`; one at most.
    exports::drain_orders order{};

    /// The program's function; null: every client may use every export.
    const authorisation* authorise = nullptr;

    /// Whether the client's export was removed, and its clients are to be disconnected.
    [[nodiscard]] bool removed(exports::presence::clock::time_point now) const noexcept
    {
        return admitted.load(std::memory_order_acquire) && in_set != nullptr
            && in_set->disconnects(now);
    }
    /// The handshake is over. `its_presence`: that of the export.
    void admit(std::string_view name, std::shared_ptr<const exports::presence> its_presence)
    {
        who.export_name = name;
        in_set = std::move(its_presence);
        admitted.store(true, std::memory_order_release);
    }
    void secure(tls_info by)
    {
        who.tls.emplace(std::move(by));
        secured.store(true, std::memory_order_release);
    }
    /// *Returns* what the client has proved over TLS; null before. *Thread safety*: any thread.
    [[nodiscard]] const tls_info* identity() const noexcept
    {
        return secured.load(std::memory_order_acquire) ? &*who.tls : nullptr;
    }
    /// For the next bytes of replies that the client has to take.
    void arm_sending() noexcept
    {
        sending.arm_transfer(limits.send_timeout, limits.least_transfer_rate, errc::send_timeout);
    }
    /// For the next bytes of the message that the client has begun.
    void arm_message() noexcept
    {
        deadline.arm_transfer(limits.progress_timeout, limits.least_transfer_rate,
                              errc::progress_timeout);
    }

    /// Exists during a call of the program in the handshake, whose time is not that of the client.
    /// `name`: the export that the call is about, for `who.export_name`.
    class program_scope {
    public:
        explicit program_scope(context& c, std::string_view name = {})
            : context_{c}, begun_{c.deadline.now()}
        {
            context_.who.export_name = name;
            context_.waiting.store(false, std::memory_order_relaxed);
        }
        program_scope(const program_scope&) = delete;
        program_scope& operator=(const program_scope&) = delete;
        ~program_scope()
        {
            context_.who.export_name.clear();
            context_.deadline.postpone_since(begun_);
        }

    private:
        context& context_;
        const std::uint64_t begun_;  ///< in ticks
    };
    /// Sets `working` while it exists.
    class working_scope {
    public:
        explicit working_scope(context& c) noexcept : context_{c}
        {
            context_.working.store(true, std::memory_order_relaxed);
        }
        working_scope(const working_scope&) = delete;
        working_scope& operator=(const working_scope&) = delete;
        ~working_scope() { context_.working.store(false, std::memory_order_relaxed); }

    private:
        context& context_;
    };

    /// The server is stopping or the connection is closed.
    [[nodiscard]] bool over() const noexcept
    {
        return stopping.load(std::memory_order_relaxed) || ending.closed_for() != errc{};
    }
};

}  // namespace nbd::session
