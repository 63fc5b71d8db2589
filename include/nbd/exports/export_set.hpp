// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/error.hpp>
#include <nbd/exports/async_resize.hpp>
#include <nbd/exports/export_record.hpp>
#include <nbd/exports/export_table.hpp>
#include <nbd/exports/name_list.hpp>
#include <nbd/exports/opened_export.hpp>
#include <nbd/exports/presence.hpp>
#include <nbd/exports/program_calls.hpp>
#include <nbd/exports/unfit_exports.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/settings.hpp>
#include <nbd/vocabulary/client.hpp>

#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>

#include <concepts>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

namespace nbd {

/// A backend that cannot be served selects this primary template. A compile error states why.
template <class Backend>
class export_set : public exports::unfit_exports<Backend> {
    using reason = diagnosis::explained_backend<Backend, diagnosis::first_broken<Backend>()>;
};

/// The exports of a server, by name. Exports can be added and removed while clients are connected.
/// The empty name denotes the default export: the first one that was added, until `set_default`.
/// *Thread safety*: any thread may call any member at any time, except the destructor; also from a
/// backend, an observer or `admit`.
/// *Lifetime*: every server that uses the set shares its ownership.
template <class Backend>
    requires(diagnosis::backend_is_sound<Backend>())
class export_set<Backend> : exports::export_table<Backend> {
    using table = exports::export_table<Backend>;
    using record = exports::export_record<Backend>;

public:
    using backend_type = Backend;
    /// An export as one client has it open.
    using opened = exports::opened_export<Backend>;

    /// Whether calls of the backend take a lock, because it promises no more than serialize_all.
    static constexpr bool locks = record::locks;

    export_set() = default;
    export_set(const export_set&) = delete;
    export_set& operator=(const export_set&) = delete;

    /// Adds an export. `name` and the description are UTF-8 of at most 4096 bytes, without NUL.
    /// *Returns* the backend, for a program that keeps using it.
    /// *Errors*: std::invalid_argument for a name that is in use, and for a name, a size or block
    /// sizes that are not allowed; the set is unchanged then.
    /// *Lifetime*: the backend lives until the export is removed and its last client has left, and
    /// while the program keeps the returned pointer.
    template <class B = Backend>
        requires(!std::convertible_to<B, export_settings>)
    std::shared_ptr<Backend> add(std::string name, B&& backend, export_settings e = {})
    {
        constexpr bool fits = std::convertible_to<B, Backend>;
        constexpr bool is_backend = std::same_as<std::remove_cvref_t<B>, Backend>;
        static_assert(fits || is_backend,
                      "nbd: the second argument of `add` is a backend; to construct it from other "
                      "arguments use `emplace(name, settings, constructor arguments...)`");
        static_assert(fits || !is_backend || !std::is_lvalue_reference_v<B>,
                      "nbd: this backend cannot be copied; pass it to `add` with std::move, or "
                      "construct it with `emplace(name, settings, constructor arguments...)`");
        static_assert(fits || !is_backend || std::is_lvalue_reference_v<B>,
                      "nbd: this backend cannot be moved; make it in its place with "
                      "`exports().emplace(name, settings, constructor arguments...)`");
        if constexpr (fits)
            return emplace(std::move(name), std::move(e), std::forward<B>(backend));
        else
            return {};
    }
    /// Other arguments: a compile error.
    template <class... Args>
        requires(!exports::fit_add<Args...>)
    std::shared_ptr<Backend> add(const Args&...)
    {
        static_assert(exports::fit_add<Args...>,
                      "nbd: the arguments of `add` are a name, a backend and optionally settings: "
                      "`add(\"disk\", my_disk{...}, {.description = \"...\"})`");
        return {};
    }
    template <class = void>
    void add(...) = delete;  // nbd: a wrong member in braces; `export_settings{...}` says which

