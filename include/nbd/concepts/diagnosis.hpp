// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/inheritance.hpp>
#include <nbd/concepts/kinds.hpp>
#include <nbd/concepts/member_names.hpp>
#include <nbd/concepts/misspelled.hpp>
#include <nbd/concepts/shapes.hpp>

/// Compile errors of one sentence for a backend that lacks a required member, has a member of the
/// wrong shape or name, mixes kinds, inherits a member that goes round its own, or makes a promise
/// that does not hold.
namespace nbd::diagnosis {

/// What the type itself must be, and the shapes of `open` and `drain`.
template <class B, bool Explain = false>
consteval bool class_is_sound()
{
    using plain = std::remove_cvref_t<B>;
    if constexpr (!has_size<plain> && requires { &plain::operator(); }) {
        static_assert(!Explain,
                      "nbd: a function is not a backend; use `nbd::callback_backend<F>` of "
                      "nbd/backend/callback_backend.hpp");
        return false;
    } else if constexpr (!std::is_class_v<B> || !std::same_as<B, plain>) {
        static_assert(!Explain,
                      "nbd: a backend is a class that is not const; the server stores it by value, "
                      "so a reference or a pointer is not a backend: use a class that holds one");
        return false;
    } else if constexpr (!requires { sizeof(B); }) {
        static_assert(!Explain,
                      "nbd: this backend is declared and not defined; its definition must come "
                      "before the server");
        return false;
    } else if constexpr (!std::is_final_v<B> && !inheritable<B>) {
        return false;
    } else if constexpr (!has_open<B> && names_open<B>) {
        static_assert(!Explain,
                      "nbd: this backend's open has the wrong shape; expected `state open(const "
                      "nbd::client&)`, with or without a second parameter nbd::open_purpose, where "
                      "state is a backend that is returned by value, or "
                      "boost::asio::awaitable of one");
        return false;
    } else if constexpr (!has_drain<B> && names_drain<B>) {
        static_assert(!Explain,
                      "nbd: this backend's drain has the wrong shape; expected `std::error_code "
                      "drain(nbd::drain_reason why)`, or the same returning void, nbd::failure or "
                      "boost::asio::awaitable");
        return false;
    } else {
        return true;
    }
}

/// Whether the promises are static constants of the right types.
template <class B>
concept promises_parallel_alone =
    !names_concurrency<B> && requires { requires std::same_as<decltype(B::parallel), const bool>; };
template <class B>
concept promises_concurrency =
    !promises_parallel_alone<B> && (!names_concurrency<B> || has_constant_concurrency<B>);
template <class B>
concept promises_bools = (!names_blocks<B>
                          || (
                              requires { requires is_static<decltype(&B::blocks)>; }
                              && requires { typename static_constant<bool, B::blocks>; }))
    && (!names_cancellable<B>
        || (
            requires { requires is_static<decltype(&B::cancellable)>; }
            && requires { typename static_constant<bool, B::cancellable>; }))
    && (!names_multi_conn<B>
        || (
            requires { requires is_static<decltype(&B::multi_conn)>; }
            && requires { typename static_constant<bool, B::multi_conn>; }))
    && (!names_rotational<B>
        || (
            requires { requires is_static<decltype(&B::rotational)>; }
            && requires { typename static_constant<bool, B::rotational>; }))
    && (!names_fast_zero<B>
        || (
            requires { requires is_static<decltype(&B::fast_zero)>; }
            && requires { typename static_constant<bool, B::fast_zero>; }))
    && (!names_fills_reads<B>
        || (
            requires { requires is_static<decltype(&B::fills_reads)>; }
            && requires { typename static_constant<bool, B::fills_reads>; }));

template <class B, bool Explain = false>
consteval bool promises_are_sound()
{
    if constexpr (!promises_concurrency<B>) {
        static_assert(
            !Explain,
            "nbd: a backend promises `static constexpr nbd::concurrency concurrency = ...`");
        return false;
    } else if constexpr (!promises_bools<B>) {
        static_assert(!Explain,
                      "nbd: blocks, cancellable, multi_conn, rotational, fast_zero and fills_reads "
                      "are promised as `static constexpr bool`");
        return false;
    } else if constexpr (concurrency_of<B>() != concurrency::parallel
                         && (has_lend<B> || has_lend_file<B> || has_lend_for_write<B>)) {
        static_assert(
            !Explain,
            "nbd: lent memory is used outside any lock, so a backend that lends must promise "
            "`static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel`");
        return false;
    } else if constexpr (has_resize<B> && concurrency_of<B>() == concurrency::serialize_client) {
        static_assert(
            !Explain,
            "nbd: a backend can be resized by one client while another is served, so one with "
            "resize must promise `concurrency::parallel` or `concurrency::serialize_all`");
        return false;
    } else if constexpr (asynchronous<B> && has_resize<B>
                         && concurrency_of<B>() != concurrency::parallel) {
        static_assert(!Explain,
                      "nbd: a backend whose members are awaited can be resized at any time, so it "
                      "must promise `static constexpr nbd::concurrency concurrency = "
                      "nbd::concurrency::parallel`; the same holds for a backend with callbacks");
        return false;
    } else {
        return true;
    }
}

template <class B, bool Explain = false>
consteval bool spelling_is_sound()
{
    if constexpr (misspells_write<B> && !names_write<B>) {
        static_assert(
            !Explain,
            "nbd: this backend has a member with a name similar to `write`; correct or change it");
        return false;
    } else if constexpr (misspells_flush<B> && !names_flush<B>) {
        static_assert(
            !Explain,
            "nbd: this backend has a member with a name similar to `flush`; correct or change it");
        return false;
    } else if constexpr (misspells_trim<B> && !names_trim<B>) {
        static_assert(
            !Explain,
            "nbd: this backend has a member with a name similar to `trim`; correct or change it");
        return false;
    } else if constexpr (misspells_write_zeroes<B> && !names_write_zeroes<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `write_zeroes`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_cache<B> && !names_cache<B>) {
        static_assert(
            !Explain,
            "nbd: this backend has a member with a name similar to `cache`; correct or change it");
        return false;
    } else if constexpr (misspells_extents<B> && !names_extents<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `extents`; correct or "
                      "change it");
        return false;
    } else if constexpr (misspells_resize<B> && !names_resize<B>) {
        static_assert(
            !Explain,
            "nbd: this backend has a member with a name similar to `resize`; correct or change it");
        return false;
    } else if constexpr (misspells_block_sizes<B> && !names_block_sizes<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `block_sizes`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_abilities<B> && !names_abilities<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `abilities`; correct "
                      "or change it");
        return false;
    } else if constexpr (misspells_drain<B> && !names_drain<B>) {
        static_assert(
            !Explain,
            "nbd: this backend has a member with a name similar to `drain`; correct or change it");
        return false;
    } else if constexpr (misspells_lend<B> && !names_lend<B>) {
        static_assert(
            !Explain,
            "nbd: this backend has a member with a name similar to `lend`; correct or change it");
        return false;
    } else if constexpr (misspells_lend_file<B> && !names_lend_file<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `lend_file`; correct "
                      "or change it");
        return false;
    } else if constexpr (misspells_lend_for_write<B> && !names_lend_for_write<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `lend_for_write`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_meta_contexts<B> && !names_meta_contexts<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `meta_contexts`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_concurrency<B> && !names_concurrency<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `concurrency`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_multi_conn<B> && !names_multi_conn<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `multi_conn`; correct "
                      "or change it");
        return false;
    } else if constexpr (misspells_rotational<B> && !names_rotational<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `rotational`; correct "
                      "or change it");
        return false;
    } else if constexpr (misspells_fast_zero<B> && !names_fast_zero<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `fast_zero`; correct "
                      "or change it");
        return false;
    } else if constexpr (misspells_fills_reads<B> && !names_fills_reads<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `fills_reads`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_blocks<B> && !names_blocks<B>) {
        static_assert(
            !Explain,
            "nbd: this backend has a member with a name similar to `blocks`; correct or change it");
        return false;
    } else if constexpr (misspells_cancellable<B> && !names_cancellable<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `cancellable`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_async<B>) {
        static_assert(!Explain,
                      "nbd: this backend has a member with a name similar to `async_write`, "
                      "`async_flush` and so on; correct or change it");
        return false;
    } else {
        return true;
    }
}

