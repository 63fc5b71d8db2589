# SPDX-License-Identifier: MIT
"""Option negotiation: O01 to O33, T01, T02 and points 17 to 46."""
import struct
import time

import wire
from harness import DESCRIPTION, NAME, SLOWER, Skip, case, eventually, scaled
from wire import (ABORT, ACK, ERR_BLOCK_SIZE_REQD, ERR_INVALID, ERR_PLATFORM, ERR_POLICY, ERR_TLS_REQD, ERR_TOO_BIG,
                  ERR_UNKNOWN, ERR_UNSUP, EINVAL, EXPORT_NAME, EXTENDED_HEADERS, GO, IHAVEOPT, INFO, INFO_BLOCK_SIZE,
                  INFO_DESCRIPTION, INFO_EXPORT, INFO_NAME, KIB, LIST, LIST_META, MIB, OPTION_REPLY, PEEK_EXPORT, READ,
                  REP_INFO, REP_SERVER, SET_META, STARTTLS, STRUCTURED_REPLY, Dropped, Failure, info_data, meta_data,
                  pack_option, pack_request)

OPTION_CAP = 64 * KIB
HANDSHAKE_BUDGET = 1 * MIB


# -- option frames ----------------------------------------------------------------------------------------------------

def wrong_magic(t, magic):
    client = t.hs()
    client.option(LIST, magic=magic)
    t.drop(client)


@case()
def O01_random_option_magic(t):
    """A wrong option magic cannot be answered: drop."""
    wrong_magic(t, 0x0123456789ABCDEF)


@case()
def O01_reply_magic_as_option_magic(t):
    """The option reply's magic from a client: drop."""
    wrong_magic(t, OPTION_REPLY)


@case()
def O01_option_magic_one_letter_off(t):
    """IHAVEOPS: drop."""
    wrong_magic(t, IHAVEOPT ^ 7)


@case()
def O01_each_flipped_bit_of_the_option_magic(t):
    """Any single bit of the option magic flipped: drop."""
    for bit in range(0, 64, 3):
        client = t.hs()
        client.option(LIST, magic=IHAVEOPT ^ (1 << bit))
        t.drop(client, what="a drop with bit %d flipped" % bit)
        client.close()


def unknown(t, number, data=b""):
    client = t.hs()
    t.equal(client.final(number, data), ERR_UNSUP, "option %#x" % number)
    t.sync_options(client)
    t.finish(client)


@case()
def O02_option_0(t):
    """Option 0 is unknown: ERR_UNSUP, sync."""
    unknown(t, 0)


@case()
def P31_peek_export_is_unknown(t):
    """Option 4 was withdrawn: ERR_UNSUP, sync."""
    unknown(t, PEEK_EXPORT)


@case()
def O02_unknown_option_with_data(t):
    """An unknown option's data is consumed: ERR_UNSUP, sync."""
    unknown(t, 0x07654321, b"data")


@case()
def O02_option_ffffffff(t):
    """Option ffffffff is unknown: ERR_UNSUP, sync."""
    unknown(t, 0xFFFFFFFF)


@case()
def O02_options_12_to_20(t):
    """Numbers behind the last known option are unknown: ERR_UNSUP, sync."""
    client = t.hs()
    for number in range(12, 21):
        t.equal(client.final(number, bytes(number)), ERR_UNSUP, "option %d" % number)
    t.finish(client)


@case()
def O02_unknown_option_whose_data_looks_like_an_option(t):
    """Consumed data is not parsed."""
    unknown(t, 99, pack_option(ABORT))


@case()
def O03_unknown_option_at_the_cap(t):
    """64 KiB of data for an unknown option: ERR_UNSUP and sync."""
    unknown(t, 99, bytes(OPTION_CAP))


@case()
def O03_unknown_option_above_the_cap(t):
    """More than the cap but inside the handshake's budget: consumed, ERR_UNSUP or ERR_TOO_BIG, sync."""
    for length in (OPTION_CAP + 1, 3 * OPTION_CAP):
        client = t.hs()
        t.equal(client.final(99, bytes(length)), {ERR_UNSUP, ERR_TOO_BIG}, "option 99 of %d bytes" % length)
        t.finish(client)


@case()
def O03_known_option_above_the_cap(t):
    """INFO, GO, LIST with more data than the cap: consumed, an error, sync."""
    for number in (INFO, GO, LIST):
        client = t.hs()
        t.equal(client.final(number, bytes(OPTION_CAP + 1)), {ERR_INVALID, ERR_TOO_BIG}, "option %d" % number)
        t.finish(client)