    /// As `add`, for a backend that is constructed in place from `args`.
    template <class... Args>
    std::shared_ptr<Backend> emplace(std::string name, export_settings e, Args&&... args)
    {
        constexpr bool fits = std::constructible_from<Backend, Args...>;
        static_assert(fits, "nbd: this backend has no constructor that takes these arguments");
        if constexpr (fits) {
            auto made = std::make_shared<Backend>(std::forward<Args>(args)...);
            table::add(std::move(name), std::move(e), made);
            return made;
        } else {
            return {};
        }
    }
    /// Other arguments: a compile error.
    template <class... Args>
        requires(!exports::fit_emplace<Args...>)
    std::shared_ptr<Backend> emplace(const Args&...)
    {
        static_assert(exports::fit_emplace<Args...>,
                      "nbd: the arguments of `emplace` are a name, settings and the arguments of "
                      "the backend's constructor: `emplace(\"disk\", {}, ...)`");
        return {};
    }
    template <class = void>
    void emplace(...) = delete;  // nbd: a wrong member in braces; `export_settings{...}` says it

    /// Removes an export. New clients cannot open it. Requests of clients that have it open are
    /// answered with ESHUTDOWN; `how` can also disconnect them:
    ///
    ///     set.remove("disk", {.clients = nbd::disconnect_after{std::chrono::seconds{5}}});
    ///
    /// For an export that was looked up, this concerns the clients that have it open: the next
    /// client's lookup is a call of the function again, which no longer has to find the export.
    /// *Returns* false if there is no export of that name, and no client that has looked it up.
    bool remove(std::string_view name, const removal& how = {}) { return table::remove(name, how); }

    /// Changes the description of an export that was added; nullopt: its name. It is for clients
    /// that open the export from now on. *Returns* false if there is no export of that name.
    /// *Errors*: std::invalid_argument for a description that is not allowed.
    bool set_description(std::string_view name, std::optional<std::string> text)
    {
        if (text && !protocol::valid_string(*text))
            throw std::invalid_argument{record::bad_description};
        return table::change(name, [&](export_settings& e) { e.description = std::move(text); });
    }
    /// Makes an export that was added read-only or not, as export_settings::read_only. It is for
    /// clients that open the export from now on: others keep what their handshake told them. To
    /// reach those, disconnect them. *Returns* false if there is no export of that name.
    bool set_read_only(std::string_view name, bool read_only)
    {
        return table::change(name, [=](export_settings& e) { e.read_only = read_only; });
    }

    /// *Returns* the backend of an export that was added, or of the default export for the empty
    /// name; null if there is none.
    [[nodiscard]] std::shared_ptr<Backend> find(std::string_view name) const
    {
        const auto found = table::registered(name);
        return found ? found->shared->backend : nullptr;
    }
    /// Whether `find` would return a backend.
    [[nodiscard]] bool contains(std::string_view name) const
    {
        return table::registered(name) != nullptr;
    }

    /// Sets the function that finds exports which were not added, for example in a store of
    /// thousands of snapshots:
    ///
    ///     set.on_lookup([&](std::string_view name, const nbd::client& who) {
    ///         return store.find(name);  // a std::shared_ptr<snapshot>
    ///     });
    ///
    /// It is called for each option that names such an export (INFO, GO, EXPORT_NAME,
    /// LIST_META_CONTEXT, SET_META_CONTEXT), with the name that the client sent, or that of
    /// set_default for the empty name. It returns std::shared_ptr<Backend> or
    /// nbd::found_export<Backend>, where null means that there is no such export, or
    /// boost::asio::awaitable of one. All clients of one object share its locks and its size,
    /// whatever names they used, so the store should return the same object for a name while it has
    /// one. The server keeps the object while a client has it open; for its `drain`, see
    /// concepts/draining.hpp.
    /// *Errors*: an exception refuses the client; EPERM and EACCES as ERR_POLICY.
    /// *Thread safety*: the function is called from several threads at once, with no lock held; it
    /// may call every member of the set and of the server. With strand_pool and on_executor, it
    /// delays other clients, unless it is awaited.
    /// *Lifetime*: `name` and `who` are valid until it returns or, if it is awaited, completes. It
    /// is destroyed with the set, or after the next on_lookup.
    /// *Cancellation*: none. The server waits until it completes, also if the client has left.
    ///
    /// An awaited function runs on the executor of the client, or with per_client_threads on a
    /// context of the client's thread; what it leaves there is destroyed. With awaitable<T> it runs
    /// with every policy. With awaitable<T, Executor>, the policy must have that executor;
    /// otherwise its clients are refused, and the observer gets the reason.
    template <class F>
    void on_lookup(F f)
    {
        constexpr bool fits = exports::looks_up<F, Backend>;
        static_assert(fits,
                      "nbd: a lookup is called with a std::string_view and a const nbd::client&, "
                      "and returns std::shared_ptr<Backend>, nbd::found_export<Backend>, or "
                      "boost::asio::awaitable of one");
        if constexpr (fits)
            table::set(std::make_shared<const exports::lookup_function<Backend>>(
                exports::erased<found_export<Backend>, std::string_view, const client&>(
                    std::move(f))));
    }
    /// Sets the function that adds to LIST the names of exports which are found by on_lookup:
    ///
    ///     set.on_list([&](nbd::name_list& to) {
    ///         store.for_each_name([&](const auto& name) { to.add(name); });
    ///     });
    ///
    /// It is called for each page of the answer; see nbd::name_list. It may return
    /// boost::asio::awaitable<void>. The rest is as for on_lookup. *Errors*: an exception ends the
    /// answer with an error.
    template <class F>
    void on_list(F f)
    {
        constexpr bool fits = exports::lists<F>;
        static_assert(fits,
                      "nbd: a listing is called with an nbd::name_list&, and returns void or "
                      "boost::asio::awaitable<void>");
        if constexpr (fits)
            table::set(std::make_shared<const exports::list_function>(
                exports::erased<std::monostate, name_list&>(std::move(f))));
    }

