#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""cmake_options.test.py CMAKE PROJECT CXX PREFIX: the options of the project and the components of the installed package,
by configuring small projects. PREFIX is where the package is installed."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

CMAKE, PROJECT, CXX, PREFIX = sys.argv[1:5]


class Options(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def configure(self, source, *options, build="build"):
        """(whether it succeeded, what CMake printed)"""
        command = [CMAKE, "-S", source, "-B", self.folder / build, "-D", "CMAKE_CXX_COMPILER=" + CXX, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return done.returncode == 0, " ".join((done.stdout + done.stderr).split())

    def this(self, *options):
        return self.configure(PROJECT, "-D", "NBD_BUILD_EXAMPLES=OFF", "-D", "NBD_BUILD_BENCH=OFF", *options)

    def consumer(self, text, prefix=PREFIX):
        """Configures a project that consists of `text`."""
        (self.folder / "consumer").mkdir(exist_ok=True)
        (self.folder / "consumer" / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.16)\nproject(consumer LANGUAGES CXX)\n" + text)
        return self.configure(self.folder / "consumer", "-D", "CMAKE_PREFIX_PATH=%s" % prefix, build="consumer-build")

    def install(self, *options):
        """Installs the package with `options`; returns where."""
        fine, said = self.this("-D", "NBD_BUILD_TESTS=OFF", *options)
        self.assertTrue(fine, said)
        prefix = self.folder / "prefix"
        subprocess.run([CMAKE, "--install", self.folder / "build", "--prefix", prefix], check=True, capture_output=True)
        return prefix

    def has_liburing(self):
        return self.this("-D", "NBD_BUILD_TESTS=OFF", "-D", "NBD_URING=ON")[0]

    def test_without_catch2_the_tests_are_left_out(self):
        fine, said = self.this("-D", "CMAKE_DISABLE_FIND_PACKAGE_Catch2=ON")
        self.assertTrue(fine, said)
        self.assertIn("The tests are left out: Catch2 is missing (Debian: catch2)", said)

    def test_tests_that_are_asked_for_are_needed(self):
        fine, said = self.this("-D", "NBD_BUILD_TESTS=ON", "-D", "CMAKE_DISABLE_FIND_PACKAGE_Catch2=ON")
        self.assertFalse(fine, said)
        self.assertIn("Catch2", said)

    def test_liburing_that_is_asked_for_is_needed(self):
        fine, said = self.this("-D", "NBD_BUILD_TESTS=OFF", "-D", "NBD_URING=ON", "-D", "NBD_LIBURING=NO-NOTFOUND",
                               "-D", "CMAKE_LIBRARY_PATH=/nonexistent", "-D", "NBD_LIBURING_INCLUDE_DIR=X-NOTFOUND",
                               "-D", "CMAKE_FIND_ROOT_PATH=/nonexistent", "-D", "CMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY",
                               "-D", "CMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY")
        self.assertFalse(fine, said)
        self.assertIn("NBD_URING=ON needs liburing (Debian: liburing-dev), which was not found", said)

    def test_openssl_that_is_asked_for_is_needed(self):
        fine, said = self.this("-D", "NBD_BUILD_TESTS=OFF", "-D", "NBD_TLS=ON", "-D", "CMAKE_DISABLE_FIND_PACKAGE_OpenSSL=ON")
        self.assertFalse(fine, said)
        self.assertIn("NBD_TLS=ON needs OpenSSL 3 (Debian: libssl-dev), which was not found", said)

    def test_an_unknown_component(self):
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS nonsense)\n")
        self.assertFalse(fine, said)
        self.assertIn("nbd has no component 'nonsense'; it has 'nbd', 'uring', 'tls', 'kernel' and 'rbd'", said)

    def test_an_optional_component(self):
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS nbd OPTIONAL_COMPONENTS nonsense)\n"
                                   "message(STATUS \"found: ${nbd_FOUND}, ${nbd_nbd_FOUND}, ${nbd_nonsense_FOUND}.\")\n")
        self.assertTrue(fine, said)
        self.assertIn("found: 1, TRUE, .", said)

    def test_the_component_uring(self):
        if not self.has_liburing():
            self.skipTest("liburing is not installed")
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS uring)\n"
                                   "get_target_property(linked nbd::nbd INTERFACE_LINK_LIBRARIES)\n"
                                   "message(STATUS \"nbd::nbd links: ${linked}.\")\n")
        self.assertTrue(fine, said)
        self.assertIn("nbd::nbd links: Boost::headers;Threads::Threads.", said)

    def test_a_package_without_uring(self):
        prefix = self.install("-D", "NBD_URING=OFF")
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED)\n"
                                   "if(TARGET nbd::uring)\nmessage(FATAL_ERROR \"nbd::uring\")\nendif()\n", prefix)
        self.assertTrue(fine, said)
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS uring)\n", prefix)
        self.assertFalse(fine, said)
        self.assertIn("the component 'uring' is missing: nbd was installed with NBD_URING=OFF", said)

    def test_the_component_tls(self):
        if not self.this("-D", "NBD_BUILD_TESTS=OFF", "-D", "NBD_TLS=ON")[0]:
            self.skipTest("OpenSSL 3 is not installed")
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS tls)\n"
                                   "get_target_property(linked nbd::nbd INTERFACE_LINK_LIBRARIES)\n"
                                   "get_target_property(tls nbd::tls INTERFACE_LINK_LIBRARIES)\n"
                                   "message(STATUS \"nbd::nbd links: ${linked}. nbd::tls links: ${tls}.\")\n")
        self.assertTrue(fine, said)
        self.assertIn("nbd::nbd links: Boost::headers;Threads::Threads.", said)
        self.assertIn("nbd::tls links: nbd::nbd;OpenSSL::SSL;OpenSSL::Crypto.", said)

    def test_librbd_that_is_asked_for_is_needed(self):
        fine, said = self.this("-D", "NBD_BUILD_TESTS=OFF", "-D", "NBD_RBD=ON", "-D", "NBD_LIBRBD=NO-NOTFOUND",
                               "-D", "NBD_LIBRBD_INCLUDE_DIR=X-NOTFOUND", "-D", "CMAKE_FIND_ROOT_PATH=/nonexistent",
                               "-D", "CMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY", "-D", "CMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY",
                               "-D", "NBD_URING=OFF")
        self.assertFalse(fine, said)
        self.assertIn("NBD_RBD=ON needs librbd (Debian: librbd-dev), which was not found", said)

    def test_the_component_rbd(self):
        if not self.this("-D", "NBD_BUILD_TESTS=OFF", "-D", "NBD_RBD=ON")[0]:
            self.skipTest("librbd is not installed")
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS rbd)\n"
                                   "get_target_property(linked nbd::nbd INTERFACE_LINK_LIBRARIES)\n"
                                   "message(STATUS \"nbd::nbd links: ${linked}.\")\n")
        self.assertTrue(fine, said)
        self.assertIn("nbd::nbd links: Boost::headers;Threads::Threads.", said)

    def test_a_package_without_rbd(self):
        prefix = self.install("-D", "NBD_RBD=OFF")
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS rbd)\n", prefix)
        self.assertFalse(fine, said)
        self.assertIn("the component 'rbd' is missing: nbd was installed with NBD_RBD=OFF", said)

    def test_tls_in_a_folder(self):
        fine, said = self.consumer("add_subdirectory(%s nbd-headers)\nif(TARGET nbd::tls)\n"
                                   "file(WRITE ${CMAKE_BINARY_DIR}/main.cpp \"int main() {}\")\nadd_executable(mine ${CMAKE_BINARY_DIR}/main.cpp)\n"
                                   "target_link_libraries(mine nbd::tls)\nendif()\n" % PROJECT)
        self.assertTrue(fine, said)

    def test_a_package_without_tls(self):
        prefix = self.install("-D", "NBD_TLS=OFF")
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS tls)\n", prefix)
        self.assertFalse(fine, said)
        self.assertIn("the component 'tls' is missing: nbd was installed with NBD_TLS=OFF", said)

    def test_libnl_that_is_asked_for_is_needed(self):
        fine, said = self.this("-D", "NBD_BUILD_TESTS=OFF", "-D", "NBD_KERNEL=ON", "-D", "NBD_URING=OFF", "-D", "NBD_TLS=OFF",
                               "-D", "NBD_LIBNL_GENL=NBD_LIBNL_GENL-NOTFOUND", "-D", "CMAKE_FIND_ROOT_PATH=/nonexistent",
                               "-D", "CMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY", "-D", "CMAKE_FIND_ROOT_PATH_MODE_INCLUDE=ONLY")
        self.assertFalse(fine, said)
        self.assertIn("NBD_KERNEL=ON needs libnl-genl-3 (Debian: libnl-genl-3-dev), which was not found", said)

    def test_the_component_kernel(self):
        if not self.this("-D", "NBD_BUILD_TESTS=OFF", "-D", "NBD_KERNEL=ON")[0]:
            self.skipTest("libnl-genl-3 is not installed")
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS kernel)\n"
                                   "get_target_property(linked nbd::nbd INTERFACE_LINK_LIBRARIES)\n"
                                   "message(STATUS \"nbd::nbd links: ${linked}.\")\n")
        self.assertTrue(fine, said)
        self.assertIn("nbd::nbd links: Boost::headers;Threads::Threads.", said)

    def test_a_package_without_kernel(self):
        prefix = self.install("-D", "NBD_KERNEL=OFF")
        fine, said = self.consumer("find_package(nbd CONFIG REQUIRED COMPONENTS kernel)\n", prefix)
        self.assertFalse(fine, said)
        self.assertIn("the component 'kernel' is missing: nbd was installed with NBD_KERNEL=OFF", said)

    def test_a_parent_project_with_a_target_nbd(self):
        fine, said = self.consumer("add_library(nbd INTERFACE)\nadd_subdirectory(%s nbd-headers)\n"
                                   "target_link_libraries(nbd INTERFACE nbd::nbd)\n" % PROJECT)
        self.assertTrue(fine, said)

    def test_a_parent_project_that_exports_a_target(self):
        """It exports nbd::nbd too, which needs NBD_INSTALL."""
        text = ("add_subdirectory(%s nbd-headers)\nadd_library(mine INTERFACE)\ntarget_link_libraries(mine INTERFACE nbd::nbd)\n"
                "install(TARGETS mine EXPORT mineTargets)\ninstall(EXPORT mineTargets DESTINATION share/cmake/mine)\n" % PROJECT)
        self.assertFalse(self.consumer(text)[0])
        self.assertTrue(*self.consumer("set(NBD_INSTALL ON)\n" + text))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
