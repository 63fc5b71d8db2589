// SPDX-License-Identifier: MIT
// nbd-serve under a service manager: the sockets that it passes, and what it is told.
#pragma once

#include "arguments.hpp"

#include <string_view>
#include <vector>

/// *Returns* the sockets of the service manager; none if there is none. `demanded`:
/// --socket-activation. `instead`: another option that says where to listen; null: none was given.
/// *Errors*: usage_error.
std::vector<passed_socket> take_sockets(bool demanded, const char* instead);

/// Tells the service manager a state, if there is one; an error is a line on stderr.
void tell_service_manager(std::string_view state);
