// SPDX-License-Identifier: MIT
#pragma once

#include "load_plan.hpp"
#include "raw_socket.hpp"
#include "request_queue.hpp"
#include "stamps.hpp"
#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/chunk.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/protocol/request.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bench {

/// One connection that keeps a fixed number of requests in flight, with few system calls, no copy
/// of payload and no allocation for a request. The caller waits for the socket, passes the time,
/// and calls in order: refill, send_queued, receive, take_replies. Errors, of all members: those of
/// the socket, and std::runtime_error for an invalid or wrong reply.
class load_client {
public:
    enum class task {
        load,       ///< as planned
        fill,       ///< WRITE each block once
        read_back,  ///< READ each block once
    };
    static constexpr auto unlimited = std::numeric_limits<std::uint64_t>::max();

    load_client(raw_socket socket, const load_plan& plan)
        : socket_{std::move(socket)}, plan_{plan}, next_{plan.start},
          random_{plan.first + plan.start + 1}, slots_(plan.depth), queued_{plan.depth},
          received_(
              std::clamp(plan.depth * (plan.block + header_room), least_received, most_received))
    {
        for (std::size_t i = plan.depth; i-- > 0;)
            free_.push_back(i);
        if (plan.verify) {
            disk_.resize(static_cast<std::size_t>(plan.blocks));
            payload_.resize(plan.depth * plan.block);
        } else if (plan.read_percent != 100) {
            // The data of every WRITE; not zero, because servers may treat zeroes specially.
            payload_.resize(plan.block);
            put_stamps(payload_, 0, 1);
        }
    }

    [[nodiscard]] int native_handle() const noexcept { return socket_.native_handle(); }
    [[nodiscard]] std::uint64_t blocks() const noexcept { return plan_.blocks; }
    [[nodiscard]] std::size_t in_flight() const noexcept { return slots_.size() - free_.size(); }

    /// Sets the kind of requests from now on, and their maximum number.
    void begin(task t, std::uint64_t requests)
    {
        task_ = t;
        budget_ = requests;
        if (t != task::load)
            next_ = 0;
    }

    /// Queues new requests up to the depth, unless older ones wait to be sent. `now` is in
    /// nanoseconds.
    void refill(std::uint64_t now)
    {
        if (!queued_.empty())
            return;
        for (; !free_.empty() && budget_ != 0; --budget_) {
            queue(free_.back(), now);
            free_.pop_back();
        }
    }

    /// True if nothing is left to send; false if the socket is full.
    [[nodiscard]] bool send_queued() { return queued_.send(socket_); }

    void receive(patience p)
    {
        have_ += socket_.receive_some(std::span{received_}.subspan(have_), p);
    }

    /// Processes all received bytes. `to`, if not null, counts the requests that were answered.
    void take_replies(std::uint64_t now, tally* to)
    {
        auto rest = std::span<const std::byte>{received_}.first(have_);
        do
            rest = take_data(rest, now, to);
        while (data_ == 0 && take_header(rest));
        have_ = rest.size();
        std::memmove(received_.data(), rest.data(), have_);
    }

    /// Sends DISC. Requires that no request is in flight.
    void disconnect()
    {
        std::byte header[nbd::protocol::request_bytes];
        nbd::protocol::encode_request(header, {.command = nbd::protocol::command::disc});
        socket_.send(header);
    }

private:
    /// The largest part of a reply that is parsed at once: a chunk's header and a hole's body.
    static constexpr std::size_t header_room = nbd::protocol::structured_chunk_bytes + 12;
    static constexpr std::size_t least_received = std::size_t{64} << 10;
    /// Large enough for few system calls, small enough for the processor's cache.
    static constexpr std::size_t most_received = std::size_t{256} << 10;

    /// A request in flight.
    struct slot {
        std::uint64_t cookie = 0;
        std::uint64_t sent_at = 0;
        std::uint64_t block = 0;   ///< counted from the plan's first
        std::size_t answered = 0;  ///< bytes of a READ
        bool write = false;
        bool busy = false;
    };
    /// A block whose contents are checked.
    struct known_block {
        std::uint32_t generation = 0;  ///< 0 = never written by us
        bool busy = false;
    };

