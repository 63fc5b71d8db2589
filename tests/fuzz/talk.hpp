// SPDX-License-Identifier: MIT
// What the tests of both models say to a model. `Talk` derives from it, and has the member `model`.
#pragma once

#include "fuzz/model_wire.hpp"
#include "support/bytes.hpp"

template <class Talk>
struct talk_with_model {
    Talk& asks(const nbd_test::bytes& more)
    {
        self().model.client_sent(more);
        return self();
    }
    Talk& hears(const nbd_test::bytes& more)
    {
        self().model.server_sent(more);
        return self();
    }
    /// Whether the answer is refused, at once or because something is missing at the end.
    bool refuses(const nbd_test::bytes& answer)
    {
        try {
            hears(answer);
            self().model.client_ended();
            self().model.ended(true);
        } catch (const nbd_model::difference&) {
            return true;
        }
        return false;
    }

private:
    Talk& self() { return static_cast<Talk&>(*this); }
};
