# SPDX-License-Identifier: MIT
"""libnbd: each option of the handshake, with and without each handshake flag."""
import errno

from support import *

nbd = require_libnbd()

FIXED, NO_ZEROES = nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_NO_ZEROES
DISK = ("mem:1M", "--name", "disk", "--description", "a small disk")


def assert_works(h):
    assert h.get_size() == M
    h.pwrite(b"0123456789", M - 10)
    assert h.pread(10, M - 10) == b"0123456789"


def negotiator(server):
    """A connection that stays in the handshake until the test ends it."""
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.connect_uri(server.uri)
    assert h.aio_is_negotiating()
    return h


def assert_unknown_export(action):
    try:
        action()
    except nbd.Error as error:
        assert error.errnum == errno.ENOENT, error
    else:
        raise AssertionError("an export that does not exist was opened")


@for_each([(*spot, flags) for spot in GRID for flags in (0, NO_ZEROES, FIXED, FIXED | NO_ZEROES)])
def test_handshake_flags(policy, transport, flags):
    """Without FIXED, libnbd uses EXPORT_NAME. Without NO_ZEROES, its reply ends with 124 zeroes."""
    with serve(*DISK, policy=policy, transport=transport) as server:
        for name in ("disk", ""):
            h = nbd.NBD()
            h.set_handshake_flags(flags)
            h.connect_uri(server.uri_of(name))
            assert h.get_handshake_flags() == flags
            assert h.get_protocol() == ("newstyle-fixed" if flags & FIXED else "newstyle")
            assert_works(h)
            h.shutdown()


@for_each([0, NO_ZEROES, FIXED, FIXED | NO_ZEROES])
def test_unknown_export(flags):
    with serve(*DISK) as server:
        for name in ("Disk", "disk\t", "d", "x" * 4096):
            h = nbd.NBD()
            h.set_handshake_flags(flags)
            try:
                h.connect_uri(server.uri_of(name))
            except nbd.Error:
                pass
            else:
                raise AssertionError("connected to an export that does not exist")
        h = nbd.NBD()
        h.connect_uri(server.uri)
        assert_works(h)


@for_each(GRID)
def test_list_info_go(policy, transport):
    with serve(*DISK, policy=policy, transport=transport) as server:
        h = negotiator(server)
        listed = []
        for _ in range(3):
            listed.clear()
            assert h.opt_list(lambda name, description: listed.append((name, description))) == 1
            assert listed == [("disk", "a small disk")]
        h.set_export_name("nothing")
        assert_unknown_export(h.opt_info)
        assert_unknown_export(h.opt_go)
        h.set_full_info(True)
        for name in ("", "disk"):
            h.set_export_name(name)
            h.opt_info()
            assert h.get_size() == M
            assert h.get_canonical_export_name() == "disk"
            assert h.get_export_description() == "a small disk"
            assert not h.is_read_only()
        assert h.aio_is_negotiating()
        h.opt_go()
        assert h.aio_is_ready()
        assert_works(h)
        h.shutdown()


def test_description_is_the_name_by_default():
    with serve("mem:1M", "--name", "disk") as server:
        h = nbd.NBD()
        h.set_full_info(True)
        h.connect_uri(server.uri)
        assert h.get_export_description() == "disk"
        assert h.get_canonical_export_name() == "disk"


def test_many_options_before_go():
    with serve(*DISK) as server:
        h = negotiator(server)
        for _ in range(10):
            h.opt_info()
            h.opt_list(lambda name, description: 0)
            h.set_export_name("nothing")
            assert_unknown_export(h.opt_info)
            h.set_export_name("disk")
        h.opt_go()
        assert_works(h)


@for_each(GRID)
def test_abort(policy, transport):
    with serve(*DISK, policy=policy, transport=transport) as server:
        for with_info in (False, True):
            h = negotiator(server)
            if with_info:
                h.opt_info()
            h.opt_abort()
            assert h.aio_is_closed()
        h = negotiator(server)
        h.opt_go()
        assert_works(h)


def test_without_block_size_information():
    """A client that does not ask for block sizes may use a disk with the default ones."""
    with serve(*DISK) as server:
        h = nbd.NBD()
        h.set_request_block_size(False)
        h.connect_uri(server.uri)
        assert_works(h)


@for_each([("1:512:1M", (1, 512, M)), ("512:4096:32M", (512, 4 * K, 32 * M)), ("64K:1M:32M", (64 * K, M, 32 * M)),
           ("1:4096:5000001", (1, 4 * K, 5_000_001)), (None, (1, 4 * K, 32 * M))])
def test_block_sizes(written, sizes):
    with serve(*DISK, *(["--block-size", written] if written else [])) as server:
        h = nbd.NBD()
        h.connect_uri(server.uri)
        said = [h.get_block_size(which) for which in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
        # A server need not send the default sizes; libnbd reports 0 then.
        assert said == list(sizes) or (not written and said == [0, 0, 0]), said


@for_each([False, True])
def test_structured_replies_or_not(requested):
    with serve(*DISK) as server:
        h = nbd.NBD()
        h.set_request_structured_replies(requested)
        h.connect_uri(server.uri)
        assert requested or not h.get_structured_replies_negotiated()
        assert_works(h)


def test_meta_contexts_requested():
    """The connection works, whether the server has the contexts or not."""
    with serve(*DISK) as server:
        h = nbd.NBD()
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        h.add_meta_context("x-nothing:of-the-kind")
        h.connect_uri(server.uri)
        assert not h.can_meta_context("x-nothing:of-the-kind")
        assert_works(h)


def test_options_of_newer_clients():
    """Each is granted or refused, and the handshake continues."""
    with serve(*DISK) as server:
        h = negotiator(server)
        for option in ("opt_starttls", "opt_extended_headers", "opt_structured_reply"):
            if hasattr(h, option):
                with contextlib.suppress(nbd.Error):
                    granted = getattr(h, option)()
                    assert not (granted and option == "opt_starttls"), "TLS without a certificate"
        with contextlib.suppress(nbd.Error):
            h.opt_list_meta_context(lambda name: 0)
        h.opt_go()
        assert_works(h)


def test_tls_requested_and_required():
    if not nbd.NBD().supports_tls():
        raise Skip("this libnbd has no TLS")
    with serve(*DISK, transport="tcp") as server:
        h = nbd.NBD()
        h.set_tls(nbd.TLS_ALLOW)
        h.connect_uri(server.uri)
        assert not h.get_tls_negotiated()
        assert_works(h)
        h = nbd.NBD()
        h.set_tls(nbd.TLS_REQUIRE)
        try:
            h.connect_tcp(*map(str, server.address))
        except nbd.Error:
            pass
        else:
            raise AssertionError("TLS was negotiated with a server that has none")


run_cases(globals())