    [[nodiscard]] std::uint64_t offset_of(const slot& s) const noexcept
    {
        return (plan_.first + s.block) * plan_.block;
    }
    [[nodiscard]] std::span<std::byte> payload_of(std::size_t i) noexcept
    {
        return plan_.verify ? std::span{payload_}.subspan(i * plan_.block, plan_.block)
                            : std::span{payload_};
    }
    [[nodiscard]] known_block& known(std::uint64_t block)
    {
        return disk_[static_cast<std::size_t>(block)];
    }

    [[nodiscard]] std::uint64_t next_block()
    {
        const auto following = [this](std::uint64_t b) {
            return b + 1 == plan_.blocks ? 0 : b + 1;
        };
        const bool leaps = plan_.random && task_ == task::load;
        auto block = leaps ? random_() % plan_.blocks : next_;
        while (plan_.verify && known(block).busy)
            block = following(block);
        if (!leaps)
            next_ = following(block);
        return block;
    }
    [[nodiscard]] bool next_writes()
    {
        if (task_ != task::load)
            return task_ == task::fill;
        return plan_.read_percent != 100 && random_() % 100 >= plan_.read_percent;
    }

    void queue(std::size_t i, std::uint64_t now)
    {
        auto& s = slots_[i];
        s = {.cookie = ++sequence_ << 32 | i,
             .sent_at = now,
             .block = next_block(),
             .answered = 0,
             .write = next_writes(),
             .busy = true};
        if (plan_.verify) {
            auto& block = known(s.block);
            block.busy = true;
            if (s.write)
                put_stamps(payload_of(i), offset_of(s), ++block.generation);
            else
                std::ranges::fill(payload_of(i), std::byte{0xff});
        }
        queued_.push(
            {.flags = 0,
             .command = s.write ? nbd::protocol::command::write : nbd::protocol::command::read,
             .cookie = s.cookie,
             .offset = offset_of(s),
             .length = plan_.block},
            s.write ? payload_of(i) : std::span<std::byte>{});
    }

    /// Consumes received data of the current reply, and ends the request after the last byte.
    [[nodiscard]] std::span<const std::byte> take_data(std::span<const std::byte> rest,
                                                       std::uint64_t now, tally* to)
    {
        const auto n = std::min(data_, rest.size());
        if (plan_.verify && n != 0) {
            std::memcpy(data_to_, rest.data(), n);
            data_to_ += n;
        }
        data_ -= n;
        if (data_ == 0 && std::exchange(last_of_reply_, false))
            finish(current_, now, to);
        return rest.subspan(n);
    }

    void finish(std::size_t i, std::uint64_t now, tally* to)
    {
        auto& s = slots_[i];
        if (!s.write && s.answered != plan_.block)
            refuse(s, "with " + std::to_string(s.answered) + " bytes");
        if (plan_.verify) {
            auto& block = known(s.block);
            block.busy = false;
            if (!s.write && block.generation != 0)
                if (const auto at = first_wrong(payload_of(i), offset_of(s), block.generation))
                    refuse(s, "with wrong data at " + std::to_string(*at));
        }
        if (to != nullptr && s.sent_at >= to->since) {
            to->latencies.add(now - s.sent_at);
            to->bytes += plan_.block;
        }
        s.busy = false;
        free_.push_back(i);
    }

    /// Parses a header. False if it is not complete.
    [[nodiscard]] bool take_header(std::span<const std::byte>& rest)
    {
        namespace wire = nbd::protocol;
        if (rest.size() < wire::simple_reply_bytes)
            return false;
        const auto magic = wire::load<std::uint32_t>(rest.first<4>());
        if (magic == wire::structured_reply_magic)
            return take_chunk(rest);
        const auto reply = wire::decode_simple_reply(rest.first<wire::simple_reply_bytes>());
        if (!reply)
            throw std::runtime_error{"the server sent an invalid reply: it begins with "
                                     + std::to_string(magic)};
        auto& s = find(reply->cookie);
        if (reply->error != wire::error_value::none)
            refuse(s, "with the error value " + std::to_string(static_cast<int>(reply->error)));
        rest = rest.subspan(wire::simple_reply_bytes);
        if (!s.write)
            expect_data(s, offset_of(s), plan_.block);
        last_of_reply_ = true;
        return true;
    }

