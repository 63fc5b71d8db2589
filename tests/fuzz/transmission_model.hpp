// SPDX-License-Identifier: MIT
// The reference model of the transmission phase: it sees what both sides send, and what the backend
// reports, and throws a difference where a reply is not what the specification allows.
#pragma once

#include "model_wire.hpp"

#include <algorithm>
#include <bitset>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace nbd_model {

enum class command : std::uint16_t {
    read,
    write,
    disc,
    flush,
    trim,
    cache,
    write_zeroes,
    block_status,
    resize
};
namespace command_flag {
inline constexpr unsigned fua = 1, no_hole = 2, df = 4, req_one = 8, fast_zero = 16, payload = 32;
}
/// "Error values".
inline constexpr std::uint32_t eperm = 1, eio = 5, enomem = 12, einval = 22, enospc = 28,
                               eoverflow = 75, enotsup = 95, eshutdown = 108;

/// Which member of the backend has failed.
enum class call { read, write, flush, trim, write_zeroes, cache, extents, resize, whole };

/// A part of an export: `first` is the offset, `second` the length.
using range = std::pair<std::uint64_t, std::uint64_t>;

/// Calls `f(offset, length)` for each part of a range that is in none of `others`.
template <class F>
void outside(std::uint64_t offset, std::uint64_t length, const std::vector<range>& others, F&& f)
{
    while (length != 0) {
        auto skip = std::uint64_t{0};
        auto part = length;
        for (const auto& [at, n] : others) {
            if (offset >= at && offset - at < n)
                skip = std::max(skip, n - (offset - at));
            else if (at > offset)
                part = std::min(part, at - offset);
        }
        if (skip == 0)
            f(offset, part);
        const auto done = std::min(length, skip != 0 ? skip : part);
        offset += done;
        length -= done;
    }
}
inline bool touches(const range& a, const range& b)
{
    return a.first < b.first ? b.first - a.first < a.second : a.first - b.first < b.second;
}
inline bool is_zero(octets bytes)
{
    static const std::vector<std::byte> zeroes(std::size_t{64} << 10);
    for (; !bytes.empty(); bytes = bytes.subspan(std::min(bytes.size(), zeroes.size())))
        if (std::memcmp(bytes.data(), zeroes.data(), std::min(bytes.size(), zeroes.size())) != 0)
            return false;
    return true;
}

/// The bytes of an export as the client knows them. It is reused: `restore` undoes the changes.
class image {
public:
    explicit image(std::vector<std::byte> content) : pristine_{std::move(content)}, now_{pristine_}
    {
    }
    void set(std::uint64_t offset, octets from)
    {
        const auto to = known(offset, from.size());
        std::copy_n(from.begin(), to.size(), to.begin());
    }
    void zero(std::uint64_t offset, std::uint64_t length)
    {
        const auto to = known(offset, length);
        std::fill(to.begin(), to.end(), std::byte{0});
    }
    /// From now on the bytes can be anything.
    void forget(std::uint64_t offset, std::uint64_t length)
    {
        if (const auto n = inside(offset, length); n != 0)
            unknown_.emplace_back(offset, n);
    }
    /// Whether the bytes can be these. Bytes past the image can be anything.
    bool can_be(std::uint64_t offset, octets data) const
    {
        bool same = true;
        outside(offset, inside(offset, data.size()), unknown_, [&](auto at, auto n) {
            same = same
                && std::memcmp(&now_[static_cast<std::size_t>(at)],
                               &data[static_cast<std::size_t>(at - offset)],
                               static_cast<std::size_t>(n))
                    == 0;
        });
        return same;
    }
    bool can_be_zero(std::uint64_t offset, std::uint64_t length) const
    {
        bool zeroes = true;
        outside(offset, inside(offset, length), unknown_, [&](auto at, auto n) {
            zeroes = zeroes
                && is_zero(octets{now_}.subspan(static_cast<std::size_t>(at),
                                                static_cast<std::size_t>(n)));
        });
        return zeroes;
    }
    void restore()
    {
        for (const auto& [offset, n] : changed_)
            std::copy_n(pristine_.begin() + static_cast<std::ptrdiff_t>(offset), n,
                        now_.begin() + static_cast<std::ptrdiff_t>(offset));
        changed_.clear();
        unknown_.clear();
    }

private:
    std::size_t inside(std::uint64_t offset, std::uint64_t length) const
    {
        return offset >= now_.size()
            ? 0
            : static_cast<std::size_t>(std::min<std::uint64_t>(length, now_.size() - offset));
    }
    /// The part of a range that is inside the image. Its content is known from now on.
    std::span<std::byte> known(std::uint64_t offset, std::uint64_t length)
    {
        const auto n = inside(offset, length);
        if (n == 0)
            return {};
        changed_.emplace_back(offset, n);
        std::vector<range> left;
        for (const auto& each : unknown_)
            outside(each.first, each.second, {{offset, n}},
                    [&left](auto at, auto k) { left.emplace_back(at, k); });
        unknown_ = std::move(left);
        return std::span{now_}.subspan(static_cast<std::size_t>(offset), n);
    }

