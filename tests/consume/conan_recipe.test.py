#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""conan_recipe.test.py PROJECT: runs the methods of conan/conanfile.py with a stub in place of Conan.

Conan is not in Debian, so this test does not need it. `conan create conan` tests the recipe with Conan.
"""
import fnmatch
import collections
import importlib.util
import os
import py_compile
import re
import shutil
import sys
import tempfile
import types
import unittest
from pathlib import Path

PROJECT = Path(sys.argv.pop(1) if len(sys.argv) > 1 else __file__ + "/../../..").resolve()


class Anything(types.SimpleNamespace):
    pass


class Invalid(Exception):
    pass


def copy(_recipe, pattern, src, dst):
    """As conan.tools.files.copy: the pattern is matched against the path below src."""
    for file in Path(src).resolve().rglob("*"):
        name = str(file.relative_to(Path(src).resolve()))
        if file.is_file() and fnmatch.fnmatch(name, pattern):
            (Path(dst) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, Path(dst) / name)


def check_min_cppstd(recipe, standard):
    if int(recipe.settings.compiler.cppstd) < int(standard):
        raise Invalid(f"C++{standard} is needed")


class Version:
    def __init__(self, text):
        self.parts = [int(part) for part in str(text).split(".")]

    def __lt__(self, other):
        return self.parts < Version(other).parts


class Compiler(str):
    """settings.compiler: a string with attributes"""


def settings(os_name="Linux", compiler="gcc", version="12", cppstd="20"):
    value = Compiler(compiler)
    value.version, value.cppstd = version, cppstd
    return Anything(os=os_name, compiler=value)


def cpp_info():
    properties = {}
    return Anything(bindirs=["bin"], libdirs=["lib"], includedirs=["include"], requires=[], properties=properties,
                    set_property=properties.__setitem__)


class ConanFile:
    def __init__(self):
        self.recipe_folder = str(PROJECT / "conan")
        self.settings = settings()
        self.folders = Anything(root=None, source=None, build=None, generators=None)
        self.cpp = Anything(source=Anything())
        self.info = Anything(cleared=0)
        self.info.clear = lambda: setattr(self.info, "cleared", self.info.cleared + 1)
        self.required = []
        self.requires = self.required.append
        self.options = Anything(**self.default_options)
        # what Conan sets by itself
        self.cpp_info = cpp_info()
        self.cpp_info.components = collections.defaultdict(cpp_info)


def module(name, **contents):
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)


module("conan", ConanFile=ConanFile)
module("conan.errors", ConanInvalidConfiguration=Invalid)
module("conan.tools")
module("conan.tools.build", check_min_cppstd=check_min_cppstd)
module("conan.tools.files", copy=copy, load=lambda _recipe, path: Path(path).read_text())
module("conan.tools.scm", Version=Version)


def recipe():
    spec = importlib.util.spec_from_file_location("recipe", PROJECT / "conan" / "conanfile.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded.NbdConan()


class Recipe(unittest.TestCase):
    def setUp(self):
        sys.dont_write_bytecode = True
        self.recipe = recipe()
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)

    def headers(self, folder):
        return sorted(str(p.relative_to(folder)) for p in Path(folder, "include").rglob("*") if p.is_file())

    def test_facts(self):
        self.assertEqual(self.recipe.name, "nbd")
        self.assertEqual(self.recipe.license, "MIT")
        self.assertEqual(self.recipe.package_type, "header-library")

    def test_version_is_that_of_cmake(self):
        self.recipe.set_version()
        stated = re.search(r"VERSION (\d+\.\d+\.\d+)", re.search(r"project\((.*?)\)", (
            PROJECT / "CMakeLists.txt").read_text(), re.S).group(1)).group(1)
        self.assertEqual(self.recipe.version, stated)

    def test_one_package_id(self):
        self.recipe.package_id()
        self.assertEqual(self.recipe.info.cleared, 1)

    def test_layout(self):
        self.recipe.layout()
        self.assertEqual(self.recipe.folders.root, "..")
        self.assertTrue((PROJECT / "conan" / ".." / self.recipe.folders.source / "CMakeLists.txt").exists())
        for folder in (self.recipe.folders.build, self.recipe.folders.generators):
            self.assertEqual(Path(folder).parts[0], "build")  # which git ignores

    def test_requirements(self):
        self.recipe.requirements()
        self.assertEqual(self.recipe.required, ["boost/[>=1.81 <2]"])
        self.recipe.options.with_liburing = True
        self.recipe.requirements()
        self.assertEqual(self.recipe.required[2:], ["liburing/[>=2.2 <3]"])
        self.recipe.options.with_openssl = True
        self.recipe.requirements()
        self.assertEqual(self.recipe.required[5:], ["openssl/[>=3 <4]"])
        self.recipe.options.with_libnl = True
        self.recipe.requirements()
        self.assertEqual(self.recipe.required[9:], ["libnl/[>=3.2.25 <4]"])

    def test_validate(self):
        for good in (settings(), settings(compiler="clang", version="14"), settings(version="13.2", cppstd="23")):
            self.recipe.settings = good
            self.recipe.validate()
        for bad in (settings(cppstd="17"), settings(version="11"), settings(compiler="clang", version="13")):
            self.recipe.settings = bad
            self.assertRaises(Invalid, self.recipe.validate)
        for other in ("FreeBSD", "Windows", "Macos"):
            self.recipe.settings = settings(os_name=other)
            self.assertRaises(Invalid, self.recipe.validate)

    def test_sources_and_package(self):
        self.recipe.export_sources_folder = os.path.join(self.scratch.name, "sources")
        self.recipe.export_sources()
        self.assertEqual(sorted(os.listdir(self.recipe.export_sources_folder)), ["CMakeLists.txt", "LICENSE", "include"])
        self.assertEqual(self.headers(self.recipe.export_sources_folder), self.headers(PROJECT))

        self.recipe.source_folder = self.recipe.export_sources_folder
        self.recipe.package_folder = os.path.join(self.scratch.name, "package")
        self.recipe.package()
        self.assertEqual(sorted(os.listdir(self.recipe.package_folder)), ["include", "licenses"])
        self.assertEqual(self.headers(self.recipe.package_folder), self.headers(PROJECT))
        self.assertTrue(self.headers(PROJECT))

    def test_package_info(self):
        self.recipe.package_info()
        self.assertEqual(self.recipe.cpp_info.properties, {
            "cmake_file_name": "nbd", "cmake_target_name": "nbd::all", "pkg_config_name": "nbd-all"})
        self.assertEqual(list(self.recipe.cpp_info.components), ["nbd"])
        library = self.recipe.cpp_info.components["nbd"]
        self.assertEqual(library.bindirs, [])
        self.assertEqual(library.libdirs, [])
        self.assertEqual(library.includedirs, ["include"])
        self.assertEqual(library.requires, ["boost::headers"])
        self.assertEqual(library.properties, {"cmake_target_name": "nbd::nbd", "pkg_config_name": "nbd"})

    def test_package_info_with_liburing(self):
        self.recipe.options.with_liburing = True
        self.recipe.package_info()
        uring = self.recipe.cpp_info.components["uring"]
        self.assertEqual(uring.includedirs, [])
        self.assertEqual(uring.requires, ["nbd", "liburing::liburing"])
        self.assertEqual(uring.properties, {"cmake_target_name": "nbd::uring", "pkg_config_name": "nbd-uring"})
        # Who links nbd::nbd does not get liburing.
        self.assertEqual(self.recipe.cpp_info.components["nbd"].requires, ["boost::headers"])

    def test_package_info_with_openssl(self):
        self.recipe.options.with_openssl = True
        self.recipe.package_info()
        tls = self.recipe.cpp_info.components["tls"]
        self.assertEqual(tls.includedirs, [])
        self.assertEqual(tls.requires, ["nbd", "openssl::ssl", "openssl::crypto"])
        self.assertEqual(tls.properties, {"cmake_target_name": "nbd::tls", "pkg_config_name": "nbd-tls"})
        self.assertEqual(self.recipe.cpp_info.components["nbd"].requires, ["boost::headers"])

    def test_package_info_with_librbd(self):
        self.recipe.options.with_librbd = True
        self.recipe.requirements()
        self.assertEqual(self.recipe.required, ["boost/[>=1.81 <2]"])
        self.recipe.package_info()
        rbd = self.recipe.cpp_info.components["rbd"]
        self.assertEqual(rbd.includedirs, [])
        self.assertEqual(rbd.requires, ["nbd"])
        self.assertEqual(rbd.system_libs, ["rbd", "rados"])
        self.assertEqual(rbd.properties, {"cmake_target_name": "nbd::rbd", "pkg_config_name": "nbd-rbd"})
        self.assertEqual(self.recipe.cpp_info.components["nbd"].requires, ["boost::headers"])

    def test_package_info_with_libnl(self):
        self.recipe.options.with_libnl = True
        self.recipe.package_info()
        kernel = self.recipe.cpp_info.components["kernel"]
        self.assertEqual(kernel.includedirs, [])
        self.assertEqual(kernel.requires, ["nbd", "libnl::nl-genl", "libnl::nl"])
        self.assertEqual(kernel.properties, {"cmake_target_name": "nbd::kernel", "pkg_config_name": "nbd-kernel"})
        self.assertEqual(self.recipe.cpp_info.components["nbd"].requires, ["boost::headers"])

    def test_the_test_package_is_python(self):
        py_compile.compile(str(PROJECT / "conan" / "test_package" / "conanfile.py"),
                           cfile=os.path.join(self.scratch.name, "x.pyc"), doraise=True)


if __name__ == "__main__":
    unittest.main()
