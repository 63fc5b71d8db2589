# SPDX-License-Identifier: MIT
# A port for this very tree: vcpkg install nbd --overlay-ports=.vcpkg-port --no-binarycaching
# (vcpkg's cache would keep the headers of the first time: its key covers this folder alone.)
# A registry's port would replace SOURCE_PATH by a vcpkg_from_github of a release, and nothing else.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)

set(VCPKG_BUILD_TYPE release) # header-only

vcpkg_check_features(OUT_FEATURE_OPTIONS features FEATURES uring NBD_URING tls NBD_TLS kernel NBD_KERNEL)
vcpkg_cmake_configure(
    SOURCE_PATH "${SOURCE_PATH}"
    OPTIONS ${features} -DNBD_BUILD_TESTS=OFF -DNBD_BUILD_EXAMPLES=OFF -DNBD_BUILD_BENCH=OFF
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/nbd)

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib" "${CURRENT_PACKAGES_DIR}/share/licenses")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