    std::vector<std::byte> pristine_;
    std::vector<std::byte> now_;
    std::vector<range> unknown_;
    std::vector<range> changed_;
};

/// One connection. Its parts are called in the order of the events; `ended` once, at the end.
///
/// `in_order`: the server promises to carry out the requests one after the other and to answer them
/// in that order. Otherwise, requests that overlap in time may take effect in any order.
class transmission {
public:
    transmission(terms t, image& disk, bool in_order)
        : terms_{std::move(t)}, disk_{disk}, in_order_{in_order}, size_{terms_.size},
          told_{terms_.size}
    {
    }

    /// The client has sent these bytes; the server has received them.
    void client_sent(octets bytes)
    {
        from_client_.add(bytes);
        while (parse_request())
            ;
    }
    /// No more bytes come from the client.
    void client_ended()
    {
        client_over_ = true;
        // Others in flight are still answered, and so may be a request whose payload is incomplete.
        if (begun_ && !in_order_ && !std::exchange(partial_.partial, true))
            requests_.push_back(std::move(partial_));
    }
    void server_sent(octets bytes)
    {
        from_server_.add(bytes);
        while (!ambiguous_ && parse_reply())
            ;
    }

    /// A call of the backend has failed with an error number of POSIX.
    void backend_failed(call what, int error, std::uint64_t offset, std::uint64_t length)
    {
        faults_.push_back({.what = what, .error = error, .offset = offset, .length = length});
    }
    /// A read has reported success and left the bytes from `offset` on as they were.
    void backend_left_out(std::uint64_t offset, std::uint64_t length)
    {
        left_out_.emplace_back(offset, length);
    }
    /// The server may answer ESHUTDOWN from now on.
    void server_stops() { stopping_ = true; }

    /// The server has ended the session. `all_sent`: nothing kept it from sending its replies.
    void ended(bool all_sent)
    {
        if (!all_sent || ambiguous_)
            return;
        require(from_server_.rest().empty(), "the last reply is incomplete");
        require(std::all_of(requests_.begin(), requests_.end(),
                            [](const request& r) { return r.partial; }),
                "a request was not answered");
        for (const auto& f : faults_)
            if (must_be_told(f))
                throw difference{"call " + std::to_string(static_cast<int>(f.what)) + " at "
                                 + std::to_string(f.offset) + " of " + std::to_string(f.length)
                                 + " bytes has failed with " + std::to_string(f.error)
                                 + ", and the client was not told"};
        require(finished_ || client_over_, "the server has ended the session without a reason");
    }
    /// Whether the client must be disconnected now: DISC, or bytes that are no request.
    bool finished() const { return finished_; }
    std::size_t answered() const { return answered_; }

private:
    struct request {
        command what{};
        unsigned flags = 0;
        std::uint64_t cookie = 0;
        std::uint64_t offset = 0;
        std::uint64_t length = 0;  ///< that of the effect
        std::vector<std::byte> payload{};
        bool bad_payload = false;  ///< of a BLOCK_STATUS
        bool partial = false;      ///< its payload is incomplete, and no more comes
        bool lacks_flag = false;   ///< an extended WRITE without PAYLOAD_LEN
        std::vector<context> contexts{};
        std::uint64_t least_size = 0;  ///< the export's size may have been any of these
        std::uint64_t most_size = 0;
        std::uint64_t told = 0;
        // The reply so far.
        std::vector<range> covered{};
        std::vector<range> overlapped{};  ///< by writes that may take effect before or after it
        unsigned contents = 0;
        std::uint32_t error = 0;
        bool had_error = false;
        bool error_has_offset = false;

