// SPDX-License-Identifier: MIT
// The reference model of the handshake: it sees what both sides send, and throws a difference where
// an answer is not what the specification allows. It knows the server's exports and settings.
#pragma once

#include "model_wire.hpp"

#include <algorithm>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nbd_model {

enum class option : std::uint32_t {
    export_name = 1,
    abort,
    list,
    peek_export,
    starttls,
    info,
    go,
    structured_reply,
    list_meta_context,
    set_meta_context,
    extended_headers
};
/// The types of option replies that are errors, without their highest bit.
namespace refusal {
inline constexpr unsigned unsup = 1, policy = 2, invalid = 3, platform = 4, tls_reqd = 5,
                          unknown = 6, shutdown = 7, block_size_reqd = 8, too_big = 9,
                          ext_header_reqd = 10;
}

enum class tls { none, forced, selective };

struct served_context {
    std::string name;
    bool wide = false;
};
/// An export, as the server's program has made it.
struct served_export {
    std::string name;
    std::string description;
    std::uint64_t size = 0;
    std::uint32_t minimum_block = 1;
    std::uint32_t preferred_block = 4096;
    std::uint32_t maximum_payload = 32U << 20;
    bool tls_only = false;
    bool require_block_sizes = false;
    bool unlisted = false;  ///< found by name only
    std::vector<served_context> contexts{};

    bool default_blocks() const
    {
        return minimum_block == 1 && preferred_block == 4096 && maximum_payload == 32U << 20;
    }
};
struct served {
    std::vector<served_export> exports;  ///< in the order of LIST
    std::string default_export;          ///< what the empty name means
    tls mode = tls::none;
    std::size_t option_bytes = std::size_t{64} << 10;
    std::size_t options = 32;
    std::size_t option_data = std::size_t{1} << 20;
    std::size_t most_listed = 10'000;
};

/// Whether a query selects a context ("Metadata querying").
inline bool query_selects(std::string_view query, std::string_view context, bool lists)
{
    if (query == context)
        return true;
    // "namespace:" is a wildcard in LIST.
    const auto colon = context.find(':');
    return lists && colon != std::string_view::npos && query == context.substr(0, colon + 1);
}

/// One connection. Its parts are called in the order of the events; `ended` once, at the end.
class handshake {
public:
    explicit handshake(const served& s) : served_{s} {}

    void client_sent(octets bytes)
    {
        from_client_.add(bytes);
        while (parse_option())
            ;
    }
    void client_ended() { client_over_ = true; }
    void server_sent(octets bytes)
    {
        from_server_.add(bytes);
        while (parse_answer())
            ;
    }
    void server_stops() { stopping_ = true; }
    /// Exports may not open, and lists may fail.
    void open_fails() { may_fail_ = true; }
    /// The server may close when the client has caused too many calls of the program.
    void calls_program() { calls_program_ = true; }

    /// The server has ended the session or has begun transmission.
    void ended(bool all_sent)
    {
        if (!all_sent)
            return;
        require(greeted_ && from_server_.rest().empty(), "the last answer is incomplete");
        if (transmits_ || starts_tls_)
            return;
        require(options_.empty() || may_close(options_.front()), "an option was not answered");
        require(finished_ || client_over_ || may_close_ || !options_.empty(),
                "the server has ended the handshake without a reason");
    }

    /// The handshake is over: the bytes that the model has not parsed belong to transmission.
    bool transmits() const { return transmits_; }
    bool starts_tls() const { return starts_tls_; }
    /// What was agreed, after that.
    const terms& agreed() const { return agreed_; }
    const std::string& export_name() const { return agreed_export_; }
    octets client_rest() const { return from_client_.rest(); }
    octets server_rest() const { return from_server_.rest(); }
    std::size_t answered() const { return answered_; }

    /// TLS has begun: nothing that was negotiated is kept but the client flags.
    void secure()
    {
        secured_ = true;
        starts_tls_ = false;
        form_ = reply_form::simple;
        selected_.clear();
        from_client_.clear();
        from_server_.clear();
        options_.clear();
    }

private:
    struct asked {
        option what{};
        std::uint64_t length = 0;
        std::vector<std::byte> data{};
        bool may_close = false;
        bool must_close = false;  ///< more data than the limit of the handshake
        // The answer so far.
        std::vector<std::string> names{};
        std::vector<std::uint32_t> ids{};
        std::bitset<16> infos;
        std::uint64_t size = 0;
        unsigned flags = 0;
    };
    struct expectation {
        bool may_succeed = true;
        bool must_close = false;
        std::bitset<16> errors;
        void refuse(unsigned type)
        {
            may_succeed = false;
            errors.set(type);
        }
    };
    struct request_data {
        bool well_formed = false;
        std::string_view name;
        std::vector<unsigned> infos;            ///< of INFO and GO
        std::vector<std::string_view> queries;  ///< of META_CONTEXT
    };

