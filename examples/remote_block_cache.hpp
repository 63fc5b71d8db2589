// SPDX-License-Identifier: MIT
// The cache of remote_cache.cpp.
#pragma once

#include "remote_connections.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <span>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

namespace remote {

/// Blocks of the disk in memory. All members run on the store's executor.
class block_cache {
public:
    static constexpr std::size_t block_size = 64 << 10;
    static constexpr std::size_t connections = 4;

    block_cache(executor store, store_options options, std::size_t max_blocks)
        : executor_{store}, pool_{store, std::move(options), connections}, changed_{store},
          max_blocks_{std::max<std::size_t>(max_blocks, 1)}
    {
    }

    [[nodiscard]] const executor& get_executor() const { return executor_; }
    /// The size of the disk, after connect().
    [[nodiscard]] std::uint64_t size() const { return pool_.size(); }

    /// Bytes that are written to and that the store has not confirmed.
    [[nodiscard]] std::size_t dirty_bytes() const
    {
        std::size_t sum = 0;
        for (const auto& b : blocks_)
            sum += b.is_dirty() ? b.data.size() : 0;
        return sum;
    }

    task<std::error_code> connect()
    {
        return pool_.use([](connection& c) { return c.sync(); });
    }

    task<std::error_code> read(std::uint64_t offset, std::span<std::byte> to)
    {
        while (!to.empty()) {
            const auto [number, at, length] = part(offset, to.size());
            const auto found = co_await find(number, false);
            if (found.error)
                co_return found.error;
            std::ranges::copy(std::span{found.at->data}.subspan(at, length), to.begin());
            offset += length;
            to = to.subspan(length);
        }
        co_return std::error_code{};
    }

    task<std::error_code> write(std::uint64_t offset, std::span<const std::byte> from)
    {
        while (!from.empty()) {
            const auto [number, at, length] = part(offset, from.size());
            const auto found = co_await find(number, length == length_of(number));
            if (found.error)
                co_return found.error;
            std::ranges::copy(from.first(length), found.at->data.begin() + std::ptrdiff_t(at));
            ++found.at->version;
            offset += length;
            from = from.subspan(length);
        }
        co_return std::error_code{};
    }

    /// Stores what was written before the call. Calls that arrive during a round share the next.
    task<std::error_code> write_back()
    {
        const auto needed = rounds_begun_ + 1;
        while (rounds_ended_ < needed) {
            if (rounds_begun_ != rounds_ended_) {
                co_await changed_.wait();
                continue;
            }
            ++rounds_begun_;
            auto result = std::make_error_code(std::errc::not_enough_memory);  // if this throws
            const at_exit end{[&] {
                ++rounds_ended_;
                result_ = result;
                changed_.notify_all();
            }};
            result = std::ranges::any_of(blocks_, &block::is_dirty)
                ? co_await pool_.use([this](connection& c) { return store_dirty(c); })
                : std::error_code{};
        }
        co_return result_;
    }

private:
    struct block {
        std::uint64_t number;
        std::vector<std::byte> data;
        std::uint64_t version = 0;  ///< counts the writes
        std::uint64_t stored = 0;   ///< the version that is safe in the store
        bool loading = false;       ///< its data are not valid yet

        [[nodiscard]] bool is_dirty() const { return version != stored; }
        [[nodiscard]] bool is_evictable() const { return !loading && !is_dirty(); }
    };
    using block_list = std::list<block>;
    struct block_part {
        std::uint64_t number;
        std::size_t at, length;
    };
    struct find_result {
        block* at = nullptr;
        std::error_code error{};
    };

    /// The part of a range in its first block.
    static block_part part(std::uint64_t offset, std::size_t length)
    {
        const auto at = static_cast<std::size_t>(offset % block_size);
        return {offset / block_size, at, std::min(length, block_size - at)};
    }
    /// The last block may be short.
    [[nodiscard]] std::size_t length_of(std::uint64_t number) const
    {
        return static_cast<std::size_t>(
            std::min<std::uint64_t>(block_size, size() - number * block_size));
    }

    /// Finds a block, or loads it. `overwrites`: the caller replaces all its data, so it is not
    /// loaded. The result is valid until the caller waits again: the caller is resumed at once,
    /// before other handlers run.
    task<find_result> find(std::uint64_t number, bool overwrites)
    {
        for (;;) {
            if (const auto known = index_.find(number); known != index_.end()) {
                if (!known->second->loading) {
                    blocks_.splice(blocks_.begin(), blocks_, known->second);  // the latest used
                    co_return find_result{.at = &*known->second};
                }
                co_await changed_.wait();
            } else if (blocks_.size() < max_blocks_) {
                blocks_.push_front({number, std::vector<std::byte>(length_of(number))});
                index_[number] = blocks_.begin();
                if (overwrites)
                    co_return find_result{.at = &blocks_.front()};
                if (const auto error = co_await load(blocks_.begin()))
                    co_return find_result{.error = error};
            } else if (const auto error = co_await make_room()) {
                co_return find_result{.error = error};
            }
        }
    }

    task<std::error_code> load(block_list::iterator b)
    {
        b->loading = true;
        auto error = std::make_error_code(std::errc::not_enough_memory);  // if this throws
        const at_exit end{[&] {
            b->loading = false;
            if (error)
                erase(b);
            changed_.notify_all();
        }};
        error = co_await pool_.use(
            [b](connection& c) { return c.get(b->number * block_size, b->data); });
        co_return error;
    }

    /// Evicts the block that was not used for the longest time. If all are dirty, stores them
    /// first: without it, the only copy would be lost. The caller then looks again.
    task<std::error_code> make_room()
    {
        const auto oldest = std::find_if(blocks_.rbegin(), blocks_.rend(),
                                         [](const block& b) { return b.is_evictable(); });
        if (oldest != blocks_.rend())
            erase(std::prev(oldest.base()));
        else if (std::ranges::any_of(blocks_, &block::is_dirty))
            co_return co_await write_back();
        else
            co_await changed_.wait();  // all are being loaded
        co_return std::error_code{};
    }
    void erase(block_list::iterator b)
    {
        index_.erase(b->number);
        blocks_.erase(b);
    }

    /// Puts all dirty blocks and makes them durable. All on one connection: a store that is
    /// restarted between a put and the sync may have lost the put, and closes the connection. The
    /// blocks are clean only after the sync; one that was written to in the meantime stays dirty.
    task<std::error_code> store_dirty(connection& c)
    {
        std::vector<std::pair<block*, std::uint64_t>> put;
        for (auto& b : blocks_) {
            if (b.is_dirty())
                put.emplace_back(&b, 0);  // stays where it is: dirty blocks are not evicted
        }
        for (auto& [b, version] : put) {
            version = b->version;
            if (const auto error = co_await c.put(b->number * block_size, b->data))
                co_return error;
        }
        if (const auto error = co_await c.sync())
            co_return error;
        for (const auto& [b, version] : put)
            b->stored = version;
        co_return std::error_code{};
    }

    executor executor_;
    connection_pool pool_;
    event changed_;  ///< a load or a round has ended
    std::size_t max_blocks_;
    block_list blocks_;  ///< the latest used first
    std::unordered_map<std::uint64_t, block_list::iterator> index_;
    std::uint64_t rounds_begun_ = 0;
    std::uint64_t rounds_ended_ = 0;
    std::error_code result_{};  ///< of the last round
};

}  // namespace remote