def beyond_budget(t, length):
    client = t.hs()
    rss = t.server.rss()
    client.option(99, b"", length=length)
    try:
        for _ in range(24):
            client.send(bytes(64 * KIB))
            if client.send_failed:
                break
    except Failure:
        pass
    t.drop(client)
    t.check(t.run.sanitized or t.server.rss() - rss < 16 * MIB, "no memory for a length that was only claimed",
            "%d MiB more" % ((t.server.rss() - rss) >> 20))


@case(twice=False)
def O03_option_of_2_to_31_less_1(t):
    """An option of 2^31-1 bytes: drop, nothing allocated."""
    beyond_budget(t, 0x7FFFFFFF)


@case(twice=False)
def O03_option_of_2_to_31(t):
    """An option of 2^31 bytes: drop, nothing allocated."""
    beyond_budget(t, 0x80000000)


@case(twice=False)
def O03_option_of_4_gib(t):
    """An option of 2^32-1 bytes: drop, nothing allocated."""
    beyond_budget(t, 0xFFFFFFFF)


@case(twice=False)
def O03_handshake_budget(t):
    """All options of a handshake together carry at most 1 MiB, then the connection is dropped."""
    client = t.hs()
    answered = 0
    try:
        for _ in range(20):
            client.option(99, bytes(60 * KIB))
            client.replies(99)
            answered += 1
    except Failure:
        pass
    t.drop(client, silent=False)
    t.check(8 <= answered <= 18, "about 17 answers before the drop", "%d" % answered)


@case()
def O04_31_infos_then_go(t):
    """32 options are allowed before the first LIST; STARTTLS is one of them."""
    client = t.hs(delivery="whole")
    for _ in range(30 if t.transport == "tls" else 31):
        t.equal(client.info()[1][-1].kind, ACK, "INFO")
    t.finish(client)


def endless(t, number, data, count):
    client = t.hs(delivery="whole")
    done = 0
    try:
        for done in range(count):
            client.negotiate(number, data)
    except Failure as problem:
        t.check(isinstance(problem, Dropped), "a drop", "(%s)" % problem)
        return done
    raise Failure("a drop long before %d options" % count, "all answered")


@case()
def O04_endless_infos(t):
    """Options are bounded by count: 32, then drop."""
    answered = endless(t, INFO, info_data(), 1000)
    t.check(31 <= answered <= 64, "32 answers", "%d" % answered)


@case()
def O04_endless_unknown_options(t):
    """Unknown options count as well."""
    answered = endless(t, 99, b"", 1000)
    t.check(31 <= answered <= 64, "32 answers", "%d" % answered)


@case()
def O04_after_list_more_options(t):
    """After the first LIST, 32 more for each export: INFO on everything that was listed is possible."""
    client = t.hs(delivery="whole")
    for _ in range(20):
        client.info()
    t.equal(client.final(LIST), ACK, "LIST")
    for _ in range(20):
        t.equal(client.info()[1][-1].kind, ACK, "INFO")
    t.finish(client)


@case()
def O04_endless_lists(t):
    """Only the first LIST raises the limit."""
    t.check(endless(t, LIST, b"", 1000) < 500, "a drop", "hundreds of answers")


@case()
def O05_pipelined_options(t):
    """30 options in one segment, replies not read: answered in order."""
    client = t.hs()
    client.send(b"".join(pack_option(0x1000 + i, bytes(i)) for i in range(30)), "30 unknown options")
    for i in range(30):
        t.equal(client.replies(0x1000 + i)[-1].kind, ERR_UNSUP, "option %d of 30" % i)
    t.finish(client)


@case()
def P18_option_number_is_echoed(t):
    """Replies echo the option's number (checked on each reply), for options of every kind."""
    client = t.hs()
    for number in (LIST, STARTTLS, INFO, STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS, 0xDEADBEEF):
        client.option(number)
        client.replies(number)
    t.equal(client.final(ABORT), ACK, "ABORT")


# -- EXPORT_NAME ------------------------------------------------------------------------------------------------------

@case()
def O06_export_name_empty_is_default(t):
    """EXPORT_NAME with no name opens the default export: size, flags, 10 bytes in all."""
    client = t.hs()
    client.option(EXPORT_NAME)
    size, flags = struct.unpack(">QH", client.recv(10, "export data"))
    t.equal(size, 64 * MIB, "size")
    wire.check_tflags(flags)
    t.sync(client)


@case()
def O06_export_name_by_name(t):
    """EXPORT_NAME with the export's name opens it."""
    client = t.hs()
    client.option(EXPORT_NAME, NAME)
    t.equal(struct.unpack(">QH", client.recv(10, "export data"))[0], 64 * MIB, "size")
    t.sync(client)


@case()
def P28_export_name_and_go_agree(t):
    """EXPORT_NAME gives the same size and flags as GO."""
    client = t.hs()
    client.option(EXPORT_NAME)
    data = struct.unpack(">QH", client.recv(10, "export data"))
    other = t.tx()
    t.check(data == (other.size, other.tflags), "%r" % ((other.size, other.tflags),), "%r" % (data,))