    bool extended() const { return form_ == reply_form::extended; }
    static bool is_meta(option o)
    {
        return o == option::list_meta_context || o == option::set_meta_context;
    }
    static bool known(option o)
    {
        return o == option::export_name || o == option::abort || o == option::list
            || (o >= option::starttls && o <= option::extended_headers);
    }

    // --- what the client sends ------------------------------------------------------------------

    bool parse_option()
    {
        const auto rest = from_client_.rest();
        if (finished_ || transmits_ || starts_tls_ || waits_)
            return false;
        if (!has_flags_ && !secured_) {
            if (rest.size() < 4)
                return false;
            flags_ = fields{from_client_.take(4)}.u32();
            has_flags_ = true;
            finished_ = (flags_ & ~3U) != 0;  // "MUST close"
            return true;
        }
        if (rest.size() < 16)
            return false;
        fields in{rest.first(16)};
        if (in.u64() != 0x49484156454f5054U) {
            finished_ = true;
            return false;
        }
        asked a;
        a.what = static_cast<option>(in.u32());
        a.length = in.u32();
        a.must_close = data_seen_ + a.length > served_.option_data;
        a.may_close = a.must_close || seen_ >= served_.options
            || (a.what == option::export_name
                && a.length > std::min<std::size_t>(served_.option_bytes, 4096));
        may_close_ = a.may_close;
        if (rest.size() - 16 < a.length)
            return false;
        may_close_ = false;
        ++seen_;
        data_seen_ += a.length;
        from_client_.take(16);
        const auto data = from_client_.take(static_cast<std::size_t>(a.length));
        a.data.assign(data.begin(), data.end());
        // An option may change what the next bytes mean: they are parsed after its answer.
        waits_ = true;
        options_.push_back(std::move(a));
        return false;
    }

    static request_data decode(const asked& a)
    {
        request_data found;
        try {
            fields in{a.data};
            found.name = in.text(in.u32());
            if (is_meta(a.what)) {
                for (auto n = in.u32(); n != 0; --n)
                    found.queries.push_back(in.text(in.u32()));
            } else {
                for (unsigned n = in.u16(); n != 0; --n)
                    found.infos.push_back(in.u16());
            }
            found.well_formed = in.left() == 0 && is_string(found.name)
                && std::all_of(found.queries.begin(), found.queries.end(), is_string);
        } catch (const difference&) {
            found = {};
        }
        return found;
    }

    /// The export of that name, if this client may know of it.
    const served_export* find(std::string_view name, bool& hidden) const
    {
        const std::string_view wanted = name.empty() ? served_.default_export : name;
        for (const auto& e : served_.exports)
            if (e.name == wanted) {
                hidden = e.tls_only && !secured_;
                return hidden ? nullptr : &e;
            }
        return nullptr;
    }

    bool may_close(const asked& a) const
    {
        // Failures cost calls of the program, whose number is limited.
        return a.may_close || may_fail_ || calls_program_ || expected(a).must_close
            || (stopping_ && a.what == option::export_name);
    }

    // --- what the specification expects ---------------------------------------------------------

