#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs the conformance cases against nbd-serve. See README.md."""
import argparse
import fnmatch
import os
import shutil
import sys
import threading
import time
import traceback

import harness
import tls
from harness import CASES, Broken, Client, Context, Failure, PlainText, Run, Skip

GROUPS = ["connect_and_greeting", "options", "transmission", "slow_clients", "lifecycle", "integrity", "cves",
          "structured", "meta_context", "extended_headers", "starttls"]
TITLES = {"structured": "structured replies", "meta": "meta contexts", "extended": "extended headers"}


class Report:
    def __init__(self, verbose):
        self.verbose = verbose
        self.passed = self.failed = self.skipped = self.left_out = 0
        self.unusable = {}
        self.lock = threading.Lock()

    def ok(self, label, seconds):
        with self.lock:
            self.passed += 1
            if self.verbose:
                print("ok   %s (%.2f s)" % (label, seconds), flush=True)

    def fail(self, label, rule, trace, problem):
        with self.lock:
            self.failed += 1
            sent = "; ".join(trace[-3:]) or "nothing"
            print("FAIL %s: sent %s; expected %s; got %s | rule: %s"
                  % (label, sent[:400], problem.expected, str(problem.got)[:500], rule), flush=True)
            details = getattr(problem, "details", "")
            if details:
                print("     | " + details.replace("\n", "\n     | "), flush=True)

    def broken(self, what):
        with self.lock:
            self.failed += 1
            self.unusable[str(what)] = self.unusable.get(str(what), 0) + 1

    def leave_out(self, label, what):
        with self.lock:
            self.left_out += 1
            if self.verbose:
                print("left out %s: %s" % (label, what), flush=True)

    def skip(self, label, why):
        with self.lock:
            self.skipped += 1
            print("SKIP %s: %s" % (label, why), flush=True)


def run_case(run, report, case, transport, delivery):
    label = "%s [%s %s%s]" % (case.name, transport, case.kind if not case.own else "own",
                              "" if delivery == "whole" else ", byte by byte")
    begin = time.monotonic()
    context = shared = None
    try:
        shared = None if case.own else run.server(case.kind, transport)
        context = Context(run, case, shared.server if shared else None, transport, delivery)
        try:
            case.function(context)
        finally:
            context.close()
        if shared and not case.slow:
            if case.scratch:
                shared.restore()
            shared.verify()
        report.ok(label, time.monotonic() - begin)
    except Skip as why:
        report.skip(label, why)
    except PlainText as what:
        report.leave_out(label, what)
    except Broken as what:
        report.broken(what)
    except Failure as problem:
        if shared and not shared.server.alive():
            problem.got = "%s, and the server ended: %s" % (problem.got, shared.ending())
        report.fail(label, case.rule, context.trace if context else [], problem)
        if not case.own and not case.slow:
            recover(run, case, transport)
    except Exception:
        report.fail(label, case.rule, context.trace if context else [],
                    Failure("the case itself to work", traceback.format_exc().strip().replace("\n", " / ")[-700:]))


def recover(run, case, transport):
    """Replaces a shared server that a failed case may have damaged."""
    try:
        shared = run.server(case.kind, transport)
        shared.restore()
        shared.verify()
    except Failure:
        run.forget(case.kind, transport)
    except Broken:
        pass            # the server could not be started; the first case has reported it


def deliveries(case, wanted):
    """Whole messages go over a UNIX socket, single bytes over TCP."""
    pairs = [("unix", "whole"), ("tcp", "bytes")] if case.twice else [("unix", "whole")]
    if case.tcp_only:
        pairs = [("tcp", "whole")]
    if wanted.transport != "both":
        pairs = [(wanted.transport, delivery) for _, delivery in pairs]
    if wanted.delivery != "both":
        pairs = list(dict.fromkeys((transport, wanted.delivery) for transport, _ in pairs))
    if case.tcp_only:
        pairs = [pair for pair in pairs if pair[0] != "unix"]
    return pairs


