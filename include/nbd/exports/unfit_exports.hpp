// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/presence.hpp>
#include <nbd/settings.hpp>

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <vector>

namespace nbd::exports {

/// Is made from anything and converts to anything, in programs that do not compile.
struct anything {
    anything() = default;
    template <class T>
    anything(const T&)
    {
    }
    template <class T>
    operator T() const
    {
        throw *this;
    }
};

/// Whether these may be the first arguments of export_set::add and emplace.
template <class... Args>
inline constexpr bool fit_add = false;
template <class Name, class Backend>
inline constexpr bool fit_add<Name, Backend> =
    std::convertible_to<Name, std::string> && !std::convertible_to<Backend, export_settings>;
template <class Name, class Backend, class Settings>
inline constexpr bool fit_add<Name, Backend, Settings> =
    fit_add<Name, Backend> && std::convertible_to<Settings, export_settings>;

template <class... Args>
inline constexpr bool fit_emplace = false;
template <class Name, class Settings, class... Args>
inline constexpr bool fit_emplace<Name, Settings, Args...> =
    std::convertible_to<Name, std::string> && std::convertible_to<Settings, export_settings>;

/// The exports of a backend that cannot be served. It has the members of export_set, so that the
/// compiler prints nothing but the reason.
template <class Backend>
class unfit_exports {
public:
    using backend_type = Backend;
    using backend_pointer = std::shared_ptr<std::remove_const_t<std::remove_reference_t<Backend>>>;

    template <class... Args>
    backend_pointer add(const Args&...)
    {
        return {};
    }
    template <class Object>
    backend_pointer add(std::string, const Object&, export_settings)
    {
        return {};
    }
    template <class... Args>
    backend_pointer emplace(std::string, export_settings, Args&&...)
    {
        return {};
    }
    bool remove(std::string_view, const removal& = {}) { return false; }
    bool set_description(std::string_view, std::optional<std::string>) { return false; }
    bool set_read_only(std::string_view, bool) { return false; }
    backend_pointer find(std::string_view) const { return {}; }
    bool contains(std::string_view) const { return false; }
    template <class F>
    void on_lookup(const F&)
    {
    }
    template <class F>
    void on_list(const F&)
    {
    }
    std::error_code resize(std::string_view, std::uint64_t) { return {}; }
    template <class Executor, class Token>
    anything async_resize(const Executor&, std::string_view, std::uint64_t, Token&&)
    {
        return {};
    }
    template <class Name>
    void set_default(const Name&)
    {
    }
    std::vector<std::string> names() const { return {}; }
};

}  // namespace nbd::exports