    expectation expected(const asked& a) const
    {
        expectation v;
        const auto o = a.what;
        const bool plain_text_only = served_.mode == tls::forced && !secured_;
        if (o == option::abort)
            return v;
        if (stopping_) {
            v.errors.set(refusal::shutdown);
        }
        if (o == option::export_name) {
            expect_export_name(a, v);
            return v;
        }
        if ((flags_ & 1) == 0) {
            v.refuse(refusal::invalid);
            return v;
        }
        if (plain_text_only && o != option::starttls) {
            v.refuse(refusal::tls_reqd);
            return v;
        }
        const bool offered = known(o) && !(o == option::starttls && served_.mode == tls::none);
        if (a.length > served_.option_bytes) {
            v.refuse(offered ? refusal::too_big : refusal::unsup);
            return v;
        }
        const bool no_data = o == option::list || o == option::structured_reply
            || o == option::extended_headers || o == option::starttls;
        if (no_data && a.length != 0) {
            v.refuse(refusal::invalid);
            if (!offered)
                v.refuse(refusal::unsup);
            return v;
        }
        if (!offered) {
            v.refuse(refusal::unsup);
            return v;
        }
        if (o == option::starttls && secured_)
            v.refuse(refusal::invalid);
        if (o == option::structured_reply && extended())
            v.refuse(refusal::ext_header_reqd);
        if (is_meta(o) && form_ == reply_form::simple)
            v.refuse(refusal::invalid);
        if (o == option::list && may_fail_)
            for (const auto type : {refusal::policy, refusal::platform})
                v.errors.set(type);
        if (o == option::info || o == option::go || is_meta(o))
            expect_export(a, v);
        return v;
    }
    void expect_export(const asked& a, expectation& v) const
    {
        const auto d = decode(a);
        if (!d.well_formed) {
            v.refuse(refusal::invalid);
            return;
        }
        bool hidden = false;
        const auto* const e = find(d.name, hidden);
        if (may_fail_)
            for (const auto type : {refusal::policy, refusal::platform, refusal::unknown})
                v.errors.set(type);
        const bool selective = served_.mode == tls::selective && !secured_;
        // A client that may not use an export is told what it is told of an unknown one.
        if (may_fail_ && selective && !is_meta(a.what))
            v.errors.set(refusal::tls_reqd);
        if (e == nullptr) {
            // Unknown exports are refused like hidden ones, so that names cannot be guessed. Only
            // INFO and GO may get TLS_REQD, and only if there is TLS.
            if (is_meta(a.what))
                v.refuse(refusal::unknown);
            else if (selective)
                v.refuse(refusal::tls_reqd);
            else
                v.refuse(hidden ? refusal::policy : refusal::unknown);
            return;
        }
        const bool asks = std::find(d.infos.begin(), d.infos.end(), 3U) != d.infos.end();
        if (!is_meta(a.what) && e->require_block_sizes && !e->default_blocks() && !asks)
            v.refuse(refusal::block_size_reqd);
    }
    void expect_export_name(const asked& a, expectation& v) const
    {
        const std::string_view name{reinterpret_cast<const char*>(a.data.data()), a.data.size()};
        bool hidden = false;
        const auto* const e = find(name, hidden);
        v.must_close = e == nullptr || extended() || !is_string(name) || a.length > 4096
            || (served_.mode == tls::forced && !secured_)
            || (e->require_block_sizes && !e->default_blocks());
        v.may_succeed = !v.must_close;
    }

    // --- what the server sends ------------------------------------------------------------------

    bool parse_answer()
    {
        if (transmits_)
            return false;
        const auto rest = from_server_.rest();
        if (!greeted_) {
            if (rest.size() < 18)
                return false;
            fields in{from_server_.take(18)};
            require(in.u64() == 0x4e42444d41474943U && in.u64() == 0x49484156454f5054U
                        && in.u16() == 3,
                    "the greeting is wrong");
            greeted_ = true;
            return true;
        }
        if (rest.empty())
            return false;
        require(!options_.empty(), "an answer to no option");
        auto& a = options_.front();
        require(!a.must_close, "an answer to an option beyond the limit of the handshake");
        if (a.what == option::export_name)
            return parse_export_name(a, rest);
        if (rest.size() < 20)
            return false;
        fields in{rest.first(20)};
        require(in.u64() == 0x0003e889045565a9U, "the magic of an option reply is wrong");
        require(in.u32() == static_cast<std::uint32_t>(a.what), "the reply to another option");
        const auto type = in.u32();
        const auto length = in.u32();
        require(length <= 8192 + 8, "an option reply is too long");
        if (rest.size() - 20 < length)
            return false;
        from_server_.take(20);
        parse_reply(a, type, fields{from_server_.take(length)});
        return true;
    }