def export_name_drops(t, name, length=None):
    client = t.hs()
    client.option(EXPORT_NAME, name, length)
    t.drop(client)


@case()
def O06_export_name_of_4096_bytes(t):
    """EXPORT_NAME with an unknown name of 4096 bytes: drop."""
    export_name_drops(t, b"n" * 4096)


@case()
def O06_export_name_of_4097_bytes(t):
    """EXPORT_NAME with a name that is too long: drop."""
    export_name_drops(t, b"n" * 4097)


@case()
def O06_export_name_of_4_gib(t):
    """EXPORT_NAME that claims 4 GiB: drop without waiting for them."""
    rss = t.server.rss()
    export_name_drops(t, b"disk", 0xFFFFFFFF)
    t.check(t.run.sanitized or t.server.rss() - rss < 16 * MIB, "no memory for it", "%d" % (t.server.rss() - rss))


@case()
def O07_export_name_unknown(t):
    """EXPORT_NAME with an unknown name: the server MUST terminate the session."""
    export_name_drops(t, b"xyzzy")


@case()
def O08_export_name_with_zeroes(t):
    """Without C_NO_ZEROES exactly 134 bytes (N-26)."""
    client = t.hs(flags=1)
    client.option(EXPORT_NAME)
    data = client.recv(134, "export data")
    t.check(data[10:] == bytes(124), "124 zeroes", wire.short(data[10:]))
    t.quiet(client, 0.1)
    t.sync(client)


@case()
def O08_export_name_without_zeroes(t):
    """With C_NO_ZEROES exactly 10 bytes (N-26)."""
    client = t.hs(flags=3)
    client.option(EXPORT_NAME)
    client.recv(10, "export data")
    t.quiet(client, 0.1)
    t.sync(client)


@case()
def P28_export_name_after_other_options(t):
    """EXPORT_NAME ends a longer negotiation."""
    client = t.hs()
    client.info()
    client.final(77)
    client.option(EXPORT_NAME, NAME)
    client.recv(10, "export data")
    t.sync(client)


# -- INFO and GO ------------------------------------------------------------------------------------------------------

def malformed(t, number, data, kinds=frozenset({ERR_INVALID})):
    client = t.hs()
    got = client.negotiate(number, data)
    t.equal(got[-1].kind, kinds, "option %d, data %s" % (number, wire.short(data)))
    t.check(len(got) == 1, "nothing but the error", repr(got))
    t.finish(client)


def both_malformed(t, data, kinds=frozenset({ERR_INVALID})):
    for number in (INFO, GO):
        malformed(t, number, data, kinds)


@case()
def O09_info_and_go_of_0_to_5_bytes(t):
    """Less than 6 bytes are too few: ERR_INVALID, consumed, sync."""
    for length in range(6):
        both_malformed(t, bytes(length))


@case()
def O10_go_namelen_overruns(t):
    """name_len > length - 6: ERR_INVALID, `length` bytes consumed, sync (CVE-2022-26496)."""
    both_malformed(t, struct.pack(">I", 20) + b"disk" + struct.pack(">H", 0))


@case()
def O10_go_namelen_one_too_long(t):
    """name_len = length - 5: ERR_INVALID, sync."""
    both_malformed(t, struct.pack(">I", 5) + b"disk" + struct.pack(">H", 0))


@case()
def O10_go_namelen_eats_the_count(t):
    """name_len = length - 4: ERR_INVALID, sync."""
    both_malformed(t, struct.pack(">I", 6) + b"disk" + struct.pack(">H", 0))


@case()
def O10_go_namelen_ffffffff(t):
    """name_len = ffffffff: ERR_INVALID, sync (CVE-2022-26495)."""
    both_malformed(t, struct.pack(">IH", 0xFFFFFFFF, 0))


@case()
def O10_go_namelen_fffffffa(t):
    """name_len + 6 wraps to 0: ERR_INVALID, sync."""
    both_malformed(t, struct.pack(">IH", 0xFFFFFFFA, 0))


@case()
def O10_go_namelen_fffffffe(t):
    """name_len + 6 wraps to 4: ERR_INVALID, sync."""
    both_malformed(t, struct.pack(">I", 0xFFFFFFFE) + b"disk" + struct.pack(">H", 0))


@case()
def O11_fewer_infos_than_counted(t):
    """More info requests counted than sent: ERR_INVALID, sync."""
    both_malformed(t, struct.pack(">I", 4) + b"disk" + struct.pack(">HH", 2, 3))


@case()
def O11_more_infos_than_counted(t):
    """Bytes behind the last counted info request: ERR_INVALID, sync."""
    both_malformed(t, struct.pack(">I", 4) + b"disk" + struct.pack(">HHH", 1, 3, 3))