        bool has(unsigned flag) const { return (flags & flag) != 0; }
        bool observes() const { return what == command::read || what == command::block_status; }
        bool writes() const
        {
            return what == command::write || what == command::trim || what == command::write_zeroes;
        }
    };
    struct fault {
        call what;
        int error;
        std::uint64_t offset;
        std::uint64_t length;
        bool perhaps_told = false;  ///< by an error that may have had another cause
    };
    struct verdict {
        bool may_succeed = true;
        std::bitset<128> errors;
        void refuse(std::uint32_t error)
        {
            may_succeed = false;
            errors.set(error);
        }
    };

    bool structured() const { return terms_.form != reply_form::simple; }
    bool extended() const { return terms_.form == reply_form::extended; }
    bool offers(unsigned flag) const { return (terms_.flags & flag) != 0; }

    // --- requests -------------------------------------------------------------------------------

    bool parse_request()
    {
        const std::size_t header = extended() ? 32 : 28;
        const auto rest = from_client_.rest();
        if (finished_ || rest.size() < header)
            return false;
        fields in{rest.first(header)};
        if (in.u32() != (extended() ? 0x21e41c71U : 0x25609513U)) {
            finished_ = true;
            return false;
        }
        request r;
        r.flags = in.u16();
        r.what = static_cast<command>(in.u16());
        r.cookie = in.u64();
        r.offset = in.u64();
        r.length = extended() ? in.u64() : in.u32();
        std::uint64_t payload = 0;
        if (extended() ? r.has(command_flag::payload) : r.what == command::write)
            payload = r.length;
        const std::uint64_t longest =
            std::max<std::uint64_t>(terms_.maximum_payload, std::uint64_t{32} << 20);
        if (extended() && r.what == command::write && !r.has(command_flag::payload)) {
            // The specification has no payload then. The server is documented to find out from the
            // first such WRITE whether the client leaves out the flag (some clients do).
            if (r.length != 0 && r.length <= longest) {
                const auto next = rest.subspan(header);
                if (!decided_) {
                    if (next.size() < std::min<std::uint64_t>(r.length, 4))
                        return false;
                    decided_ = true;
                    leaves_out_flag_ =
                        next.size() < 4 || fields{next.first(4)}.u32() != 0x21e41c71U;
                }
                if (leaves_out_flag_)
                    payload = r.length;
            }
            r.lacks_flag = payload == 0;
        }
        if (r.what == command::disc || payload > longest) {
            // A payload that is too long cannot be received, so the next request is not found.
            finished_ = true;
            return false;
        }
        if (rest.size() - header < payload) {
            // The part that has arrived may be in the backend's memory, which earlier replies lend.
            if (!std::exchange(begun_, true) && r.writes())
                note_overlaps(r);
            partial_ = std::move(r);
            return false;
        }
        begun_ = false;
        from_client_.take(header);
        const auto data = from_client_.take(static_cast<std::size_t>(payload));
        r.payload.assign(data.begin(), data.end());
        if (r.what == command::block_status) {
            r.contexts = terms_.contexts;
            if (r.has(command_flag::payload) && offers(transmission_flag::status_payload))
                choose_contexts(r);
        }
        r.least_size = r.most_size = size_;
        r.told = told_;
        for (const auto& other : requests_)
            if (resizes(other))
                may_have_size(r, other.offset);
        if (resizes(r))
            for (auto& other : requests_)
                may_have_size(other, r.offset);
        note_overlaps(r);
        ambiguous_ = ambiguous_
            || (!in_order_
                && std::any_of(requests_.begin(), requests_.end(),
                               [&](const request& other) { return other.cookie == r.cookie; }));
        requests_.push_back(std::move(r));
        return true;
    }
    /// The payload of BLOCK_STATUS: `u64 length | n x u32 id`.
    static void choose_contexts(request& r)
    {
        const auto n = r.payload.size();
        r.bad_payload = n < 12 || n % 4 != 0;
        if (r.bad_payload)
            return;
        fields in{r.payload};
        r.length = in.u64();
        std::vector<context> chosen;
        while (in.left() != 0) {
            const auto id = in.u32();
            const auto is = [id](const context& c) { return c.id == id; };
            const auto found = std::find_if(r.contexts.begin(), r.contexts.end(), is);
            if (found == r.contexts.end() || std::any_of(chosen.begin(), chosen.end(), is)) {
                r.bad_payload = true;
                return;
            }
            chosen.push_back(*found);
        }
        r.contexts = std::move(chosen);
    }
    bool resizes(const request& r) const
    {
        return r.what == command::resize && offers(transmission_flag::resize);
    }
    static void may_have_size(request& r, std::uint64_t size)
    {
        r.least_size = std::min(r.least_size, size);
        r.most_size = std::max(r.most_size, size);
    }
    /// Notes which bytes of a READ or BLOCK_STATUS a write in flight may change.
    void note_overlaps(request& r)
    {
        const auto changes = [this](const request& x) { return x.writes() || resizes(x); };
        for (auto& other : requests_) {
            // In order, the earlier write has taken effect; but the data of an earlier READ may be
            // in the backend's memory until they are sent.
            if (r.observes() && changes(other) && !in_order_)
                r.overlapped.push_back(span_of(other));
            if (other.observes() && changes(r) && (other.what == command::read || !in_order_))
                other.overlapped.push_back(span_of(r));
        }
    }
    static range span_of(const request& r)
    {
        return r.what == command::resize ? range{0, ~std::uint64_t{0}} : range{r.offset, r.length};
    }