    bool parse_export_name(const asked& a, octets rest)
    {
        const std::size_t length = (flags_ & 2) != 0 ? 10 : 10 + 124;
        if (rest.size() < length)
            return false;
        const auto v = expected(a);
        require(v.may_succeed, "EXPORT_NAME succeeds and must be refused");
        fields in{from_server_.take(length)};
        const auto size = in.u64();
        const auto flags = in.u16();
        const auto padding = in.take(in.left());
        require(std::all_of(padding.begin(), padding.end(),
                            [](std::byte b) { return b == std::byte{0}; }),
                "the padding is not zero");
        bool hidden = false;
        begin(*find({reinterpret_cast<const char*>(a.data.data()), a.data.size()}, hidden), size,
              flags);
        options_.pop_front();
        ++answered_;
        return false;
    }

    void parse_reply(asked& a, std::uint32_t type, fields in)
    {
        if ((type & 0x80000000U) != 0) {
            parse_error(a, type & 0x7fffffffU, in);
            return;
        }
        switch (type) {
        case 1:
            require(in.left() == 0, "an ACK with data");
            acknowledge(a);
            return;
        case 2: {
            require(a.what == option::list, "SERVER in reply to another option than LIST");
            const auto name = in.text(in.u32());
            const auto description = in.text(in.left());
            require(is_string(name) && is_string(description), "a name that is no string");
            const auto visible = listed();
            const auto at = a.names.size();
            require(at < visible.size() && visible[at]->name == name
                        && visible[at]->description == description,
                    "LIST names another export");
            a.names.emplace_back(name);
            return;
        }
        case 3:
            parse_info(a, in);
            return;
        case 4: {
            require(is_meta(a.what), "META_CONTEXT in reply to another option");
            const auto id = in.u32();
            a.names.emplace_back(in.text(in.left()));
            require(a.what == option::set_meta_context || id == 0, "LIST with an id");
            require(a.what == option::list_meta_context
                        || std::find(a.ids.begin(), a.ids.end(), id) == a.ids.end(),
                    "an id twice");
            a.ids.push_back(id);
            return;
        }
        default:
            throw difference{"an unknown type of option reply"};
        }
    }
    void parse_error(asked& a, std::uint32_t type, fields in)
    {
        require(type < 16, "an unknown error");
        require(is_string(in.text(in.left())), "the text of an error is no string");
        const auto v = expected(a);
        if (!v.errors[type])
            throw difference{"the error " + std::to_string(type) + " in reply to option "
                             + std::to_string(static_cast<unsigned>(a.what)) + " has no cause"};
        if (type == refusal::block_size_reqd)
            require(!a.infos[0], "INFO_EXPORT before an error");
        else
            require((a.names.empty() && a.infos.none()) || type == refusal::shutdown
                        || (a.what == option::list && may_fail_),
                    "information before an error");
        if (a.what == option::set_meta_context)
            selected_.clear();  // also where it fails
        answered(a);
    }
    std::vector<const served_export*> listed() const
    {
        std::vector<const served_export*> all;
        for (const auto& e : served_.exports)
            if (!e.unlisted && (!e.tls_only || secured_) && all.size() < served_.most_listed)
                all.push_back(&e);
        return all;
    }

    void parse_info(asked& a, fields in)
    {
        require(a.what == option::info || a.what == option::go, "INFO for another option");
        const auto d = decode(a);
        bool hidden = false;
        const auto* const e = find(d.name, hidden);
        require(d.well_formed && e != nullptr, "information about an export that there is not");
        const unsigned type = in.u16();
        require(type <= 3, "an unknown information");
        require(!a.infos[type], "an information twice");
        a.infos.set(type);
        const bool wanted = std::find(d.infos.begin(), d.infos.end(), type) != d.infos.end();
        switch (type) {
        case 0:
            require(in.left() == 10, "INFO_EXPORT has the wrong length");
            a.size = in.u64();
            a.flags = in.u16();
            return;
        case 1:
            require(in.text(in.left()) == e->name && wanted, "INFO_NAME is wrong");
            return;
        case 2:
            require(in.text(in.left()) == e->description && wanted, "INFO_DESCRIPTION is wrong");
            return;
        default:
            require(in.left() == 12 && in.u32() == e->minimum_block
                        && in.u32() == e->preferred_block && in.u32() == e->maximum_payload,
                    "INFO_BLOCK_SIZE is wrong");
        }
    }

