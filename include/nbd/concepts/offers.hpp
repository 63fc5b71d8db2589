// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/concepts/promises.hpp>

#include <cstddef>
#include <utility>

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
    read_now,
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
    case read_now:
        return has_read_now<B>;
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

/// The abilities that are listed and absent, or present and not listed.
struct differences {
    can abilities[std::size_t(can::fills_reads) + 1]{};
    std::size_t count = 0;
};
template <class Backend, can... Listed>
consteval differences find_differences()
{
    differences found;
    const auto compare = [&found](can ability, bool present) {
        if (present != ((ability == Listed) || ...))
            found.abilities[found.count++] = ability;
    };
    [&]<std::size_t... I>(std::index_sequence<I...>) {
        (compare(can{I}, has_ability<Backend, can{I}>()), ...);
    }(std::make_index_sequence<std::size_t(can::fills_reads) + 1>{});
    return found;
}

/// A compile error about an ability that is listed and absent, or present and not listed.
template <can Ability, bool Present>
consteval void explain_difference()
{
    using enum can;
    constexpr auto absent = Present ? can{99} : Ability;
    constexpr auto unlisted = Present ? Ability : can{99};
    static_assert(absent != write,
                  "nbd: nbd::offers lists `write`, and this backend does not have it");
    static_assert(unlisted != write,
                  "nbd: this backend has `write`, and nbd::offers does not list it");
    static_assert(absent != fua, "nbd: nbd::offers lists `fua`, and this backend does not have it");
    static_assert(unlisted != fua, "nbd: this backend has `fua`, and nbd::offers does not list it");
    static_assert(absent != flush,
                  "nbd: nbd::offers lists `flush`, and this backend does not have it");
    static_assert(unlisted != flush,
                  "nbd: this backend has `flush`, and nbd::offers does not list it");
    static_assert(absent != trim,
                  "nbd: nbd::offers lists `trim`, and this backend does not have it");
    static_assert(unlisted != trim,
                  "nbd: this backend has `trim`, and nbd::offers does not list it");
    static_assert(absent != write_zeroes,
                  "nbd: nbd::offers lists `write_zeroes`, and this backend does not have it");
    static_assert(unlisted != write_zeroes,
                  "nbd: this backend has `write_zeroes`, and nbd::offers does not list it");
    static_assert(absent != cache,
                  "nbd: nbd::offers lists `cache`, and this backend does not have it");
    static_assert(unlisted != cache,
                  "nbd: this backend has `cache`, and nbd::offers does not list it");
    static_assert(absent != extents,
                  "nbd: nbd::offers lists `extents`, and this backend does not have it");
    static_assert(unlisted != extents,
                  "nbd: this backend has `extents`, and nbd::offers does not list it");
    static_assert(absent != meta_contexts,
                  "nbd: nbd::offers lists `meta_contexts`, and this backend does not have it");
    static_assert(unlisted != meta_contexts,
                  "nbd: this backend has `meta_contexts`, and nbd::offers does not list it");
    static_assert(absent != lend,
                  "nbd: nbd::offers lists `lend`, and this backend does not have it");
    static_assert(unlisted != lend,
                  "nbd: this backend has `lend`, and nbd::offers does not list it");
    static_assert(absent != lend_file,
                  "nbd: nbd::offers lists `lend_file`, and this backend does not have it");
    static_assert(unlisted != lend_file,
                  "nbd: this backend has `lend_file`, and nbd::offers does not list it");
    static_assert(absent != read_now,
                  "nbd: nbd::offers lists `read_now`, and this backend does not have it");
    static_assert(unlisted != read_now,
                  "nbd: this backend has `read_now`, and nbd::offers does not list it");
    static_assert(absent != lend_for_write,
                  "nbd: nbd::offers lists `lend_for_write`, and this backend does not have it");
    static_assert(unlisted != lend_for_write,
                  "nbd: this backend has `lend_for_write`, and nbd::offers does not list it");
    static_assert(absent != block_sizes,
                  "nbd: nbd::offers lists `block_sizes`, and this backend does not have it");
    static_assert(unlisted != block_sizes,
                  "nbd: this backend has `block_sizes`, and nbd::offers does not list it");
    static_assert(absent != abilities,
                  "nbd: nbd::offers lists `abilities`, and this backend does not have it");
    static_assert(unlisted != abilities,
                  "nbd: this backend has `abilities`, and nbd::offers does not list it");
    static_assert(absent != drain,
                  "nbd: nbd::offers lists `drain`, and this backend does not have it");
    static_assert(unlisted != drain,
                  "nbd: this backend has `drain`, and nbd::offers does not list it");
    static_assert(absent != resize,
                  "nbd: nbd::offers lists `resize`, and this backend does not have it");
    static_assert(unlisted != resize,
                  "nbd: this backend has `resize`, and nbd::offers does not list it");
    static_assert(absent != refresh_size,
                  "nbd: nbd::offers lists `refresh_size`, and this backend does not have it");
    static_assert(unlisted != refresh_size,
                  "nbd: this backend has `refresh_size`, and nbd::offers does not list it");
    static_assert(absent != open,
                  "nbd: nbd::offers lists `open`, and this backend does not have it");
    static_assert(unlisted != open,
                  "nbd: this backend has `open`, and nbd::offers does not list it");
    static_assert(absent != handle,
                  "nbd: nbd::offers lists `handle`, and this backend does not have it");
    static_assert(unlisted != handle,
                  "nbd: this backend has `handle`, and nbd::offers does not list it");
    static_assert(absent != serialize_client,
                  "nbd: nbd::offers lists `serialize_client`, and this backend does not have it");
    static_assert(unlisted != serialize_client,
                  "nbd: this backend has `serialize_client`, and nbd::offers does not list it");
    static_assert(absent != parallel,
                  "nbd: nbd::offers lists `parallel`, and this backend does not have it");
    static_assert(unlisted != parallel,
                  "nbd: this backend has `parallel`, and nbd::offers does not list it");
    static_assert(absent != blocks,
                  "nbd: nbd::offers lists `blocks`, and this backend does not have it");
    static_assert(unlisted != blocks,
                  "nbd: this backend has `blocks`, and nbd::offers does not list it");
    static_assert(absent != cancellable,
                  "nbd: nbd::offers lists `cancellable`, and this backend does not have it");
    static_assert(unlisted != cancellable,
                  "nbd: this backend has `cancellable`, and nbd::offers does not list it");
    static_assert(absent != multi_conn,
                  "nbd: nbd::offers lists `multi_conn`, and this backend does not have it");
    static_assert(unlisted != multi_conn,
                  "nbd: this backend has `multi_conn`, and nbd::offers does not list it");
    static_assert(absent != rotational,
                  "nbd: nbd::offers lists `rotational`, and this backend does not have it");
    static_assert(unlisted != rotational,
                  "nbd: this backend has `rotational`, and nbd::offers does not list it");
    static_assert(absent != fast_zero,
                  "nbd: nbd::offers lists `fast_zero`, and this backend does not have it");
    static_assert(unlisted != fast_zero,
                  "nbd: this backend has `fast_zero`, and nbd::offers does not list it");
    static_assert(absent != fills_reads,
                  "nbd: nbd::offers lists `fills_reads`, and this backend does not have it");
    static_assert(unlisted != fills_reads,
                  "nbd: this backend has `fills_reads`, and nbd::offers does not list it");
}

template <class Backend, can... Listed>
inline constexpr differences differing = find_differences<Backend, Listed...>();

template <class Backend, can... Listed, std::size_t... I>
consteval bool explain_offer(std::index_sequence<I...>)
{
    constexpr auto broken = first_broken<Backend>();
    if constexpr (broken != rules::none) {
        using reasons [[maybe_unused]] = explained_backend<Backend, broken>;
    } else {
        constexpr auto found = differing<Backend, Listed...>;
        (explain_difference<found.abilities[I], has_ability<Backend, found.abilities[I]>()>(), ...);
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
/// list `open`, the `drain` beside it, and what the object has that `open` returns. It is always
/// true: for each difference there is a compile error with a sentence of its own.
template <class Backend, can... Listed>
inline constexpr bool offers = diagnosis::explain_offer<Backend, Listed...>(
    std::make_index_sequence<diagnosis::differing<Backend, Listed...>.count>{});

}  // namespace nbd