    // --- what the specification expects ---------------------------------------------------------

    static bool ends_inside(const request& r, std::uint64_t size)
    {
        return r.length <= size && r.offset <= size - r.length;
    }

    verdict judge(const request& r) const
    {
        verdict v;
        if (r.partial) {
            v.refuse(eshutdown);
            v.errors |= judge_whole(r).errors;
            return v;
        }
        return judge_whole(r);
    }
    verdict judge_whole(const request& r) const
    {
        verdict v;
        using c = command;
        namespace tf = transmission_flag;
        namespace cf = command_flag;
        if (r.writes() && offers(tf::read_only))
            v.refuse(eperm);
        const bool offered = r.what == c::read || r.what == c::write
            || (r.what == c::flush && offers(tf::flush)) || (r.what == c::trim && offers(tf::trim))
            || (r.what == c::cache && offers(tf::cache))
            || (r.what == c::write_zeroes && offers(tf::write_zeroes))
            || (r.what == c::block_status && !terms_.contexts.empty())
            || (r.what == c::resize && offers(tf::resize));
        if (!offered) {
            v.refuse(einval);
            return v;
        }
        unsigned allowed = offers(tf::fua) ? cf::fua : 0U;
        if (r.what == c::read && offers(tf::df))
            allowed |= cf::df;
        if (r.what == c::write_zeroes)
            allowed |= cf::no_hole | (offers(tf::fast_zero) ? cf::fast_zero : 0U);
        if (r.what == c::block_status)
            allowed |= cf::req_one | (offers(tf::status_payload) ? cf::payload : 0U);
        if (r.what == c::write && extended())
            allowed |= cf::payload;
        if ((r.flags & ~allowed) != 0 || r.lacks_flag || r.bad_payload)
            v.refuse(einval);
        if (r.what == c::resize) {
            if (r.offset > std::uint64_t(std::numeric_limits<std::int64_t>::max()))
                v.refuse(einval);
            v.errors.set(einval);  // for a size that does not fit the blocks of the backend
            return v;
        }
        if (r.what == c::flush) {
            if (r.offset != 0 || r.length != 0)
                v.refuse(einval);
            return v;
        }
        if (r.length == 0)  // "the result is unspecified"; no block status has no descriptor
            r.what == c::block_status ? v.refuse(einval) : static_cast<void>(v.errors.set(einval));
        if (!ends_inside(r, r.least_size)) {
            const bool may = v.may_succeed && ends_inside(r, r.most_size);
            const bool was_inside = ends_inside(r, std::max(r.told, r.most_size));
            // "RESIZE": what was cut off gets ENOSPC.
            const bool no_space = r.what == c::write || r.what == c::write_zeroes || was_inside;
            v.refuse(no_space ? enospc : einval);
            if (no_space && r.least_size != r.most_size)
                v.errors.set(einval);
            v.may_succeed = may;
        }
        if ((r.what == c::read || r.what == c::write) && r.length > terms_.maximum_payload) {
            v.refuse(einval);
            if (r.has(cf::df))
                v.errors.set(eoverflow);
        }
        if ((r.offset | r.length) % terms_.minimum_block != 0)
            v.refuse(einval);
        return v;
    }

