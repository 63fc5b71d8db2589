// SPDX-License-Identifier: MIT
// A client of the haggler without any socket: bytes in, reply bytes and the verdict out.
#pragma once

#include "support/bytes.hpp"
#include <nbd/handshake/haggler.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd_test {

/// Plays the session: hands over exactly what the haggler wants and carries out its verdicts on a
/// list of exports. The empty name asks for the first of them.
class haggling {
public:
    using verdict = nbd::handshake::verdict;
    struct entry {
        std::string name;
        std::string description;
        nbd::protocol::export_terms terms;
    };

    explicit haggling(nbd::settings limits = {}, std::vector<entry> exports = default_exports())
        : limits_{std::move(limits)}, exports_{std::move(exports)}, haggler_{limits_}
    {
    }
    haggling(const haggling&) = delete;
    haggling& operator=(const haggling&) = delete;

    /// With greeting and client flags done and the replies to them forgotten.
    haggling& begun(std::uint32_t flags = 3)
    {
        say(client_flags(flags));
        heard();
        return *this;
    }

    /// What the client sends, in steps of `wants()`. What is not yet enough for one is kept, and what
    /// comes after the last word is not taken.
    verdict say(const bytes& more)
    {
        pending_.insert(pending_.end(), more.begin(), more.end());
        while (!over() && pending_.size() >= haggler_.wants()) {
            const auto n = static_cast<std::ptrdiff_t>(haggler_.wants());
            longest_step_ = std::max(longest_step_, haggler_.wants());
            const bytes step(pending_.begin(), pending_.begin() + n);
            pending_.erase(pending_.begin(), pending_.begin() + n);
            last_ = carry_out(haggler_.take(step));
        }
        return last_;
    }

    /// What the server has said since the last time.
    bytes heard() { return std::exchange(haggler_.reply(), {}); }

    /// Says it and gives what is answered, for comparing.
    std::string answer(const bytes& more)
    {
        heard();
        say(more);
        return shown(heard());
    }
    std::string answer(std::uint32_t number, const bytes& data = {})
    {
        return answer(option(number, data));
    }
    /// The type of the one option reply that answers it; nothing if it is not one.
    std::optional<std::uint32_t> answer_type(const bytes& more)
    {
        heard();
        say(more);
        const auto all = heard();
        if (all.size() < 20 || all.size() != 20 + nbd::protocol::load<std::uint32_t>(at(all, 16)))
            return std::nullopt;
        return nbd::protocol::load<std::uint32_t>(at(all, 12));
    }

    /// Whether options are still understood: an unknown one without data is answered as it must be.
    bool in_step() { return answer_type(option(0x4711)) == 0x80000001 && !over(); }

    bool over() const { return last_ == verdict::hang_up || last_ == verdict::transmit; }
    std::error_code ended() const { return haggler_.ended(); }
    std::size_t longest_step() const { return longest_step_; }
    std::size_t opens() const { return opens_; }
    nbd::handshake::haggler& haggler() { return haggler_; }
    /// What `open` gives from now on instead of an export.
    void refuse_with(std::error_code why) { refusal_ = why; }

    static std::vector<entry> default_exports()
    {
        using namespace nbd::protocol::transmission_flag;
        return {
            {"disk", "A disk", {.size = 0x100000, .flags = has_flags | send_flush, .blocks = {}}},
            {"other",
             "\xc3\x84",
             {.size = 512, .flags = has_flags | read_only, .blocks = {512, 4096, 1 << 20}}}};
    }

private:
    static std::span<const std::byte> at(const bytes& all, std::size_t n)
    {
        return std::span{all}.subspan(n);
    }

    verdict carry_out(verdict v)
    {
        if (v == verdict::list) {
            for (const auto& e : exports_)
                haggler_.list(e.name, e.description);
            return haggler_.listed();
        }
        if (v == verdict::open) {
            ++opens_;
            if (refusal_)
                return haggler_.refused(refusal_);
            for (const auto& e : exports_) {
                if (haggler_.asked_name() == e.name || haggler_.asked_name().empty())
                    return haggler_.opened({e.name, e.description, e.terms});
            }
            return haggler_.refused(nbd::errc::unknown_export);
        }
        return v;
    }

    nbd::settings limits_;
    std::vector<entry> exports_;
    nbd::handshake::haggler haggler_;
    bytes pending_;
    verdict last_ = verdict::more;
    std::size_t longest_step_ = 0;
    std::size_t opens_ = 0;
    std::error_code refusal_;
};

}  // namespace nbd_test
