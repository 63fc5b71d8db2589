// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/names_member.hpp>

/// For each member and each promise of a backend: whether a class has one of that name, or one of a
/// similar name, which is probably misspelled.
namespace nbd::diagnosis {

struct every_member {
    int size, read, handle, write, flush, trim, write_zeroes, cache, lend, lend_file, read_now,
        lend_for_write, lent_written, extents, meta_contexts, context_extents, resize, refresh_size,
        block_sizes, abilities, drain, open, concurrency, blocks, cancellable, multi_conn,
        rotational, fast_zero, fills_reads, async_read, async_write, async_flush, async_trim,
        async_write_zeroes, async_cache, async_extents, async_context_extents, async_resize,
        async_drain, async_open;
};
NBD_NAMES_MEMBER(every_member, size)
NBD_NAMES_MEMBER(every_member, read)
NBD_NAMES_MEMBER(every_member, handle)
NBD_NAMES_MEMBER(every_member, write)
NBD_NAMES_MEMBER(every_member, flush)
NBD_NAMES_MEMBER(every_member, trim)
NBD_NAMES_MEMBER(every_member, write_zeroes)
NBD_NAMES_MEMBER(every_member, cache)
NBD_NAMES_MEMBER(every_member, lend)
NBD_NAMES_MEMBER(every_member, lend_file)
NBD_NAMES_MEMBER(every_member, read_now)
NBD_NAMES_MEMBER(every_member, lend_for_write)
NBD_NAMES_MEMBER(every_member, lent_written)
NBD_NAMES_MEMBER(every_member, extents)
NBD_NAMES_MEMBER(every_member, meta_contexts)
NBD_NAMES_MEMBER(every_member, context_extents)
NBD_NAMES_MEMBER(every_member, resize)
NBD_NAMES_MEMBER(every_member, refresh_size)
NBD_NAMES_MEMBER(every_member, block_sizes)
NBD_NAMES_MEMBER(every_member, abilities)
NBD_NAMES_MEMBER(every_member, drain)
NBD_NAMES_MEMBER(every_member, open)
NBD_NAMES_MEMBER(every_member, concurrency)
NBD_NAMES_MEMBER(every_member, blocks)
NBD_NAMES_MEMBER(every_member, cancellable)
NBD_NAMES_MEMBER(every_member, multi_conn)
NBD_NAMES_MEMBER(every_member, rotational)
NBD_NAMES_MEMBER(every_member, fast_zero)
NBD_NAMES_MEMBER(every_member, fills_reads)
NBD_NAMES_MEMBER(every_member, async_read)
NBD_NAMES_MEMBER(every_member, async_write)
NBD_NAMES_MEMBER(every_member, async_flush)
NBD_NAMES_MEMBER(every_member, async_trim)
NBD_NAMES_MEMBER(every_member, async_write_zeroes)
NBD_NAMES_MEMBER(every_member, async_cache)
NBD_NAMES_MEMBER(every_member, async_extents)
NBD_NAMES_MEMBER(every_member, async_context_extents)
NBD_NAMES_MEMBER(every_member, async_resize)
NBD_NAMES_MEMBER(every_member, async_drain)
NBD_NAMES_MEMBER(every_member, async_open)

}  // namespace nbd::diagnosis
