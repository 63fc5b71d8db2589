#!/bin/sh
# SPDX-License-Identifier: MIT
# install.sh CMAKE BUILD PREFIX INCLUDE: installs into an empty folder and checks that this adds all headers, the CMake
# package, the licence, and nothing else.
set -eu
rm -rf "$3"
"$1" --install "$2" --prefix "$3"
diff -r "$4" "$3/include"
others=$(cd "$3" && find . -type f ! -path './include/*' | LC_ALL=C sort | tr '\n' ' ')
expected="./share/cmake/nbd/nbdConfig.cmake ./share/cmake/nbd/nbdConfigVersion.cmake ./share/cmake/nbd/nbdTargets.cmake ./share/licenses/nbd/LICENSE "
[ "$others" = "$expected" ] || {
    echo "installed beside the headers: $others"
    echo "expected:                     $expected"
    exit 1
}
