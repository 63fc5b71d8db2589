# SPDX-License-Identifier: MIT
import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load
from conan.tools.scm import Version

required_conan_version = ">=2.0"


class NbdConan(ConanFile):
    name = "nbd"
    description = "A header-only C++20 library for writing NBD (Network Block Device) servers"
    license = "MIT"
    topics = ("nbd", "network-block-device", "block-device", "server", "asio", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    # with_liburing: for uring_file_backend, the target nbd::uring; with_openssl: for tls_transport, the target nbd::tls;
    # with_libnl: for nbd::attach, the target nbd::kernel; with_librbd: for rbd_backend, the target nbd::rbd, with the system's
    # librbd (Conan has none)
    options = {"with_liburing": [True, False], "with_openssl": [True, False], "with_libnl": [True, False],
               "with_librbd": [True, False]}
    default_options = {"with_liburing": False, "with_openssl": False, "with_libnl": False, "with_librbd": False}
    no_copy_source = True

    def set_version(self):
        # CMakeLists.txt is the one place that states it.
        text = load(self, os.path.join(self.recipe_folder, "..", "CMakeLists.txt"))
        self.version = re.search(r"project\(nbd VERSION ([0-9.]+)", text).group(1)

    def export_sources(self):
        project = os.path.join(self.recipe_folder, "..")
        copy(self, "CMakeLists.txt", project, self.export_sources_folder)
        copy(self, "LICENSE", project, self.export_sources_folder)
        copy(self, "include/*.hpp", project, self.export_sources_folder)

    def layout(self):
        self.folders.root = ".."
        self.folders.source = "."
        self.folders.build = os.path.join("build", "conan")
        self.folders.generators = os.path.join("build", "conan", "generators")
        self.cpp.source.includedirs = ["include"]

    def requirements(self):
        self.requires("boost/[>=1.81 <2]")
        if self.options.with_liburing:
            self.requires("liburing/[>=2.2 <3]")
        if self.options.with_openssl:
            self.requires("openssl/[>=3 <4]")
        if self.options.with_libnl:
            self.requires("libnl/[>=3.2.25 <4]")

    def package_id(self):
        self.info.clear()

    def validate(self):
        check_min_cppstd(self, 20)
        if self.settings.os != "Linux":
            raise ConanInvalidConfiguration("nbd is for Linux alone")
        oldest = {"gcc": "12", "clang": "14"}.get(str(self.settings.compiler))
        if oldest and Version(self.settings.compiler.version) < oldest:
            raise ConanInvalidConfiguration(f"nbd needs {self.settings.compiler} {oldest} or newer")

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        copy(self, "*.hpp", os.path.join(self.source_folder, "include"), os.path.join(self.package_folder, "include"))

    def package_info(self):
        # The package's own target has another name than the component, or nbd::nbd would link liburing.
        self.cpp_info.set_property("cmake_file_name", "nbd")
        self.cpp_info.set_property("cmake_target_name", "nbd::all")
        self.cpp_info.set_property("pkg_config_name", "nbd-all")
        library = self.cpp_info.components["nbd"]
        library.set_property("cmake_target_name", "nbd::nbd")
        library.set_property("pkg_config_name", "nbd")
        library.bindirs = []
        library.libdirs = []
        library.requires = ["boost::headers"]
        library.system_libs = ["pthread"]
        if self.options.with_liburing:
            uring = self.cpp_info.components["uring"]
            uring.set_property("cmake_target_name", "nbd::uring")
            uring.set_property("pkg_config_name", "nbd-uring")
            uring.includedirs = []
            uring.bindirs = []
            uring.libdirs = []
            uring.requires = ["nbd", "liburing::liburing"]
        if self.options.with_openssl:
            tls = self.cpp_info.components["tls"]
            tls.set_property("cmake_target_name", "nbd::tls")
            tls.set_property("pkg_config_name", "nbd-tls")
            tls.includedirs = []
            tls.bindirs = []
            tls.libdirs = []
            tls.requires = ["nbd", "openssl::ssl", "openssl::crypto"]
        if self.options.with_librbd:
            rbd = self.cpp_info.components["rbd"]
            rbd.set_property("cmake_target_name", "nbd::rbd")
            rbd.set_property("pkg_config_name", "nbd-rbd")
            rbd.includedirs = []
            rbd.bindirs = []
            rbd.libdirs = []
            rbd.requires = ["nbd"]
            rbd.system_libs = ["rbd", "rados"]
        if self.options.with_libnl:
            kernel = self.cpp_info.components["kernel"]
            kernel.set_property("cmake_target_name", "nbd::kernel")
            kernel.set_property("pkg_config_name", "nbd-kernel")
            kernel.includedirs = []
            kernel.bindirs = []
            kernel.libdirs = []
            kernel.requires = ["nbd", "libnl::nl-genl", "libnl::nl"]
