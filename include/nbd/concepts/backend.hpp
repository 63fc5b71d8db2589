// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/draining.hpp>
#include <nbd/concepts/facts.hpp>
#include <nbd/concepts/lending.hpp>
#include <nbd/concepts/opening.hpp>
#include <nbd/concepts/outcome.hpp>
#include <nbd/concepts/promises.hpp>
#include <nbd/concepts/wide_integer.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/vocabulary/backend_types.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/completion.hpp>
#include <nbd/vocabulary/extent_list.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

/// A Backend is a class that stores the data of a block device. `size` and `read` are required;
/// every other member is optional and adds an ability. The server computes the transmission flags
/// from the members that the type has. Offsets and lengths are in bytes. The parameters are in the
/// order of the table.
///
/// | member | ability | when absent |
/// |---|---|---|
/// | `std::uint64_t size() const` | required | compile error |
/// | `outcome read(offset, std::span<std::byte> to)` | READ; required | compile error |
/// | `outcome write(offset, std::span<const std::byte> from)` | WRITE, WRITE_ZEROES | read-only |
/// | `outcome write(offset, from, nbd::write_flags)` | native FUA | FUA is a write and a flush |
/// | `outcome flush()` | FLUSH, FUA | no FLUSH; FUA only with write_flags |
/// | `outcome trim(offset, length)` | TRIM; needs write | not offered |
/// | `outcome write_zeroes(offset, length, nbd::zero_flags)` | own WRITE_ZEROES | zero writes |
/// | `outcome cache(offset, length)` | CACHE | not offered |
/// | `outcome extents(offset, length, nbd::extent_list& to)` | base:allocation, holes | none |
/// | `meta_contexts() const`, `context_extents(...)` | own metadata contexts | not offered |
/// | `lend(offset, length)` | READ without a copy | data are read into a buffer |
/// | `lend_file(offset, length)` | large READs by sendfile(2) or splice(2) | as above |
/// | `std::size_t read_now(offset, to) noexcept` | READ without a change of thread | `read` alone |
/// | `lend_for_write(offset, length)` | large WRITEs received in place | received into a buffer |
/// | `lent_written(offset, length)` | called after a WRITE in place | no call |
/// | `nbd::block_sizes block_sizes() const` | advertised and enforced limits | 1, 4096, 32 MiB |
/// | `nbd::abilities abilities() const` | withholds abilities at run time | all of the type |
/// | `outcome resize(std::uint64_t size)` | RESIZE, export_set::resize | not offered |
/// | `std::uint64_t refresh_size() noexcept` | called for each client that opens | `size` is kept |
/// | `state open(const nbd::client&)` | a backend for each client | one for all clients |
/// | `outcome drain(nbd::drain_reason why)` | called when no client is left | no call |
/// | `outcome handle(nbd::call&)` | every command by one function | see vocabulary/call.hpp |
///
/// **Three kinds.** All members of a backend that return an outcome are of one kind, except
/// `resize`. `resize` may be synchronous in each kind, and must be in a backend with callbacks.
/// `open` and `drain` may be synchronous or awaited in each kind.
/// - Synchronous: they return a `ready_outcome` (std::error_code, std::errc, nbd::failure, void).
/// - Awaited: they return boost::asio::awaitable of a ready_outcome. They run on the client's
///   executor.
/// - With callbacks: their names are `async_read`, `async_write`, ... They have an nbd::completion
///   as the last parameter, and return void. See vocabulary/completion.hpp.
///
/// *Parameters*: the server checks a range before the call: it is inside the export and a multiple
/// of the minimum block size. trim, write_zeroes and cache get at most 256 MiB; the server divides
/// longer requests.
/// *Errors*: an error becomes an NBD error value by the table of protocol/error_value.hpp, and the
/// connection stays open. An error that NBD has no value for, such as one of a network, becomes
/// EIO. Members may throw (concepts/outcome.hpp).
/// *Thread safety*: as `concurrency` promises (concepts/promises.hpp).
/// *Lifetime*: arguments are valid until the call returns or, for the other kinds, completes. The
/// object that `open` returns is destroyed when the client has left, or earlier; see has_open.
/// *Cancellation*: none, unless the backend promises `cancellable`: then awaited calls get
/// asio::cancellation_type::terminal when the client has left (concepts/promises.hpp). stop() waits
/// until every call has completed.
/// *Durability*: flush covers the calls that had completed when it began: those of this client, and
/// with `multi_conn` those of all clients. For a TRIM or WRITE_ZEROES with FUA, the server flushes
/// after the call. Zeroes that the server writes use native FUA instead, if `write` has it. Without
/// flush, a TRIM with FUA makes no call, and a WRITE_ZEROES with FUA writes zeroes with native FUA.
/// The server never flushes unless a client asks for it.
///
/// *Inheritance*: a class that declares `read`, `write` or `size` must not inherit a member that
/// would go round it, such as `lend` (concepts/inheritance.hpp): that is a compile error.
///
/// A member with another name adds no ability. Common misspellings are compile errors
/// (concepts/misspelled.hpp); to detect every one, list the abilities with nbd::offers
/// (concepts/offers.hpp). A member with one of these names and other parameters, with an offset or
/// a length of fewer than 64 bits, or with another result is a compile error.
namespace nbd {

using protocol::meta_context;

class call;  // vocabulary/call.hpp

// --- Presence: each concept is satisfied if the member exists in its right shape -----------------
// Arguments are const, so a member that takes one by reference to non-const does not match. Offsets
// and lengths convert to no narrower integer, so a member that would truncate them does not match;
// `n` is one as the server passes it.

template <class B>
concept has_async_read = requires(B& b, const wide_offset offset, const std::span<std::byte> to,
                                  const only_completion done, const std::uint64_t n) {
    { b.async_read(offset, to, done) } -> std::same_as<void>;
    b.async_read(n, to, done);
};
/// Reads `to.size()` bytes. Bytes that it does not write are sent as zero, unless the backend
/// promises `fills_reads`.
template <class B>
concept has_read = has_async_read<B>
    || requires(B& b, const wide_offset offset, const std::span<std::byte> to,
                const std::uint64_t n) {
           { b.read(offset, to) } -> outcome;
           b.read(n, to);
       };

template <class B>
concept has_plain_write =
    requires(B& b, const wide_offset offset, const std::span<const std::byte> from,
             const std::uint64_t n) {
        { b.write(offset, from) } -> outcome;
        b.write(n, from);
    }
    || requires(B& b, const wide_offset offset, const std::span<const std::byte> from,
                const only_completion done, const std::uint64_t n) {
           { b.async_write(offset, from, done) } -> std::same_as<void>;
           b.async_write(n, from, done);
       };
/// A write that obeys write_flags::fua: when it succeeds, the data are on stable storage.
template <class B>
concept has_fua_write =
    requires(B& b, const wide_offset offset, const std::span<const std::byte> from,
             const write_flags flags, const std::uint64_t n) {
        { b.write(offset, from, flags) } -> outcome;
        b.write(n, from, flags);
    }
    || requires(B& b, const wide_offset offset, const std::span<const std::byte> from,
                const write_flags flags, const only_completion done, const std::uint64_t n) {
           { b.async_write(offset, from, flags, done) } -> std::same_as<void>;
           b.async_write(n, from, flags, done);
       };
template <class B>
concept has_write = has_plain_write<B> || has_fua_write<B>;

/// Makes durable what completed calls wrote, trimmed or zeroed. See "Durability" above.
template <class B>
concept has_flush = requires(B& b) {
    { b.flush() } -> outcome;
} || requires(B& b, const only_completion done) {
    { b.async_flush(done) } -> std::same_as<void>;
};

/// Says that the data of a range are not needed. What the range reads as afterwards is not
/// specified.
template <class B>
concept has_trim =
    requires(B& b, const wide_offset offset, const wide_offset length, const std::uint64_t n) {
        { b.trim(offset, length) } -> outcome;
        b.trim(n, n);
    }
    || requires(B& b, const wide_offset offset, const wide_offset length,
                const only_completion done, const std::uint64_t n) {
           { b.async_trim(offset, length, done) } -> std::same_as<void>;
           b.async_trim(n, n, done);
       };

/// Makes a range read as zero. If it fails with std::errc::not_supported, the server writes the
/// zeroes, or replies ENOTSUP if `fast` was set.
template <class B>
concept has_write_zeroes =
    requires(B& b, const wide_offset offset, const wide_offset length, const zero_flags flags,
             const std::uint64_t n) {
        { b.write_zeroes(offset, length, flags) } -> outcome;
        b.write_zeroes(n, n, flags);
    }
    || requires(B& b, const wide_offset offset, const wide_offset length, const zero_flags flags,
                const only_completion done, const std::uint64_t n) {
           { b.async_write_zeroes(offset, length, flags, done) } -> std::same_as<void>;
           b.async_write_zeroes(n, n, flags, done);
       };

/// Says that a range will be read soon.
template <class B>
concept has_cache =
    requires(B& b, const wide_offset offset, const wide_offset length, const std::uint64_t n) {
        { b.cache(offset, length) } -> outcome;
        b.cache(n, n);
    }
    || requires(B& b, const wide_offset offset, const wide_offset length,
                const only_completion done, const std::uint64_t n) {
           { b.async_cache(offset, length, done) } -> std::same_as<void>;
           b.async_cache(n, n, done);
       };

/// Reports which parts of a range are data, holes or zero. It adds extents with
/// protocol::state_flag bits, without gaps from `offset` on, until `add` returns false. They may
/// cover less than the range. No extent at all is EIO.
template <class B>
concept has_extents =
    requires(B& b, const wide_offset offset, const wide_offset length, extent_list& to,
             const std::uint64_t n) {
        { b.extents(offset, length, to) } -> outcome;
        b.extents(n, n, to);
    }
    || requires(B& b, const wide_offset offset, const wide_offset length, extent_list& to,
                const only_completion done, const std::uint64_t n) {
           { b.async_extents(offset, length, to, done) } -> std::same_as<void>;
           b.async_extents(n, n, to, done);
       };

/// Metadata contexts in namespaces of the backend. `meta_contexts() const` lists them; the list
/// must not change while the backend lives. `context_extents(index, offset, length, to)` reports
/// the extents of the context at `index`, as `extents` does. If extents are shorter than the
/// minimum block size, a block gets the bits of all extents in it.
template <class B>
concept has_meta_contexts = requires(const B& b) {
    { b.meta_contexts() } -> lent_range<const meta_context>;
} && (requires(B& b, const std::size_t index, const wide_offset offset,
               const wide_offset length, extent_list& to, const std::uint64_t n) {
    { b.context_extents(index, offset, length, to) } -> outcome;
    b.context_extents(index, n, n, to);
} || requires(B& b, const std::size_t index, const wide_offset offset,
              const wide_offset length, extent_list& to, const only_completion done,
              const std::uint64_t n) {
    { b.async_context_extents(index, offset, length, to, done) } -> std::same_as<void>;
    b.async_context_extents(index, n, n, to, done);
});

/// Changes the size. Data after the new end are lost; added bytes read as zero. Called by
/// export_set::resize and async_resize, and for a client's RESIZE if the export allows it; one call
/// at a time for each export. An awaited backend may await it. With `serialize_all`, no other call
/// runs at the same time. With `parallel`, calls that the server admitted before may use a range
/// after the new end, and lent memory may be in use.
template <class B>
concept has_resize = requires(B& b, const wide_offset size, const std::uint64_t n) {
    { b.resize(size) } -> outcome;
    b.resize(n);
};
template <class B>
concept awaits_resize = requires(B& b, const wide_offset size, const std::uint64_t n) {
    { b.resize(size) } -> awaited_outcome;
    b.resize(n);
};

/// Finds out the current size, which another program may have changed, and returns it. Called when
/// a client opens the export, unless a resize is running. The server rounds it down to the minimum
/// block size; all clients have that size from then on. Calls on other threads may be running. Not
/// used in a backend with `open`, or whose resize is awaited.
template <class B>
concept has_refresh_size = requires(B& b) {
    { b.refresh_size() } noexcept -> std::same_as<std::uint64_t>;
};

/// Creates the backend of one client: returns, by value, an object that serves only that client.
/// The server uses the members and promises of that object; the outer type needs no others.
/// `c.export_name` is the export's name.
///
/// The first option of a handshake that needs the export (INFO, GO, EXPORT_NAME, LIST_META_CONTEXT,
/// SET_META_CONTEXT) causes the call. The object serves the later options and the transmission
/// phase. It is destroyed when the client selects another export, when the export is removed before
/// GO, or when the client leaves. A client can cause settings.options_per_handshake calls, and one
/// more for each export that LIST named. An exception refuses the client.
///
/// With a second parameter, `open(const nbd::client&, nbd::open_purpose)`, the object of an option
/// that only asks about the export does not serve the transmission phase: GO and EXPORT_NAME
/// destroy it and call `open` again.
///
/// With `serialize_all`, the default, calls of all clients and `open` run one at a time; but an
/// `open` that is not awaited may run at the same time as asynchronous members. Such an object
/// usually promises `serialize_client`.
///
/// `open` may return boost::asio::awaitable<state, Executor> if the members of the state are
/// asynchronous, or if the policy's clients do not block (strand_pool, on_executor). A state with
/// synchronous members must then promise `serialize_client` or `parallel`. The server waits until
/// `open` completes, even if the client has left, so it must end by itself.
template <class B>
concept has_open = requires {
    requires std::move_constructible<open_result<B>>;
    requires !std::is_reference_v<open_result<B>>;
};

/// Carries out every command: one member instead of read, write and so on (vocabulary/call.hpp).
/// The server then offers WRITE, FLUSH, FUA, TRIM, WRITE_ZEROES and CACHE.
/// export_settings::withhold removes those that the backend does not carry out.
template <class B>
concept has_handle = requires(B& b, call& c) {
    { b.handle(c) } -> outcome;
};

/// An awaited result of `open`: boost::asio::awaitable of anything but void.
template <class T>
concept awaited_state = requires {
    typename T::value_type;
    typename T::executor_type;
} && std::move_constructible<typename T::value_type> && !has_read<T> && !has_handle<T>;

template <class B>
concept awaits_open = has_open<B> && awaited_state<open_result<B>>;

// --- The whole -----------------------------------------------------------------------------------

template <class B>
struct served {
    using type = B;
};
template <has_open B>
struct served<B> {
    using type = std::remove_cvref_t<open_result<B>>;
};
template <awaits_open B>
struct served<B> {
    using type = typename open_result<B>::value_type;
};
/// The type that carries out a client's requests: the backend, or what its `open` returns.
template <class B>
using served_t = typename served<B>::type;

/// A backend with callbacks.
template <class B>
concept calls_back = has_async_read<B>;

/// A backend whose members are awaited or take callbacks.
template <class B>
concept asynchronous =
    calls_back<B> || requires(B& b, const wide_offset offset, const std::span<std::byte> to) {
        { b.read(offset, to) } -> awaited_outcome;
    } || requires(B& b, call& c) {
        { b.handle(c) } -> awaited_outcome;
    };

/// The members that a server requires.
template <class B>
concept readable_backend = has_size<B> && (has_read<B> || has_handle<B>);

/// A disk that can be read, written, flushed and trimmed. A backend with `handle` does not satisfy
/// it.
template <class B>
concept backend = readable_backend<B> && has_write<B> && has_flush<B> && has_trim<B>;

}  // namespace nbd