    /// Changes the size of an export to `size` bytes with the backend's `resize`, and blocks until
    /// that has ended. Requests past a smaller end fail from the beginning of the resize; added
    /// space can be used after its end. INFO and GO report the new size.
    /// *Errors*: errc::unknown_export; EINVAL for a size that is 2^63 or more, or not a multiple of
    /// the minimum block size; EDEADLK from within a call of this export's backend that a resize
    /// would wait for: any call with `serialize_all`, otherwise `resize`, `refresh_size` and
    /// `block_sizes`; the backend's. The size is unchanged then. Calls of two exports must not
    /// resize each other.
    [[nodiscard]] std::error_code resize(std::string_view name, std::uint64_t size)
        requires(record::resizable && !awaits_resize<Backend>)
    {
        const auto found = table::registered(name);
        if (!found)
            return errc::unknown_export;
        return found->resize(size).code;
    }

    /// As `resize`, for a backend whose `resize` is awaited: an asynchronous operation with the
    /// signature void(std::error_code). The backend's `resize` runs on the executor `on`; so does
    /// the completion handler, unless it has an associated executor.
    /// The backend's own `resize` must not await it for the same export: resizes run one at a time.
    /// *Cancellation*: none.
    /// *Lifetime*: the set may be destroyed before the operation completes. `on` must stay valid
    /// until then.
    template <class Executor, class Token>
    auto async_resize(const Executor& on, std::string_view name, std::uint64_t size, Token&& token)
        requires(record::resizable && awaits_resize<Backend>)
    {
        return boost::asio::async_initiate<Token, void(std::error_code)>(
            [](auto handler, const Executor& runs_on, std::shared_ptr<record> found,
               std::uint64_t bytes) {
                const auto completes_on = boost::asio::get_associated_executor(handler, runs_on);
                boost::asio::co_spawn(
                    runs_on, exports::async_resize<Backend>(std::move(found), bytes),
                    boost::asio::bind_executor(
                        completes_on,
                        [h = std::move(handler)](const std::exception_ptr& thrown,
                                                 const failure& failed) mutable {
                            std::move(h)(thrown ? std::make_error_code(std::errc::not_enough_memory)
                                                : failed.code);
                        }));
            },
            token, on, table::registered(name), size);
    }

    /// Sets the export that the empty name denotes, which may be one that is looked up; nullopt:
    /// none. An export whose own name is empty takes precedence.
    void set_default(std::optional<std::string> name) { table::set_default(std::move(name)); }

    /// *Returns* the names of all exports that were added, sorted bytewise.
    [[nodiscard]] std::vector<std::string> names() const { return table::names(); }

    // --- for the sessions -----------------------------------------------------------------------

    using table::list;
    using table::looked_up;
    using table::lookup;
    using table::name_to_look_up;
    using table::registered;
    using table::visit_after;
    using table::watchers;
};

}  // namespace nbd