    static bool concerns(const fault& f, const request& r)
    {
        const bool zeroes = r.what == command::write_zeroes;
        switch (f.what) {
        case call::read:
            if (r.what != command::read)
                return false;
            break;
        case call::write:
            if (r.what != command::write && !zeroes)
                return false;
            break;
        case call::flush:
            return r.what == command::flush || (r.writes() && r.has(command_flag::fua));
        case call::trim:
            if (r.what != command::trim)
                return false;
            break;
        case call::write_zeroes:
            if (!zeroes)
                return false;
            break;
        case call::cache:
            if (r.what != command::cache)
                return false;
            break;
        case call::extents:
            if (r.what != command::block_status && r.what != command::read)
                return false;
            break;
        case call::resize:
            return r.what == command::resize && f.offset == r.offset;
        case call::whole:
            break;
        }
        return f.offset >= r.offset && f.length <= r.length
            && f.offset - r.offset <= r.length - f.length;
    }
    /// "Error values": what an error number becomes.
    static std::uint32_t on_the_wire(int error, const request& r)
    {
        switch (error) {
        case EPERM:
        case EACCES:
        case EROFS:
            return eperm;
        case ENOMEM:
            return enomem;
        case ENOSPC:
        case EDQUOT:
        case EFBIG:
            return enospc;
        case ESHUTDOWN:
            return eshutdown;
        case EINVAL:
            return einval;
        case EOVERFLOW:  // only for READ with DF
            return r.what == command::read && r.has(command_flag::df) ? eoverflow : einval;
        case ENOTSUP:  // only for FAST_ZERO
            return r.what == command::write_zeroes && r.has(command_flag::fast_zero) ? enotsup
                                                                                     : einval;
        default:
            return eio;
        }
    }
    /// A READ needs no extents. Zeroes that are not supported are written.
    static bool must_be_told(const fault& f)
    {
        return f.what != call::extents && !f.perhaps_told
            && !(f.what == call::write_zeroes && f.error == ENOTSUP);
    }