@case()
def O11_65535_infos_counted_none_sent(t):
    """A count of 65535 without them: ERR_INVALID, sync."""
    both_malformed(t, struct.pack(">IH", 0, 65535))


@case()
def O11_half_an_info(t):
    """An odd byte behind the info requests: ERR_INVALID, sync."""
    both_malformed(t, struct.pack(">IHHB", 0, 1, 3, 0))


@case()
def O12_65535_repeated_infos(t):
    """65535 repeated info requests (128 KiB): one INFO each at most, or an error; sync."""
    client = t.hs()
    got = client.negotiate(INFO, info_data(b"", [INFO_BLOCK_SIZE] * 65535))
    t.check(len(got) <= 8, "no amplification", "%d replies" % len(got))
    t.equal(got[-1].kind, {ACK, ERR_TOO_BIG, ERR_INVALID}, "INFO")
    t.finish(client)


@case()
def O12_repeated_infos_within_the_cap(t):
    """30000 repeated info requests: one INFO of each type at most."""
    client = t.hs()
    got = client.negotiate(INFO, info_data(b"", [INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE] * 10000))
    t.check(len(got) <= 8, "no amplification", "%d replies" % len(got))
    kinds = [r.data[:2] for r in got if r.kind == REP_INFO]
    t.check(len(kinds) == len(set(kinds)), "each info type once", "%d replies" % len(got))
    t.finish(client)


@case()
def O13_unknown_infos_are_ignored(t):
    """Unknown info types MUST be ignored."""
    client = t.hs()
    infos, got = client.info(b"", [4, 100, 0x8000, 0xFFFF])
    t.equal(got[-1].kind, ACK, "INFO")
    t.check(set(infos) <= {0, 1, 2, 3}, "no unknown info types", repr(sorted(infos)))
    client.go(b"", [9, 0xABCD])
    t.sync(client)


def unknown_name(t, name, kinds=frozenset({ERR_UNKNOWN})):
    for number in (INFO, GO):
        client = t.hs()
        got = client.negotiate(number, info_data(name, [INFO_NAME]))
        t.equal(got[-1].kind, kinds, "%s on %s" % ("GO" if number == GO else "INFO", wire.short(name)))
        t.check(len(got) == 1, "no REP_INFO before the error", repr(got))
        t.finish(client)


@case()
def O14_unknown_name_of_1_byte(t):
    """Unknown name: ERR_UNKNOWN without REP_INFO, sync."""
    unknown_name(t, b"x")


@case()
def O14_unknown_name_of_256_bytes(t):
    """Unknown name of 256 bytes: ERR_UNKNOWN, sync."""
    unknown_name(t, b"x" * 256)


@case()
def O14_unknown_name_of_4096_bytes(t):
    """Unknown name of 4096 bytes: ERR_UNKNOWN, text at most 4096 bytes, sync (CVE-2020-10761)."""
    unknown_name(t, b"x" * 4096)


@case()
def O14_unknown_name_of_4096_bytes_cut_inside_a_character(t):
    """A long UTF-8 name whose copy in an error text may be cut: the text stays valid UTF-8."""
    for shift in range(4):
        unknown_name(t, b"x" * shift + "€".encode() * 1364)


@case()
def O14_error_text_is_short(t):
    """An error's text does not repeat a long name: at most 256 bytes."""
    client = t.hs(delivery="whole")
    for name in (b"x" * 300, b"x" * 4096, "€".encode() * 1365):
        for number in (INFO, GO):
            reply = client.negotiate(number, info_data(name))[-1]
            t.check(len(reply.data) <= 256, "a text of at most 256 bytes", "%d" % len(reply.data))
    t.finish(client)


@case()
def O14_prefix_and_extension_of_the_name(t):
    """A prefix or an extension of a name is another name."""
    for name in (NAME[:-1], NAME + b"x", NAME.upper(), b" " + NAME, NAME + b"/", b"/" + NAME):
        unknown_name(t, name)


@case()
def O15_name_of_4097_bytes(t):
    """A name above 4096 bytes: ERR_INVALID or ERR_TOO_BIG, sync."""
    unknown_name(t, b"x" * 4097, {ERR_INVALID, ERR_TOO_BIG})


@case()
def O16_nul_behind_the_name(t):
    """A NUL in a name: ERR_INVALID; it must not open the export in front of the NUL."""
    unknown_name(t, NAME + b"\0x", {ERR_INVALID})


@case()
def O16_nul_alone(t):
    """A name of one NUL is not the default export."""
    unknown_name(t, b"\0", {ERR_INVALID})


@case()
def O16_export_name_with_nul(t):
    """EXPORT_NAME with a NUL in the name: drop."""
    export_name_drops(t, NAME + b"\0")


