#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""first_include.test.py COMPILER INCLUDE: where the compiler or Boost does not fit, the first error says what is needed;
with server.hpp it is the only one."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

COMPILER, INCLUDE = sys.argv[1:3]


def errors(header, *flags):
    """The errors that the compiler prints for a program that begins with `header`."""
    command = [COMPILER, "-fsyntax-only", "-I", INCLUDE, *flags, "-x", "c++", "-"]
    done = subprocess.run(command, input="#include <%s>\n" % header, capture_output=True, text=True, timeout=120)
    return [line.split("error: ")[1] for line in done.stderr.splitlines() if "error: " in line]


class FirstInclude(unittest.TestCase):
    def one_sentence(self, sentence, *flags):
        found = errors("nbd/server.hpp", *flags)
        self.assertEqual(len(found), 1, found)
        self.assertIn(sentence, found[0])
        self.assertIn(sentence, errors("nbd/basic_server.hpp", "-Wfatal-errors", *flags)[0])

    def test_an_older_standard(self):
        self.one_sentence("nbd needs C++20: compile with -std=c++20 or newer", "-std=c++17")

    def test_no_exceptions(self):
        self.one_sentence("nbd needs exceptions: compile without -fno-exceptions", "-std=c++20", "-fno-exceptions")

    def test_no_boost(self):
        self.one_sentence("nbd needs the headers of Boost 1.81 or newer", "-std=c++20", "-nostdinc")

    def test_an_older_boost(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "boost").mkdir()
            Path(folder, "boost/version.hpp").write_text("#define BOOST_VERSION 107400\n")
            self.one_sentence("nbd needs Boost 1.81 or newer", "-std=c++20", "-I", folder)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
