# SPDX-License-Identifier: MIT
"""nbd-client -l: the list of exports. (tests/kernel tests devices.)"""
from support import *

NBD_CLIENT = require_tool("nbd-client", "nbd-client")


def exports_listed(*arguments):
    said = run(NBD_CLIENT, "-l", *arguments).stdout
    return [line for line in said.splitlines() if line and not line.startswith("Negotiation")]


@for_each(POLICIES)
def test_list_over_tcp(policy):
    with serve("mem:1M", "--name", "disk", "--description", "a small disk", policy=policy, transport="tcp") as server:
        host, port = server.address
        assert exports_listed(host, str(port)) == ["disk: a small disk"]


@for_each(POLICIES)
def test_list_over_unix(policy):
    with serve("mem:1M", "--name", "disk", "--description", "a small disk", policy=policy) as server:
        assert exports_listed("-unix", server.socket_path) == ["disk: a small disk"]


run_cases(globals())