@case()
def O17_names_in_broken_utf8(t):
    """Names that are not UTF-8: ERR_INVALID or ERR_UNKNOWN, sync."""
    for name in (b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"disk\xe2\x82", b"\xf5\x80\x80\x80", b"\x80"):
        unknown_name(t, name, {ERR_INVALID, ERR_UNKNOWN})


@case()
def O18_hostile_names(t):
    """Paths, format strings, terminal sequences and newlines are only unknown names."""
    for name in (b"../../etc/passwd", b"/etc/passwd", b"%s%n%x", b"\x1b]0;x\x07\x1b[2J", b"a\nserving nbd://", b"$(id)"):
        unknown_name(t, name)


@case()
def O19_info_of_one_export_then_go_of_another(t):
    """INFO(disk), INFO(unknown), GO(default): each is answered for its own export."""
    client = t.hs()
    t.equal(client.info(NAME)[1][-1].kind, ACK, "INFO")
    t.equal(client.info(b"other")[1][-1].kind, ERR_UNKNOWN, "INFO of an unknown export")
    t.finish(client)


@case()
def O19_many_infos_then_go(t):
    """INFO x 30, then GO (CVE-2019-14851)."""
    client = t.hs()
    for i in range(30):
        client.info(NAME if i % 2 else b"")
    t.finish(client)


@case()
def O19_info_then_abort(t):
    """INFO, then ABORT (CVE-2019-14851)."""
    client = t.hs()
    client.info()
    t.equal(client.final(ABORT), ACK, "ABORT")
    t.drop(client, what="the end after ABORT")


@case()
def O19_info_then_close(t):
    """INFO, then close, again and again."""
    for _ in range(10):
        client = t.hs()
        client.info()
        client.close()


@case()
def O20_go_twice_pipelined(t):
    """A second GO behind the first is a request with a wrong magic: drop."""
    client = t.hs()
    client.send(pack_option(GO, info_data(NAME, [INFO_BLOCK_SIZE])) * 2)     # 28 bytes each, as a request
    t.equal(client.replies(GO)[-1].kind, ACK, "GO")
    t.drop(client)


@case()
def O20_go_after_failed_go(t):
    """Negotiation continues after a failed GO."""
    client = t.hs()
    t.equal(client.negotiate(GO, info_data(b"no-such-export"))[-1].kind, ERR_UNKNOWN, "GO")
    t.finish(client)


@case(kind="bs")
def O21_go_without_block_sizes(t):
    """Without INFO_BLOCK_SIZE: ERR_BLOCK_SIZE_REQD after sending it, or service with EINVAL on misaligned requests."""
    client = t.hs()
    got = client.negotiate(GO, info_data())
    if got[-1].kind == ERR_BLOCK_SIZE_REQD:
        client.go(b"", [INFO_BLOCK_SIZE])
        t.sync(client)
        return
    t.equal(got[-1].kind, ACK, "GO")
    client.take_infos(got)
    t.error(client.do(READ, 1, 512), EINVAL, "a misaligned READ")
    t.sync(client)


@case(kind="bs")
def P37_block_sizes_requested_is_enough(t):
    """ERR_BLOCK_SIZE_REQD MUST NOT be sent to a client that asked for block sizes."""
    client = t.hs()
    infos, got = client.info(b"", [INFO_BLOCK_SIZE])
    t.equal(got[-1].kind, ACK, "INFO")
    client.go(b"", [INFO_BLOCK_SIZE])
    t.sync(client)


@case(kind="bs")
def P46_enforced_block_sizes_are_sent(t):
    """INFO_BLOCK_SIZE is sent when requested: minimum, preferred and maximum as configured."""
    client = t.hs()
    client.go(b"", [INFO_BLOCK_SIZE])
    t.check(client.block_sizes == (512, 4096, 1 * MIB), "512, 4096, 1 MiB", repr(client.block_sizes))


@case(kind="bs")
def O21_export_name_with_enforced_block_sizes(t):
    """EXPORT_NAME on an export with block sizes: drop, or service with EINVAL on misaligned requests."""
    client = t.hs()
    client.option(EXPORT_NAME)
    try:
        client.recv(10, "export data")
    except Dropped:
        return
    t.error(client.do(READ, 1, 512), EINVAL, "a misaligned READ")
    t.sync(client)


@case()
def P75_default_block_sizes(t):
    """Without enforced sizes: a client that does not ask is served; the sizes sent are the specification's defaults."""
    client = t.hs()
    client.go(b"", [INFO_BLOCK_SIZE])
    if client.block_sizes:
        least, preferred, most = client.block_sizes
        t.check(least == 1 and most >= 32 * MIB, "minimum 1, maximum at least 2^25", repr(client.block_sizes))
    other = t.hs()
    t.equal(other.negotiate(GO, info_data())[-1].kind, ACK, "GO without INFO_BLOCK_SIZE")