    void check_error(const request& r)
    {
        auto v = judge(r);
        if (stopping_)
            v.errors.set(eshutdown);
        const auto f = std::find_if(faults_.begin(), faults_.end(), [&](const fault& each) {
            return concerns(each, r) && on_the_wire(each.error, r) == r.error;
        });
        if (v.errors[r.error < v.errors.size() ? r.error : 0]) {
            if (f != faults_.end())
                f->perhaps_told = true;
            return;
        }
        if (f == faults_.end())
            throw difference{"the error " + std::to_string(r.error) + " in reply to command "
                             + std::to_string(static_cast<unsigned>(r.what)) + " has no cause"};
        faults_.erase(f);
    }

    // --- replies --------------------------------------------------------------------------------

    request& answered(std::uint64_t cookie)
    {
        require(!requests_.empty(), "a reply to no request");
        if (in_order_) {
            require(requests_.front().cookie == cookie, "a reply with the wrong cookie");
            return requests_.front();
        }
        const auto found = std::find_if(requests_.begin(), requests_.end(),
                                        [&](const request& r) { return r.cookie == cookie; });
        require(found != requests_.end(), "a reply with the wrong cookie");
        return *found;
    }

    bool parse_reply()
    {
        const auto rest = from_server_.rest();
        if (rest.size() < 4)
            return false;
        const auto magic = fields{rest}.u32();
        if (magic == 0x67446698U && !extended())
            return parse_simple(rest);
        require(magic == (extended() ? 0x6e8a278cU : 0x668e33efU) && structured(),
                "the reply has not the form that was negotiated");
        const std::size_t header = extended() ? 32 : 20;
        if (rest.size() < header)
            return false;
        fields in{rest.subspan(4, header - 4)};
        const unsigned flags = in.u16();
        const unsigned type = in.u16();
        auto& r = answered(in.u64());
        if (extended())
            require(in.u64() == r.offset, "a chunk with another offset than its request");
        const std::uint64_t length = extended() ? in.u64() : in.u32();
        require(length <= std::uint64_t{terms_.maximum_payload} + 4096 + 14,
                "a chunk is longer than the maximum payload");
        if (rest.size() - header < length)
            return false;
        from_server_.take(header);
        require((flags & ~1U) == 0, "an unknown flag of a chunk");
        const bool done = (flags & 1) != 0;
        parse_chunk(r, type, from_server_.take(static_cast<std::size_t>(length)), done);
        if (done)
            complete(r);
        return true;
    }

    bool parse_simple(octets rest)
    {
        if (rest.size() < 16)
            return false;
        fields in{rest.first(16).subspan(4)};
        const auto error = in.u32();
        auto& r = answered(in.u64());
        require(!structured() || (r.what != command::read && r.what != command::block_status),
                "a simple reply where a structured one is required");
        require(r.covered.empty() && !r.had_error, "a simple reply after chunks");
        const std::uint64_t length = r.what == command::read && error == 0 ? r.length : 0;
        if (rest.size() - 16 < length)
            return false;
        from_server_.take(16);
        r.error = error;
        r.had_error = error != 0;
        if (length != 0)
            content(r, r.offset, from_server_.take(static_cast<std::size_t>(length)));
        complete(r);
        return true;
    }

    void parse_chunk(request& r, unsigned type, octets payload, bool done)
    {
        fields in{payload};
        switch (type) {
        case 0:
            require(payload.empty() && done, "a NONE chunk with a payload, or without DONE");
            return;
        case 1: {
            require(r.what == command::read && payload.size() >= 9, "a wrong OFFSET_DATA chunk");
            const auto offset = in.u64();
            content(r, offset, in.take(in.left()));
            return;
        }
        case 2: {
            require(r.what == command::read && payload.size() == 12, "a wrong OFFSET_HOLE chunk");
            const auto offset = in.u64();
            const auto n = in.u32();
            require(n != 0, "a hole of no bytes");
            cover(r, offset, n);
            require(zero_is_right(r, offset, n), "a hole where there are data");
            return;
        }
        case 5:
        case 6:
            block_status(r, type, in);
            return;
        case 0x8001:
        case 0x8002: {
            require(payload.size() >= 6, "an error chunk is too short");
            const auto error = in.u32();
            const auto text = in.text(in.u16());
            require(error != 0, "an error chunk without an error");
            require(is_string(text), "the text of an error is no string");
            if (type == 0x8002) {
                const auto offset = in.u64();
                require(offset >= r.offset && offset - r.offset < r.length,
                        "the offset of an error is outside of the request");
            }
            require(in.left() == 0, "the length of an error chunk is wrong");
            require(!r.had_error, "two errors for one request");
            r.error = error;
            r.had_error = true;
            return;
        }
        default:
            throw difference{"a chunk of an unknown type"};
        }
    }