    [[nodiscard]] bool take_chunk(std::span<const std::byte>& rest)
    {
        namespace wire = nbd::protocol;
        wire::reader in{rest};
        static_cast<void>(in.take<std::uint32_t>());
        const auto flags = in.take<std::uint16_t>();
        const auto type = static_cast<wire::chunk>(in.take<std::uint16_t>());
        const auto cookie = in.take<std::uint64_t>();
        const std::size_t length = in.take<std::uint32_t>();
        const bool data = type == wire::chunk::offset_data;
        const bool hole = type == wire::chunk::offset_hole;
        const bool none = type == wire::chunk::none;
        const auto offset = data || hole ? in.take<std::uint64_t>() : 0;
        const std::size_t empty = hole ? in.take<std::uint32_t>() : 0;
        const auto error = data || hole || none ? 0 : in.take<std::uint32_t>();
        if (!in.ok())
            return false;
        auto& s = find(cookie);
        const auto body = rest.size() - wire::structured_chunk_bytes - in.left();
        if (!(data || hole || none))
            refuse(s,
                   "with a chunk of type " + std::to_string(static_cast<unsigned>(type))
                       + " and error value " + std::to_string(error));
        if (length < body || (!data && length != body))
            refuse(s, "with a chunk of " + std::to_string(length) + " bytes");
        rest = rest.last(in.left());
        if (data)
            expect_data(s, offset, length - body);
        if (hole) {
            expect_data(s, offset, empty);
            if (plan_.verify)
                std::memset(data_to_, 0, empty);
            data_ = 0;
        }
        last_of_reply_ = (flags & wire::reply_flag::done) != 0;
        return true;
    }

    /// Finds the request of a reply and makes it the current one.
    [[nodiscard]] slot& find(std::uint64_t cookie)
    {
        const auto i = static_cast<std::size_t>(cookie & 0xffffffff);
        if (i >= slots_.size() || !slots_[i].busy || slots_[i].cookie != cookie)
            throw std::runtime_error{"the server sent a reply to no request: cookie "
                                     + std::to_string(cookie)};
        current_ = i;
        return slots_[i];
    }

    /// `length` bytes of the data of READ `s` come next, or are a hole.
    void expect_data(slot& s, std::uint64_t offset, std::size_t length)
    {
        const auto at = offset - offset_of(s);
        if (s.write || at > plan_.block || length > plan_.block - at)
            refuse(s, "with data outside the request");
        s.answered += length;
        data_ = length;
        if (plan_.verify)
            data_to_ = payload_of(current_).data() + at;
    }

    [[noreturn]] void refuse(const slot& s, const std::string& what) const
    {
        throw std::runtime_error{std::string{"the server answers a "} + (s.write ? "WRITE" : "READ")
                                 + " of " + std::to_string(plan_.block) + " bytes at "
                                 + std::to_string(offset_of(s)) + ' ' + what};
    }

    raw_socket socket_;
    load_plan plan_;
    task task_ = task::load;
    std::uint64_t budget_ = unlimited;  // requests that may still be started
    std::uint64_t next_;
    std::mt19937_64 random_;
    std::uint64_t sequence_ = 0;
    std::vector<slot> slots_;
    std::vector<std::size_t> free_;
    std::vector<known_block> disk_;

    request_queue queued_;
    std::vector<std::byte> payload_;

    std::vector<std::byte> received_;
    std::size_t have_ = 0;          // bytes received and not yet parsed
    std::size_t current_ = 0;       // the slot of the reply that is being received
    std::size_t data_ = 0;          // bytes of its data that are still to come
    std::byte* data_to_ = nullptr;  // where they go, if they are checked
    bool last_of_reply_ = false;    // the request ends with them
};

}  // namespace bench