@case()
def P35_info_export_is_sent(t):
    """INFO_EXPORT precedes the ACK of INFO and of GO, asked for or not (checked in every GO)."""
    client = t.hs()
    infos, got = client.info(b"", [])
    t.check(list(infos).count(INFO_EXPORT) == 1, "one INFO_EXPORT", repr(infos))
    t.equal(client.size, 64 * MIB, "size")
    client.go(b"", [])


@case()
def P35_no_zeroes_after_go(t):
    """After GO's ACK no 124 zeroes are sent, whatever the client flags say."""
    client = t.hs(flags=1)
    client.go()
    t.quiet(client, 0.1)
    t.sync(client)


@case()
def P36_info_and_go_agree(t):
    """An INFO followed by the same GO gives the same information."""
    client = t.hs()
    asked = [INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE]
    first = sorted(r.data for r in client.negotiate(INFO, info_data(NAME, asked)))
    second = sorted(r.data for r in client.negotiate(GO, info_data(NAME, asked)))
    t.check(first == second, "the same information twice", "%r, then %r" % (first, second))


@case()
def P45_info_name_is_canonical(t):
    """INFO_NAME on the default export gives its canonical name; it may be left out only if the client used it."""
    client = t.hs()
    infos, _ = client.info(b"", [INFO_NAME])
    t.check(infos.get(INFO_NAME) == [NAME], "INFO_NAME %r" % NAME, repr(infos.get(INFO_NAME)))
    infos, _ = client.info(NAME, [INFO_NAME])
    t.check(infos.get(INFO_NAME, [NAME]) == [NAME], "INFO_NAME %r or none" % NAME, repr(infos.get(INFO_NAME)))


@case()
def P45_info_description(t):
    """INFO_DESCRIPTION gives the description."""
    infos, _ = t.hs().info(b"", [INFO_DESCRIPTION])
    t.check(infos.get(INFO_DESCRIPTION) == [DESCRIPTION], "%r" % DESCRIPTION, repr(infos.get(INFO_DESCRIPTION)))


@case()
def P34_infos_in_any_order_once(t):
    """Each requested information comes once, whatever the order of the requests."""
    for asked in ([3, 2, 1, 0], [0, 1, 2, 3], [2, 2, 2]):
        infos, got = t.hs().info(b"", asked)
        t.check(all(len(found) == 1 for found in infos.values()), "each type once", repr(got))


@case(kind="rw")
def P47_transmission_flags_of_a_writable_export(t):
    """HAS_FLAGS set, READ_ONLY clear, DF and BLOCK_STATUS_PAYLOAD clear without their options, RESIZE clear."""
    client = t.tx()
    t.check(not client.tflags & wire.T_READ_ONLY, "READ_ONLY clear", "%#x" % client.tflags)
    t.check(not client.tflags & wire.T_RESIZE, "SEND_RESIZE clear", "%#x" % client.tflags)


@case(kind="ro")
def P47_transmission_flags_of_a_read_only_export(t):
    """READ_ONLY set."""
    t.check(t.tx().tflags & wire.T_READ_ONLY, "READ_ONLY", "clear")


# -- ABORT ------------------------------------------------------------------------------------------------------------

@case()
def O22_abort(t):
    """ABORT: ACK, then the connection is closed."""
    client = t.hs()
    t.equal(client.final(ABORT), ACK, "ABORT")
    t.drop(client, what="the end after ABORT")


@case()
def O22_abort_with_data(t):
    """ABORT with data: the data is ignored, ACK."""
    client = t.hs()
    t.equal(client.final(ABORT, b"0123456789"), ACK, "ABORT")
    t.drop(client, what="the end after ABORT")


@case()
def O22_abort_and_close(t):
    """ABORT from a client that does not wait for the reply has no other effect."""
    for _ in range(20):
        client = t.hs()
        client.option(ABORT)
        client.close()


@case()
def O22_nothing_after_abort(t):
    """Options behind an ABORT are not answered."""
    client = t.hs()
    client.send(pack_option(ABORT) + pack_option(LIST))
    reply = client.option_reply(ABORT)
    t.equal(reply.kind, ACK, "ABORT")
    t.drop(client)


# -- LIST -------------------------------------------------------------------------------------------------------------

@case()
def P30_list(t):
    """LIST: a REP_SERVER for each export with name and description, then ACK."""
    got = t.hs().negotiate(LIST)
    t.equal(got[-1].kind, ACK, "LIST")
    t.check(all(r.kind == REP_SERVER for r in got[:-1]), "REP_SERVER before the ACK", repr(got))
    t.check([r.data for r in got[:-1]] == [struct.pack(">I", len(NAME)) + NAME + DESCRIPTION],
            "%r with %r" % (NAME, DESCRIPTION), repr([r.data for r in got[:-1]]))