    void acknowledge(asked& a)
    {
        const auto v = expected(a);
        require(v.may_succeed, "an option succeeds that must be refused");
        switch (a.what) {
        case option::abort:
            finished_ = true;
            break;
        case option::list:
            require(a.names.size() == listed().size(), "LIST leaves out an export");
            break;
        case option::starttls:
            starts_tls_ = true;
            break;
        case option::structured_reply:
            form_ = reply_form::structured;
            break;
        case option::extended_headers:
            form_ = reply_form::extended;
            break;
        case option::info:
        case option::go: {
            const auto d = decode(a);
            bool hidden = false;
            const auto& e = *find(d.name, hidden);
            require(a.infos[0], "no INFO_EXPORT");
            require(!std::count(d.infos.begin(), d.infos.end(), 3U) || a.infos[3],
                    "no INFO_BLOCK_SIZE, which was asked for");
            check_flags(e, a.size, a.flags);
            if (a.what == option::go)
                begin(e, a.size, a.flags);
            break;
        }
        default:
            acknowledge_contexts(a);
        }
        answered(a);
    }
    void acknowledge_contexts(const asked& a)
    {
        require(is_meta(a.what), "an option succeeds that there is not");
        const auto d = decode(a);
        bool hidden = false;
        const auto& e = *find(d.name, hidden);
        const bool lists = a.what == option::list_meta_context;
        std::vector<std::string> wanted;
        for (const auto& c : e.contexts) {
            const bool selected = (lists && d.queries.empty())
                || std::any_of(d.queries.begin(), d.queries.end(),
                               [&](auto q) { return query_selects(q, c.name, lists); });
            if (selected && (!c.wide || extended()))
                wanted.push_back(c.name);
        }
        require(std::is_permutation(wanted.begin(), wanted.end(), a.names.begin(), a.names.end()),
                "other contexts than the queries select");
        if (lists)
            return;
        selected_.clear();
        selected_for_ = e.name;
        for (std::size_t i = 0; i < a.names.size(); ++i)
            selected_.push_back({a.ids[i], a.names[i] == "base:allocation"});
    }
    void answered(const asked&)
    {
        options_.pop_front();
        ++answered_;
        waits_ = false;
        while (parse_option())
            ;
    }

    /// "Transmission flags".
    void check_flags(const served_export& e, std::uint64_t size, unsigned flags) const
    {
        namespace tf = transmission_flag;
        const auto has = [flags](unsigned f) { return (flags & f) != 0; };
        require(size == e.size, "the size is wrong");
        require(has(tf::has_flags), "HAS_FLAGS is not set");
        require(has(tf::df) == (form_ != reply_form::simple), "SEND_DF is wrong");
        require(!has(tf::fast_zero) || has(tf::write_zeroes), "FAST_ZERO without WRITE_ZEROES");
        require(!has(tf::read_only)
                    || !has(tf::trim | tf::write_zeroes | tf::fua | tf::fast_zero | tf::resize),
                "a read-only export that can be written");
        require(has(tf::status_payload)
                    == (extended() && !selected_.empty() && selected_for_ == e.name),
                "BLOCK_STATUS_PAYLOAD is wrong");
        require(flags < 0x2000, "an unknown transmission flag");
    }
    void begin(const served_export& e, std::uint64_t size, unsigned flags)
    {
        check_flags(e, size, flags);
        transmits_ = true;
        agreed_export_ = e.name;
        agreed_ = {.size = size,
                   .flags = flags,
                   .minimum_block = e.minimum_block,
                   .maximum_payload = e.maximum_payload,
                   .form = form_};
        if (form_ != reply_form::simple && selected_for_ == e.name)
            agreed_.contexts = selected_;
    }

    const served& served_;
    pending from_client_;
    pending from_server_;
    std::deque<asked> options_;
    std::uint32_t flags_ = 0;
    bool has_flags_ = false;
    bool greeted_ = false;
    bool secured_ = false;
    bool stopping_ = false;
    bool client_over_ = false;
    bool may_fail_ = false;
    bool calls_program_ = false;
    bool waits_ = false;     ///< an option is not answered
    bool finished_ = false;  ///< the server must close, or has to
    bool transmits_ = false;
    bool starts_tls_ = false;
    bool may_close_ = false;  ///< instead of receiving the rest of an option
    std::size_t seen_ = 0;
    std::uint64_t data_seen_ = 0;
    std::size_t answered_ = 0;
    reply_form form_ = reply_form::simple;
    std::vector<context> selected_;
    std::string selected_for_;
    terms agreed_;
    std::string agreed_export_;
};

}  // namespace nbd_model