template <class B, bool Explain = false>
consteval bool open_is_sound()
{
    using state = served_t<B>;
    if constexpr (has_open<B> && names_drain<state>) {
        static_assert(!Explain,
                      "nbd: `drain` is a member of the backend that has `open`, not of the object "
                      "that `open` returns, which is destroyed when its client leaves");
        return false;
    } else if constexpr (awaits_open<B> && !asynchronous<state>
                         && concurrency_of<state>() == concurrency::serialize_all) {
        static_assert(
            !Explain,
            "nbd: an `open` that is awaited cannot hold the lock that serializes calls which are "
            "not awaited, so what it returns must promise `static constexpr nbd::concurrency "
            "concurrency = nbd::concurrency::serialize_client` or `parallel`");
        return false;
    } else if constexpr (promises_cancellable<state> && !asynchronous<state> && !awaits_open<B>
                         && !awaits_drain<B>) {
        static_assert(!Explain,
                      "nbd: this backend promises `cancellable`, which is for calls that are "
                      "awaited; a synchronous call cannot be cancelled");
        return false;
    } else {
        return true;
    }
}

// --- The whole -----------------------------------------------------------------------------------

/// The groups of rules, in the order in which they are checked.
enum class rules {
    of_class,
    of_shapes,
    of_callback_shapes,
    of_promises,
    of_kinds,
    of_bases,
    of_open,
    of_spelling,
    none
};

/// *Returns* the first group that a backend breaks.
template <class B>
consteval rules first_broken()
{
    using S = served_t<B>;
    if constexpr (!class_is_sound<B>())
        return rules::of_class;
    else if constexpr (!shapes_are_sound<S>())
        return rules::of_shapes;
    else if constexpr (!callback_shapes_are_sound<S>())
        return rules::of_callback_shapes;
    else if constexpr (!promises_are_sound<S>())
        return rules::of_promises;
    else if constexpr (!kinds_are_sound<S>())
        return rules::of_kinds;
    else if constexpr (!bases_are_sound<S>())
        return rules::of_bases;
    else if constexpr (!open_is_sound<B>())
        return rules::of_open;
    else if constexpr (!spelling_is_sound<S>())
        return rules::of_spelling;
    else
        return rules::none;
}

template <class B>
consteval bool backend_is_sound()
{
    return first_broken<B>() == rules::none;
}

/// Can be named after a compile error that says what is wrong, if `Broken` is not none.
template <class B, rules Broken>
using explained_backend = std::integer_sequence<
    bool, class_is_sound<B, Broken == rules::of_class>(),
    shapes_are_sound<served_t<B>, Broken == rules::of_shapes>(),
    callback_shapes_are_sound<served_t<B>, Broken == rules::of_callback_shapes>(),
    promises_are_sound<served_t<B>, Broken == rules::of_promises>(),
    kinds_are_sound<served_t<B>, Broken == rules::of_kinds>(),
    bases_are_sound<served_t<B>, Broken == rules::of_bases>(),
    open_is_sound<B, Broken == rules::of_open>(),
    spelling_is_sound<served_t<B>, Broken == rules::of_spelling>()>;

}  // namespace nbd::diagnosis