@case()
def P30_list_twice_then_go(t):
    """LIST changes nothing."""
    client = t.hs()
    t.equal(client.final(LIST), ACK, "LIST")
    t.equal(client.final(LIST), ACK, "LIST again")
    t.finish(client)


@case()
def O23_list_with_data(t):
    """LIST with data: ERR_INVALID once, sync."""
    malformed(t, LIST, b"data")


@case(twice=False)
def O24_lists_not_read(t):
    """Thousands of LISTs from a client that does not read: bounded memory, no effect on others."""
    client = t.hs(receive_buffer=2304)
    client.timeout = 1.0
    client.socket.settimeout(1.0)
    rss = t.server.rss()
    try:
        client.send(pack_option(LIST) * 20000, "20000 x LIST")
    except Failure:
        pass
    t.check(t.run.sanitized or t.server.rss() - rss < 16 * MIB, "bounded memory", "%d MiB more" %
            ((t.server.rss() - rss) >> 20))


# -- options of later phases ------------------------------------------------------------------------------------------

@case()
def T01_starttls_without_tls(t):
    """STARTTLS on a server without TLS: ERR_UNSUP, ERR_POLICY or ERR_PLATFORM, never TLS_REQD; sync."""
    t.without_tls()
    client = t.hs()
    t.equal(client.final(STARTTLS), {ERR_UNSUP, ERR_POLICY, ERR_PLATFORM}, "STARTTLS")
    t.finish(client)


@case()
def T02_starttls_with_data(t):
    """STARTTLS with data: an error, the data consumed, sync (N-13)."""
    malformed(t, STARTTLS, bytes.fromhex("deadbeef"), {ERR_INVALID, ERR_UNSUP, ERR_POLICY, ERR_PLATFORM})


@case()
def P70_the_mode_is_constant(t):
    """NOTLS is the mode of the whole connection: each STARTTLS is refused in the same way and changes nothing."""
    client = t.hs()
    first = client.final(STARTTLS)
    t.equal(client.structured(), {ACK, ERR_UNSUP}, "STRUCTURED_REPLY")
    t.equal(client.final(STARTTLS), first, "a second STARTTLS")
    client.go()
    t.equal(client.do(READ, 0, 512).style, "structured" if t.run.offers("structured") else "simple", "style of a READ")


@case()
def P72_tls_is_never_required(t):
    """Without TLS no option, known or unknown, with or without data, is answered TLS_REQD."""
    client = t.hs()
    for number in (0, LIST, PEEK_EXPORT, STARTTLS, INFO, GO, STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS, 99):
        for data in (b"", b"data"):
            t.check(client.final(number, data) != ERR_TLS_REQD, "no TLS_REQD", "option %d: TLS_REQD" % number)
    t.equal(client.final(ABORT), ACK, "ABORT")


@case()
def P73_no_export_needs_tls(t):
    """Without TLS every export is listed and served in plain text; an unknown one is ERR_UNKNOWN, not TLS_REQD."""
    client = t.hs()
    t.check([r.kind for r in client.negotiate(LIST)] == [REP_SERVER, ACK], "the export and ACK", "another list")
    t.equal(client.info(NAME)[1][-1].kind, ACK, "INFO")
    t.equal(client.info(b"no-such-export")[1][-1].kind, ERR_UNKNOWN, "INFO of an unknown export")
    client.go(NAME)
    t.sync(client)


@case()
def P74_refused_starttls_stays_in_plain_text(t):
    """A refused STARTTLS with options behind it in one segment: all are answered in plain text and in order."""
    client = t.hs()
    client.send(pack_option(STARTTLS) + pack_option(LIST) + pack_option(99), "STARTTLS, LIST, 99")
    t.check(client.replies(STARTTLS)[-1].kind != ACK, "a refusal", "ACK")
    t.equal(client.replies(LIST)[-1].kind, ACK, "LIST")
    t.equal(client.replies(99)[-1].kind, ERR_UNSUP, "option 99")
    t.finish(client)


def not_offered(t, what):
    if t.run.offers(what):
        raise Skip("the server has this option; another group tests it")


@case()
def P38_structured_reply_answered(t):
    """STRUCTURED_REPLY: ACK or ERR_UNSUP, sync; without ACK the replies stay simple."""
    client = t.hs()
    t.equal(client.structured(), {ACK, ERR_UNSUP}, "STRUCTURED_REPLY")
    t.finish(client)