def select(wanted):
    for group in GROUPS:
        __import__(group)

    def matches(case, pattern):
        if pattern in GROUPS:
            return case.group == pattern
        return fnmatch.fnmatch(case.name, pattern if set(pattern) & set("*?[") else "*%s*" % pattern)

    def chosen(case):
        return not wanted.pattern or any(matches(case, pattern) for pattern in wanted.pattern)
    order = {group: i for i, group in enumerate(GROUPS)}
    return sorted((c for c in CASES if chosen(c)), key=lambda c: order.get(c.group, 99))


def main():
    parser = argparse.ArgumentParser(description="NBD conformance cases for nbd-serve")
    parser.add_argument("pattern", nargs="*", help="cases (part of a name, or a glob) or groups (a file's name)")
    parser.add_argument("--server", default=os.environ.get("NBD_SERVE"), help="path of nbd-serve (or NBD_SERVE)")
    parser.add_argument("--policy", choices=["per-client", "pool"], default="per-client")
    parser.add_argument("--transport", choices=["both", "unix", "tcp", "tls"], default="both",
                        help="both: UNIX and TCP. tls: each client starts TLS; cases about what precedes it are left out")
    parser.add_argument("--delivery", choices=["both", "whole", "bytes"], default="both")
    parser.add_argument("--list", action="store_true", help="print the cases and their rules, run nothing")
    parser.add_argument("--verbose", action="store_true", help="print passed cases too")
    wanted = parser.parse_args()
    if wanted.server and os.access(wanted.server, os.X_OK) and harness.sanitizer_of(wanted.server):
        harness.SMALL, harness.SLOWER = True, 4         # before the cases copy it
    cases = select(wanted)
    if not wanted.list:
        cases = [case for case in cases if case.only in (None, wanted.transport)]
    if wanted.list:
        for case in cases:
            print("%-24s %-64s %s" % (case.group, case.name, case.rule))
        print("%d cases" % len(cases))
        return 0
    if not wanted.server or not os.access(wanted.server, os.X_OK):
        print("SKIP: no nbd-serve (give --server PATH or set NBD_SERVE)")
        return 77

    if wanted.transport == "tls":
        if not shutil.which("openssl"):
            print("SKIP: no openssl to make certificates with")
            return 77
        harness.CREDENTIALS = tls.Credentials()
        Client.tls_context = harness.CREDENTIALS.context
    run, report = Run(os.path.abspath(wanted.server), wanted.policy,
                      "unix" if wanted.transport == "both" else wanted.transport), Report(wanted.verbose)
    begin = time.monotonic()
    missing, todo = {}, []
    for case in cases:
        try:
            offered = case.needs is None or run.offers(case.needs)
        except Failure as problem:
            report.fail("offer of %s" % case.needs, "the option is answered", [], problem)
            run.offered[case.needs] = offered = False
        if offered:
            todo.extend((case, transport, delivery) for transport, delivery in deliveries(case, wanted))
        else:
            missing[case.needs] = missing.get(case.needs, 0) + 1

    waiting = [threading.Thread(target=run_case, args=(run, report, *item)) for item in todo if item[0].slow]
    for thread in waiting:
        thread.start()
    for item in todo:
        if not item[0].slow:
            run_case(run, report, *item)
    for thread in waiting:
        thread.join()

    for (kind, transport), shared in sorted(run.shared.items()):
        label = "the %s server over %s, at the end" % (kind, transport)
        try:
            shared.verify(waiting_threads=0)
            shared.stop()
        except Failure as problem:
            report.fail(label, "the server stops cleanly after all cases", [], problem)
            shared.server.kill()
    for what, count in sorted(report.unusable.items()):
        print("FAIL: %s could not be used; %d cases failed without a run" % (what, count))
    for what, count in sorted(missing.items()):
        print("not offered: %s: %d cases" % (TITLES[what], count))
        report.skipped += count
    if report.left_out:
        print("%d left out: they look at what precedes TLS, or at a server of another transport" % report.left_out)
    print("%d passed, %d failed, %d skipped (%s, %.0f s)"
          % (report.passed, report.failed, report.skipped, wanted.policy, time.monotonic() - begin))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
