// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/permission.hpp>

#include <algorithm>
#include <concepts>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>

namespace nbd {

/// A rule for server_options::authorise: a value that decides what a client may do, and says why.
/// Rules are combined:
///
///     a && b    the lesser of both: refused, read-only, full
///     a || b    the greater of both
///     !a        refuses whom `a` lets in, also to read only; lets in the others
///
/// `b` is not asked where `a` decides.
/// *Thread safety*: constant members from any thread, if that holds for functions of the program.
/// *Cost*: a call allocates memory for the reason.
class access_rule {
public:
    /// A function of the program that returns bool, nbd::permission or nbd::decision. It is not
    /// awaited: an awaited function can call a rule.
    template <class F>
        requires(!std::same_as<std::remove_cvref_t<F>, access_rule>
                 && std::is_invocable_r_v<decision, F&, const client&>)
    access_rule(F f) : decide_{std::move(f)}
    {
    }

    [[nodiscard]] decision operator()(const client& who) const
    {
        auto made = decide_(who);
        if (made.reason.empty())
            made.reason =
                made.allowed == permission::refused ? "a function refuses" : "a function agrees";
        return made;
    }

    [[nodiscard]] friend access_rule operator&&(access_rule a, access_rule b)
    {
        return [a = std::move(a), b = std::move(b)](const client& who) {
            auto first = a(who);
            if (first.allowed == permission::refused)
                return first;
            auto second = b(who);
            if (second.allowed == permission::refused)
                return second;
            return decision{std::min(first.allowed, second.allowed), both(first, second)};
        };
    }
    [[nodiscard]] friend access_rule operator||(access_rule a, access_rule b)
    {
        return [a = std::move(a), b = std::move(b)](const client& who) {
            auto first = a(who);
            if (first.allowed == permission::full)
                return first;
            auto second = b(who);
            if (first.allowed == second.allowed)
                second.reason = both(first, second);
            return first.allowed > second.allowed ? first : second;
        };
    }
    [[nodiscard]] friend access_rule operator!(access_rule a)
    {
        return [a = std::move(a)](const client& who) {
            auto made = a(who);
            made.allowed =
                made.allowed == permission::refused ? permission::full : permission::refused;
            return made;
        };
    }

private:
    static std::string both(const decision& a, const decision& b)
    {
        return a.reason + " and " + b.reason;
    }

    std::function<decision(const client&)> decide_;
};

}  // namespace nbd
