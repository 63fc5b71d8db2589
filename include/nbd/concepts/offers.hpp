// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/concepts/promises.hpp>

#include <cstddef>
#include <optional>

namespace nbd {

/// The abilities and the promises of a backend, for nbd::offers. Each has the name of the member or
/// the promise that gives it; `fua` is a write with nbd::write_flags.
enum class can {
    write,
    fua,
    flush,
    trim,
    write_zeroes,
    cache,
    extents,
    meta_contexts,
    lend,
    lend_file,
    lend_for_write,
    block_sizes,
    abilities,
    drain,
    resize,
    refresh_size,
    open,
    handle,
    serialize_client,
    parallel,
    blocks,
    cancellable,
    multi_conn,
    rotational,
    fast_zero,
    fills_reads,
};

/// Whether a backend has an ability, or makes a promise.
template <class Backend, can Ability>
[[nodiscard]] consteval bool has_ability()
{
    using B = served_t<Backend>;
    using enum can;
    switch (Ability) {
    case write:
        return has_write<B>;
    case fua:
        return has_fua_write<B>;
    case flush:
        return has_flush<B>;
    case trim:
        return has_trim<B>;
    case write_zeroes:
        return has_write_zeroes<B>;
    case cache:
        return has_cache<B>;
    case extents:
        return has_extents<B>;
    case meta_contexts:
        return has_meta_contexts<B>;
    case lend:
        return has_lend<B>;
    case lend_file:
        return has_lend_file<B>;
    case lend_for_write:
        return has_lend_for_write<B>;
    case block_sizes:
        return has_block_sizes<B>;
    case abilities:
        return has_abilities<B>;
    case drain:
        return has_drain<Backend>;
    case resize:
        return has_resize<B>;
    case refresh_size:
        return has_refresh_size<B>;
    case open:
        return has_open<Backend>;
    case handle:
        return has_handle<B>;
    case serialize_client:
        return concurrency_of<B>() == concurrency::serialize_client;
    case parallel:
        return concurrency_of<B>() == concurrency::parallel;
    case blocks:
        return promises_blocks<B>;
    case cancellable:
        return promises_cancellable<B>;
    case multi_conn:
        return promises_multi_conn<B>;
    case rotational:
        return promises_rotational<B>;
    case fast_zero:
        return promises_fast_zero<B>;
    case fills_reads:
        return promises_fills_reads<B>;
    }
    return false;
}

namespace diagnosis {

/// *Returns* the first ability that is listed and absent, or present and not listed.
template <class Backend, can... Listed>
consteval std::optional<can> first_difference()
{
    std::optional<can> found;
    const auto differs = [&found](can ability, bool present) {
        if (!found && present != ((ability == Listed) || ...))
            found = ability;
    };
    [&]<std::size_t... I>(std::index_sequence<I...>) {
        (differs(can{I}, has_ability<Backend, can{I}>()), ...);
    }(std::make_index_sequence<std::size_t(can::fills_reads) + 1>{});
    return found;
}

/// A compile error about an ability.
template <class Backend, can Ability>
consteval bool explain_difference()
{
    constexpr bool present = has_ability<Backend, Ability>();
    static_assert(present,
                  "nbd: nbd::offers lists an ability that this backend does not have: see "
                  "`Ability` in this message");
    static_assert(!present,
                  "nbd: this backend has an ability that nbd::offers does not list: see `Ability` "
                  "in this message");
    return present;
}

template <class Backend, can... Listed>
consteval bool explain_offer()
{
    constexpr auto broken = first_broken<Backend>();
    if constexpr (broken != rules::none) {
        using reasons [[maybe_unused]] = explained_backend<Backend, broken>;
    } else if constexpr (constexpr auto difference = first_difference<Backend, Listed...>()) {
        explain_difference<Backend, *difference>();
    }
    return true;
}

}  // namespace diagnosis

/// Checks that a backend has all abilities that are listed, and no others: so a misspelled member,
/// a forgotten promise, or a member that a base class adds is a compile error. Write it once after
/// the class:
///
///     static_assert(nbd::offers<my_disk, nbd::can::write, nbd::can::flush, nbd::can::parallel>);
///
/// For a backend that can only be read, and promises nothing: `nbd::offers<my_disk>`. With `open`,
/// the list is about the object that it returns. It is always true: a backend that is not as listed
/// is a compile error with a sentence of its own.
template <class Backend, can... Listed>
inline constexpr bool offers = diagnosis::explain_offer<Backend, Listed...>();

}  // namespace nbd