@case()
def O25_structured_reply_with_data(t):
    """STRUCTURED_REPLY with data: ERR_INVALID (or ERR_UNSUP where it is unknown), sync, nothing negotiated."""
    kinds = {ERR_INVALID} if t.run.offers("structured") else {ERR_INVALID, ERR_UNSUP}
    client = t.hs()
    t.equal(client.final(STRUCTURED_REPLY, b"x"), kinds, "STRUCTURED_REPLY with data")
    client.go()
    t.equal(client.do(READ, 0, 512).style, "simple", "style of the READ reply")


@case()
def O25_structured_reply_twice(t):
    """STRUCTURED_REPLY again: ACK or ERR_INVALID (ERR_UNSUP where it is unknown), sync."""
    kinds = {ERR_INVALID, ACK} if t.run.offers("structured") else {ERR_UNSUP}
    client = t.hs()
    client.structured()
    t.equal(client.final(STRUCTURED_REPLY), kinds, "a second STRUCTURED_REPLY")
    t.finish(client)


@case()
def O26_set_meta_before_structured(t):
    """SET_META_CONTEXT before STRUCTURED_REPLY: ERR_INVALID (ERR_UNSUP where it is unknown), sync."""
    kinds = {ERR_INVALID, wire.ERR_EXT_HEADER_REQD} if t.run.offers("meta") else {ERR_UNSUP, ERR_INVALID}
    malformed(t, SET_META, meta_data(b"", [b"base:allocation"]), kinds)


def bad_meta(t, data):
    kinds = {ERR_INVALID} if t.run.offers("meta") else {ERR_INVALID, ERR_UNSUP}
    for number in (LIST_META, SET_META):
        client = t.hs()
        client.structured()
        t.equal(client.final(number, data), kinds, "option %d, data %s" % (number, wire.short(data)))
        t.finish(client)


@case()
def O27_meta_query_count_ffffffff(t):
    """2^32-1 queries counted in 16 bytes: ERR_INVALID, sync, nothing allocated."""
    bad_meta(t, struct.pack(">II", 0, 0xFFFFFFFF) + bytes(8))


@case()
def O27_meta_query_overruns(t):
    """A query that ends past the option: ERR_INVALID, sync."""
    bad_meta(t, struct.pack(">III", 0, 1, 40) + b"base:allocation")


@case()
def O27_meta_query_length_wraps(t):
    """A query length of ffffffff: ERR_INVALID, sync."""
    bad_meta(t, struct.pack(">III", 0, 1, 0xFFFFFFFF) + b"base:allocation")


@case()
def O27_meta_name_overruns(t):
    """An export name that ends past the option: ERR_INVALID, sync."""
    bad_meta(t, struct.pack(">I", 100) + b"disk" + struct.pack(">I", 0))


@case()
def O27_meta_name_length_wraps(t):
    """An export name length of fffffffc: ERR_INVALID, sync."""
    bad_meta(t, struct.pack(">II", 0xFFFFFFFC, 0))


@case()
def O27_meta_too_short(t):
    """0 to 7 bytes of data: ERR_INVALID, sync."""
    for length in range(8):
        bad_meta(t, bytes(length))


@case()
def O27_meta_trailing_bytes(t):
    """Bytes behind the last counted query: ERR_INVALID, sync."""
    bad_meta(t, meta_data(b"", [b"base:allocation"]) + b"x")


@case()
def O28_set_meta_100000_queries(t):
    """100000 short queries (700 KB): an error or an answer, bounded, sync."""
    client = t.hs()
    client.structured()
    got = client.negotiate(SET_META, meta_data(b"", [b"x:y"] * 100000))
    t.check(len(got) == 1, "one reply", "%d" % len(got))
    t.equal(got[-1].kind, {ACK, ERR_TOO_BIG, ERR_INVALID, ERR_UNSUP}, "SET_META_CONTEXT")
    t.finish(client)


@case()
def O31_extended_headers_when_unsupported(t):
    """EXTENDED_HEADERS on a server that has none: ERR_UNSUP, sync."""
    not_offered(t, "extended")
    client = t.hs()
    t.equal(client.final(EXTENDED_HEADERS), ERR_UNSUP, "EXTENDED_HEADERS")
    t.finish(client)


@case()
def O32_extended_request_without_negotiation(t):
    """An extended request that was not negotiated has a wrong magic: drop."""
    client = t.tx()
    client.send(wire.pack_ext_request(READ, 0, 512))
    t.drop(client)


@case()
def O33_request_during_negotiation(t):
    """A request in the middle of negotiation has a wrong magic: drop."""
    client = t.hs()
    client.send(pack_request(READ, 0, 512))
    t.drop(client)


@case()
def P29_half_close_during_negotiation(t):
    """S07: a client that closes its sending side during negotiation is disconnected."""
    client = t.hs()
    client.info()
    client.shutdown_write()
    t.drop(client)