    /// The next part of the data of a READ.
    void cover(request& r, std::uint64_t offset, std::uint64_t length)
    {
        require(offset >= r.offset && length <= r.length && offset - r.offset <= r.length - length,
                "content outside of the request");
        for (const auto& [at, n] : r.covered)
            require(offset >= at + n || at >= offset + length, "content that was sent before");
        r.covered.emplace_back(offset, length);
        require(++r.contents == 1 || !r.has(command_flag::df), "a READ with DF was divided");
        require(length <= terms_.maximum_payload, "more data than the maximum payload");
    }
    void content(request& r, std::uint64_t offset, octets data)
    {
        cover(r, offset, data.size());
        outside(offset, data.size(), r.overlapped, [&](std::uint64_t at, std::uint64_t n) {
            check_content(
                at,
                data.subspan(static_cast<std::size_t>(at - offset), static_cast<std::size_t>(n)));
        });
    }
    void check_content(std::uint64_t offset, octets data) const
    {
        const auto part = [&](std::uint64_t at, std::uint64_t n) {
            return data.subspan(static_cast<std::size_t>(at - offset), static_cast<std::size_t>(n));
        };
        outside(offset, data.size(), left_out_, [&](std::uint64_t at, std::uint64_t n) {
            require(disk_.can_be(at, part(at, n)), "wrong data");
        });
        for (const auto& [at, n] : left_out_) {
            const auto from = std::max(at, offset);
            const auto to = std::min(at + n, offset + data.size());
            if (from < to)
                require(is_zero(part(from, to - from)) || disk_.can_be(from, part(from, to - from)),
                        "old memory in place of data");
        }
    }
    bool zero_is_right(const request& r, std::uint64_t offset, std::uint64_t length) const
    {
        bool right = true;
        outside(offset, length, r.overlapped, [&](std::uint64_t at, std::uint64_t n) {
            right = right && disk_.can_be_zero(at, n);
        });
        return right;
    }

