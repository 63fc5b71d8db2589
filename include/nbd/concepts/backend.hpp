// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/meta_context.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/vocabulary/backend_types.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/extent_list.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>

/// The Backend: what a block device does. Read this file and you can write your own.
///
/// Only `size() const` and `read(offset, span)` are required. Every further member that exists adds
/// an ability, and the transmission flags a client sees are computed from the type, so a server
/// cannot advertise what its code does not do:
///
///     std::uint64_t size() const;                                            required, bytes
///     outcome read(std::uint64_t offset, std::span<std::byte> to);           required
///     outcome write(std::uint64_t offset, std::span<const std::byte> from);  WRITE; else READ_ONLY
///     outcome write(std::uint64_t, std::span<const std::byte>, write_flags); native FUA
///     outcome flush();                                                       SEND_FLUSH, SEND_FUA
///     outcome trim(std::uint64_t offset, std::uint64_t length);              SEND_TRIM
///     outcome write_zeroes(std::uint64_t offset, std::uint64_t length, zero_flags);
///     outcome cache(std::uint64_t offset, std::uint64_t length);             SEND_CACHE
///     std::span<const std::byte> lend(std::uint64_t offset, std::size_t length) noexcept;
///     file_range lend_file(std::uint64_t offset, std::size_t length) noexcept;
///     std::span<std::byte> lend_for_write(std::uint64_t offset, std::size_t length) noexcept;
///     void lent_written(std::uint64_t offset, std::size_t length) noexcept;   optional with it
///     outcome extents(std::uint64_t offset, std::uint64_t length, extent_list& to);
///     std::span<const meta_context> meta_contexts() const;                    with
///     outcome context_extents(std::size_t index, std::uint64_t offset, std::uint64_t length,
///                             extent_list& to);
///     outcome resize(std::uint64_t size);
///     block_sizes block_sizes() const;
///     state open(const client&);          or boost::asio::awaitable of a state
///     outcome handle(call&);              every request in one, in place of read and the rest
///
/// A type with `handle` is taken to do all of WRITE, FLUSH, FUA, TRIM, WRITE_ZEROES and CACHE; what it
/// does not do is taken away by export_settings. A misspelled member is an absent one:
/// `static_assert(nbd::backend<my_disk>)`, or one of the concepts below, makes sure.
///
/// `outcome` is std::error_code, nbd::failure where there is more to say, or void for a member that
/// throws std::system_error; or boost::asio::awaitable of one of these, for a backend that waits:
/// then all members that give an outcome are awaitable (resize may be), and many requests of a client
/// are under way at the same time. What is awaited runs on the client's executor, and is cancelled
/// (asio::cancellation_type::terminal) when the client has gone, by a signal that is emitted on that
/// executor: a coroutine that goes to a thread of its own may end there, but what it awaits there
/// must not listen to that signal (this_coro::reset_cancellation_state(disable_cancellation{})). One
/// that ignores cancellation delays stop() for as long as it takes. The range of a call was checked
/// before: it lies inside the export and keeps to the block sizes. size() and meta_contexts() are
/// asked once, when the export is added, or of what `open` returned for each client; the size changes
/// by `resize` alone. Spans are valid until the call returns, or completes.
/// An error reaches the client as an error value (protocol/error_value.hpp), and the connection
/// goes on. Any member may throw: system_error, std's and Boost's, gives its code, bad_alloc ENOMEM,
/// everything else EIO.
///
/// Durability: flush() makes durable what calls have written, trimmed and zeroed that had ended when it
/// began: this client's, and with `multi_conn` everybody's. With `parallel`, other calls of the same
/// client may run beside it, which it need not cover. FUA is write_flags::fua where write takes it;
/// else, and for TRIM and WRITE_ZEROES, the call and then flush(); without flush(), zeroes that are to
/// be durable are written. The server never flushes of its own accord, not when a client leaves either.
///
/// Promises, for what cannot be detected (all optional):
///
///     static constexpr nbd::concurrency concurrency   how it may be called; default serialize_all
///     static constexpr bool blocks        calls wait for a device, so that it pays to make many at a
///                                         time: strand_pool does, on threads that wait for them; of
///                                         one client, where `parallel` is promised too
///     static constexpr bool multi_conn    a flush on one connection covers the writes of all
///     static constexpr bool rotational    seeks cost; a hint for the client
///     static constexpr bool fast_zero     write_zeroes is fast, or fails at once if asked to be
///     static constexpr bool fills_reads   a read that succeeds wrote every byte of its span; without
///                                         it the span is zeroed first, so that no old byte can leak
namespace nbd {

using protocol::block_sizes;
using protocol::meta_context;

class call;  // vocabulary/call.hpp

template <class T>
concept ready_outcome = std::is_void_v<T> || std::convertible_to<T, failure>;
/// An outcome that comes later: boost::asio::awaitable, known by its shape, so that whoever waits for
/// nothing needs no Asio.
template <class T>
concept awaited_outcome = requires {
    typename T::value_type;
    typename T::executor_type;
    requires ready_outcome<typename T::value_type>;
};
template <class T>
concept outcome = ready_outcome<T> || awaited_outcome<T>;

// --- Presence: a member exists with its right shape, so the capability exists ---------------------

template <class B>
concept has_size = requires(const B& b) {
    { b.size() } -> std::convertible_to<std::uint64_t>;
};
template <class B>
concept has_read = requires(B& b, std::uint64_t offset, std::span<std::byte> to) {
    { b.read(offset, to) } -> outcome;
};
/// Takes every request whole instead of by one member each; see vocabulary/call.hpp.
template <class B>
concept has_handle = requires(B& b, call& c) {
    { b.handle(c) } -> outcome;
};
template <class B>
concept has_fua_write =
    requires(B& b, std::uint64_t offset, std::span<const std::byte> from, write_flags f) {
        { b.write(offset, from, f) } -> outcome;
    };
template <class B>
concept has_plain_write = requires(B& b, std::uint64_t offset, std::span<const std::byte> from) {
    { b.write(offset, from) } -> outcome;
};
template <class B>
concept has_write = has_plain_write<B> || has_fua_write<B>;
template <class B>
concept has_flush = requires(B& b) {
    { b.flush() } -> outcome;
};
template <class B>
concept has_trim = requires(B& b, std::uint64_t offset, std::uint64_t length) {
    { b.trim(offset, length) } -> outcome;
};
template <class B>
concept has_write_zeroes =
    requires(B& b, std::uint64_t offset, std::uint64_t length, zero_flags f) {
        { b.write_zeroes(offset, length, f) } -> outcome;
    };
template <class B>
concept has_cache = requires(B& b, std::uint64_t offset, std::uint64_t length) {
    { b.cache(offset, length) } -> outcome;
};
/// Lent memory holds exactly `length` bytes, or none to say "read it instead". It stays valid while
/// the backend lives, and is read without any lock, so a backend that lends promises `parallel`.
template <class B>
concept has_lend = requires(B& b, std::uint64_t offset, std::size_t length) {
    { b.lend(offset, length) } noexcept -> std::convertible_to<std::span<const std::byte>>;
};
/// Where in a file the bytes are, or no file to say "read them instead". Large READs then go from the
/// system's cache to the socket without a copy of ours; what cannot be had that way is read. A range
/// that is `sure` must not be cut off the file meanwhile. As with lend, there is no lock. Asked where a
/// client's calls are made in turn: not of an awaited backend, nor by the pool that `blocks` asks for.
template <class B>
concept has_lend_file = requires(B& b, std::uint64_t offset, std::size_t length) {
    { b.lend_file(offset, length) } noexcept -> std::convertible_to<file_range>;
};
/// As lend, for the payload of a large WRITE, which is received in place: a client that vanishes in
/// the middle of it leaves a prefix of the new data behind. Small WRITEs arrive whole, by `write`. Asked
/// where lend_file is.
template <class B>
concept has_lend_for_write = requires(B& b, std::uint64_t offset, std::size_t length) {
    { b.lend_for_write(offset, length) } noexcept -> std::convertible_to<std::span<std::byte>>;
};
/// Says where data are and where holes: base:allocation, and READ replies that leave holes out. Adds
/// extents of protocol::state_flag bits from `offset` on until the list wants no more; less than
/// the whole range is fine, nothing at all is EIO.
template <class B>
concept has_extents = requires(B& b, std::uint64_t offset, std::uint64_t length, extent_list& to) {
    { b.extents(offset, length, to) } -> outcome;
};
/// Contexts of the backend's own namespaces, and their extents; `index` counts in meta_contexts(),
/// which stays the same while the backend lives. Where an export has a minimum block size, a block
/// whose parts differ gets the union of their bits.
template <class B>
concept has_meta_contexts = requires(B& b, const B& c, std::size_t index, std::uint64_t offset,
                                     std::uint64_t length, extent_list& to) {
    { c.meta_contexts() } -> std::convertible_to<std::span<const meta_context>>;
    { b.context_extents(index, offset, length, to) } -> outcome;
};
/// Changes the size to `size` bytes. What is cut off is lost; what is added reads as zero. Called by
/// export_set::resize and async_resize, and for a client's RESIZE where the export allows it; one at a
/// time for each export. An asynchronous backend may await it. With `serialize_all` no other call runs
/// meanwhile. With `parallel`, calls that were admitted before may still run past the new end, and
/// lent memory is still read.
template <class B>
concept has_resize = requires(B& b, std::uint64_t size) {
    { b.resize(size) } -> outcome;
};
template <class B>
concept awaits_resize = requires(B& b, std::uint64_t size) {
    { b.resize(size) } -> awaited_outcome;
};
/// Told, by a backend that has lend_for_write and wants to know, that what was lent has been written.
template <class B>
concept has_lent_written = requires(B& b, std::uint64_t offset, std::size_t length) {
    { b.lent_written(offset, length) } noexcept;
};
/// May be asked beside any other call.
template <class B>
concept has_block_sizes = requires(const B& b) {
    { b.block_sizes() } -> std::convertible_to<nbd::block_sizes>;
};
/// Makes the backend of one client: returns, by value, an object that serves that client alone. Its
/// members and promises count; the outer type needs no others. Called by the first option of a
/// handshake that needs the export (INFO, GO, EXPORT_NAME, LIST_META_CONTEXT, SET_META_CONTEXT), never
/// earlier. The object serves the options that follow and the transmission phase. It is destroyed when
/// the client asks for another export, when the export is removed before GO, or when the client leaves.
/// A client can cause settings.options_per_handshake calls, and one more for each export that LIST
/// named. With `serialize_all`, the default, calls of all clients and `open` run one at a time;
/// `serialize_client` is usual for such an object. Calls of asynchronous members may run beside an
/// `open` that is not awaited. An exception refuses the client.
///
/// `open` may return boost::asio::awaitable<state, Executor>, with a state whose members are
/// asynchronous or with a policy whose clients do not block (strand_pool, on_executor). It is awaited
/// to its end, also where the client has gone: it must come to an end by itself.
template <class B>
concept has_open = requires(B& b, const client& c) {
    { b.open(c) } -> std::move_constructible;
    requires !std::is_reference_v<decltype(b.open(c))>;
};

/// A value that comes later: boost::asio::awaitable of anything but void.
template <class T>
concept awaited_state = requires {
    typename T::value_type;
    typename T::executor_type;
} && std::move_constructible<typename T::value_type> && !has_read<T> && !has_handle<T>;

template <class B>
concept awaits_open = has_open<B> && requires(B& b, const client& c) {
    { b.open(c) } -> awaited_state;
};

template <class B>
struct served {
    using type = B;
};
template <has_open B>
struct served<B> {
    using type =
        std::remove_cvref_t<decltype(std::declval<B&>().open(std::declval<const client&>()))>;
};
template <awaits_open B>
struct served<B> {
    using type =
        typename decltype(std::declval<B&>().open(std::declval<const client&>()))::value_type;
};
/// What answers a client's requests: the backend itself, or what its `open` returned.
template <class B>
using served_t = typename served<B>::type;

/// A backend whose members are awaited.
template <class B>
concept asynchronous = requires(B& b, std::uint64_t offset, std::span<std::byte> to) {
    { b.read(offset, to) } -> awaited_outcome;
} || requires(B& b, call& c) {
    { b.handle(c) } -> awaited_outcome;
};

/// What a server accepts at least.
template <class B>
concept readable_backend = has_size<B> && (has_read<B> || has_handle<B>);

/// The quartet: a disk that can be written, made durable and trimmed.
template <class B>
concept backend = readable_backend<B> && has_write<B> && has_flush<B> && has_trim<B>;

// --- Promises -------------------------------------------------------------------------------------

template <class B>
[[nodiscard]] consteval nbd::concurrency concurrency_of() noexcept
{
    if constexpr (requires { B::concurrency; })
        return B::concurrency;
    else
        return nbd::concurrency::serialize_all;
}
template <class B>
concept promises_blocks = requires { requires B::blocks; };
template <class B>
concept promises_multi_conn = requires { requires B::multi_conn; };
template <class B>
concept promises_rotational = requires { requires B::rotational; };
template <class B>
concept promises_fast_zero = requires { requires B::fast_zero; };
template <class B>
concept promises_fills_reads = requires { requires B::fills_reads; };

}  // namespace nbd
