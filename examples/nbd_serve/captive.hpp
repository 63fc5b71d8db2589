// SPDX-License-Identifier: MIT
// The command of nbd-serve --run: it is started when the server listens, and its end ends the
// server.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

/// A new folder that only this user can enter. It is removed with its files.
class private_folder {
public:
    private_folder()
    {
        const char* const parent = std::getenv("TMPDIR");
        path_ = parent != nullptr && *parent != '\0' ? parent : "/tmp";
        path_ += "/nbd-serve-XXXXXX";
        if (::mkdtemp(path_.data()) == nullptr)
            throw std::runtime_error{"--run: " + path_ + ": " + std::strerror(errno)};
    }
    private_folder(const private_folder&) = delete;
    private_folder& operator=(const private_folder&) = delete;
    ~private_folder()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

private:
    std::string path_;
};

/// *Returns* the variables of the command, which are those of nbdkit.
inline std::vector<std::pair<std::string, std::string>>
variables_for(const std::string& uri, const std::string& unix_socket, const std::string& name)
{
    const bool is_file = !unix_socket.empty() && unix_socket.front() != '@';
    return {{"uri", uri},
            {"nbd", uri},
            {"unixsocket", is_file ? std::filesystem::absolute(unix_socket).string() : unix_socket},
            {"exportname", name}};
}

/// Runs `sh -c COMMAND`.
///
/// It has a process group of its own, so that signals reach all processes of the command. Where
/// stdin is a terminal it stays in ours, so that it can read from there and Ctrl-C reaches it.
class captive_command {
public:
    using variables = std::vector<std::pair<std::string, std::string>>;

    explicit captive_command(boost::asio::io_context& program)
        : children_{program, SIGCHLD}, patience_{program}
    {
    }
    captive_command(const captive_command&) = delete;
    captive_command& operator=(const captive_command&) = delete;
    ~captive_command()
    {
        if (running())
            signal(SIGKILL);
    }

    /// `set`: what is added to the environment. `ended` is called on the context.
    /// *Errors*: std::runtime_error.
    void start(const std::string& command, const variables& set, std::function<void()> ended)
    {
        ended_ = std::move(ended);
        std::vector<std::string> texts;
        for (const auto& [name, value] : set)
            texts.push_back(name + '=' + value);
        for (char** text = environ; *text != nullptr; ++text)
            if (!replaced(*text, set))
                texts.emplace_back(*text);
        std::vector<char*> environment;
        for (auto& text : texts)
            environment.push_back(text.data());
        environment.push_back(nullptr);
        std::string arguments[] = {"sh", "-c", command};
        char* const words[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                               nullptr};

        await_end();
        // The signals that this program ignores are not to be ignored by the command.
        ::sigset_t none;
        ::sigset_t ignored;
        sigemptyset(&none);
        sigemptyset(&ignored);
        sigaddset(&ignored, SIGPIPE);
        sigaddset(&ignored, SIGXFSZ);
        own_group_ = ::isatty(STDIN_FILENO) == 0;
        ::posix_spawnattr_t how;
        ::posix_spawnattr_init(&how);
        ::posix_spawnattr_setsigmask(&how, &none);
        ::posix_spawnattr_setsigdefault(&how, &ignored);
        ::posix_spawnattr_setpgroup(&how, 0);
        ::posix_spawnattr_setflags(&how,
                                   static_cast<short>(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF
                                                      | (own_group_ ? POSIX_SPAWN_SETPGROUP : 0)));
        const int failed =
            ::posix_spawn(&child_, "/bin/sh", nullptr, &how, words, environment.data());
        ::posix_spawnattr_destroy(&how);
        if (failed != 0) {
            child_ = -1;
            throw std::runtime_error{std::string{"--run: /bin/sh: "} + std::strerror(failed)};
        }
    }

    /// Passes a signal on, so that the command ends. A second one, or ten seconds without an end,
    /// kills it.
    void end(int number)
    {
        if (!running())
            return;
        signal(std::exchange(ending_, true) ? SIGKILL : number);
        patience_.expires_after(std::chrono::seconds{10});
        patience_.async_wait([this](const boost::system::error_code& cancelled) {
            if (!cancelled && running())
                signal(SIGKILL);
        });
    }

    /// The exit status of the command, or 128 and the number of the signal that has killed it.
    [[nodiscard]] int status() const noexcept
    {
        return WIFSIGNALED(status_) ? 128 + WTERMSIG(status_) : WEXITSTATUS(status_);
    }

private:
    [[nodiscard]] bool running() const noexcept { return child_ > 0; }
    void signal(int number) const { ::kill(own_group_ ? -child_ : child_, number); }

    /// NOTIFY_SOCKET is for this program alone.
    [[nodiscard]] static bool replaced(std::string_view text, const variables& set)
    {
        const auto name = text.substr(0, text.find('='));
        bool found = name == "NOTIFY_SOCKET";
        for (const auto& variable : set)
            found = found || variable.first == name;
        return found;
    }
    void await_end()
    {
        children_.async_wait([this](const boost::system::error_code& cancelled, int) {
            if (cancelled)
                return;
            if (::waitpid(child_, &status_, WNOHANG) != child_)
                return await_end();
            child_ = -1;
            patience_.cancel();
            if (WIFSIGNALED(status_))
                std::cerr << "nbd-serve: --run: the command was killed by signal "
                          << WTERMSIG(status_) << '\n';
            ended_();
        });
    }

    boost::asio::signal_set children_;
    boost::asio::steady_timer patience_;
    std::function<void()> ended_;
    ::pid_t child_ = -1;
    int status_ = 0;
    bool own_group_ = false;
    bool ending_ = false;
};