    void block_status(request& r, unsigned type, fields& in)
    {
        require(r.what == command::block_status,
                "a BLOCK_STATUS chunk in reply to another command");
        require(type == (extended() ? 6U : 5U), "the other type of BLOCK_STATUS chunk");
        const auto id = in.u32();
        const auto context = std::find_if(r.contexts.begin(), r.contexts.end(),
                                          [id](const auto& c) { return c.id == id; });
        require(context != r.contexts.end(), "the status of a context twice, or not asked for");
        const bool allocation = context->allocation;
        r.contexts.erase(context);
        const std::size_t each = extended() ? 16 : 8;
        if (extended())
            require(in.u32() * each == in.left(), "the number of descriptors is wrong");
        require(in.left() != 0 && in.left() % each == 0, "no descriptors, or a part of one");
        const auto count = in.left() / each;
        require(count == 1 || !r.has(command_flag::req_one), "REQ_ONE, and several descriptors");
        require(count <= terms_.most_descriptors, "more descriptors than the limit");
        std::uint64_t sum = 0;
        std::uint64_t last = 0;
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint64_t length = extended() ? in.u64() : in.u32();
            const std::uint64_t status = extended() ? in.u64() : in.u32();
            require(length != 0, "a descriptor of no bytes");
            require(length % terms_.minimum_block == 0, "a descriptor that divides a block");
            require(sum < r.length, "a descriptor past the end of the request");
            require(i == 0 || status != last, "two neighbours of the same status");
            require(length <= r.most_size && r.offset + sum <= r.most_size - length,
                    "a descriptor past the end of the export");
            if (allocation) {
                require(status <= 3, "an unknown bit of base:allocation");
                if ((status & 2) != 0)
                    require(zero_is_right(r, r.offset + sum, length), "ZERO where there are data");
            }
            sum += length;
            last = status;
        }
        if (r.has(command_flag::req_one))
            require(sum <= r.length, "REQ_ONE, and more than the request");
    }
    /// The last chunk of a reply, or a simple one.
    void complete(request& r)
    {
        auto v = judge(r);
        if (r.had_error) {
            check_error(r);
        } else {
            require(v.may_succeed, "a request succeeds that must be refused");
            if (r.what == command::read) {
                std::uint64_t sum = 0;
                for (const auto& part : r.covered)
                    sum += part.second;
                require(sum == r.length, "a reply does not cover the request");
            }
            if (r.what == command::block_status)
                require(r.contexts.empty(), "a context without its status");
            for (const auto& f : faults_)  // a later call may have been for another request
                require(!must_be_told(f) || !only_concerns(f, r),
                        "the backend has failed, and the client was told of success");
        }
        if (v.may_succeed)
            take_effect(r);
        const auto at = std::find_if(requests_.begin(), requests_.end(),
                                     [&](const request& each) { return &each == &r; });
        requests_.erase(at);
        ++answered_;
    }
    bool only_concerns(const fault& f, const request& r) const
    {
        return concerns(f, r)
            && std::none_of(requests_.begin(), requests_.end(), [&](const request& other) {
                   return &other != &r && concerns(f, other);
               });
    }
    void take_effect(const request& r)
    {
        const bool failed = r.had_error;
        const bool unclear = !in_order_ && r.writes()
            && std::any_of(requests_.begin(), requests_.end(), [&](const request& other) {
                   return &other != &r && other.writes() && touches(span_of(other), span_of(r));
               });
        switch (r.what) {
        case command::write:
            if (failed || unclear || beside_unclear(r))
                forget(r);
            else
                disk_.set(r.offset, r.payload);
            break;
        case command::write_zeroes:
            if (failed || unclear || beside_unclear(r))
                forget(r);
            else
                disk_.zero(r.offset, r.length);
            break;
        case command::trim:
            forget(r);
            break;
        case command::resize:
            if (failed)
                break;
            disk_.forget(std::min(size_, r.offset), ~std::uint64_t{0});
            size_ = r.offset;
            told_ = std::max(told_, size_);
            for (auto& other : requests_)
                other.told = std::max(other.told, told_);
            break;
        default:
            break;
        }
        if (unclear)
            unclear_.emplace_back(r.offset, r.length);
        if (std::none_of(requests_.begin(), requests_.end(),
                         [&](const request& other) { return &other != &r && other.writes(); }))
            unclear_.clear();
    }
    void forget(const request& r) { disk_.forget(r.offset, r.length); }
    /// Whether a write that was in flight with this one, and overlaps it, has ended before: either
    /// may have been the last.
    bool beside_unclear(const request& r) const
    {
        return std::any_of(unclear_.begin(), unclear_.end(),
                           [&](const range& x) { return touches(x, span_of(r)); });
    }

    const terms terms_;
    image& disk_;
    const bool in_order_;
    std::uint64_t size_;
    std::uint64_t told_;
    pending from_client_;
    pending from_server_;
    std::deque<request> requests_;
    std::vector<fault> faults_;
    std::vector<range> left_out_;
    std::vector<range> unclear_;
    bool begun_ = false;  ///< a request whose payload is incomplete
    request partial_;     ///< that request
    bool decided_ = false;
    bool leaves_out_flag_ = false;
    bool finished_ = false;
    bool client_over_ = false;
    bool stopping_ = false;
    bool ambiguous_ = false;  ///< two requests in flight had one cookie: nothing is judged further
    std::size_t answered_ = 0;
};

}  // namespace nbd_model
