// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/tls/context.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <memory>
#include <mutex>
#include <system_error>
#include <utility>

namespace nbd {

/// The credentials of nbd::tls_transport: a certificate, pre-shared keys, or both. A copy is the
/// same credentials: keep one to reload them while the server runs.
///
///     nbd::tls_credentials credentials{{.certificates = "/etc/pki/nbd"}};
///
/// The files with secrets, `server-key.pem` and that of the pre-shared keys, must belong to the
/// user of this process or to root. Others must have no access, except that a group may read a file
/// that belongs to root.
/// *Thread safety*: any thread.
class tls_credentials {
public:
    /// No credentials, for tls_mode::none.
    tls_credentials() = default;
    /// *Errors*: std::system_error, whose text names the file and says what was expected.
    explicit tls_credentials(tls_files files)
    {
        failure why;
        *this = tls_credentials{std::move(files), why};
        if (why)
            throw std::system_error{why.code, "nbd: " + why.text};
    }
    /// As above, with the error in `why`; there are no credentials then.
    tls_credentials(tls_files files, failure& why)
    {
        auto loaded = tls::context::load(files, why);
        if (loaded)
            shared_ = std::make_shared<shared>(std::move(files), std::move(loaded));
    }

    /// Loads the files again. Clients that start TLS later get what they contain now; the others
    /// stay connected. After an error nothing has changed.
    [[nodiscard]] failure reload()
    {
        failure why;
        if (!shared_)
            return why;
        auto loaded = tls::context::load(shared_->files, why);
        if (loaded) {
            const std::lock_guard lock{shared_->mutex};
            shared_->current.swap(loaded);  // the previous one is released after the unlock
        }
        return why;
    }

    [[nodiscard]] explicit operator bool() const noexcept { return shared_ != nullptr; }

    // --- for nbd::tls_transport -----------------------------------------------------------------

    /// Requires that there are credentials.
    [[nodiscard]] std::shared_ptr<const tls::context> current() const
    {
        const std::lock_guard lock{shared_->mutex};
        return shared_->current;
    }

private:
    struct shared {
        shared(tls_files f, std::shared_ptr<const tls::context> loaded)
            : files{std::move(f)}, current{std::move(loaded)}
        {
        }
        const tls_files files;
        std::mutex mutex;
        std::shared_ptr<const tls::context> current;
    };

    std::shared_ptr<shared> shared_;
};

}  // namespace nbd
