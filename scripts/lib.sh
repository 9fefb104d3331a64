# Functions of the scripts here; to be sourced. Each makes sure of something, or says exactly what to do and fails.

say() { printf '%s\n' "== $*"; }

die() {
    printf '%s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

project_directory() { cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd; }

# install_package COMMAND PACKAGE: makes sure that COMMAND is there, by Debian's PACKAGE where we may install.
install_package() {
    have "$1" && return 0
    if [ "$(id -u)" = 0 ] && have apt-get; then
        say "installing $2"
        export DEBIAN_FRONTEND=noninteractive
        if ! apt-get install -y -q --no-install-recommends "$2" >/dev/null 2>&1; then
            apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "$2" >/dev/null
        fi
        have "$1" && return 0
    fi
    printf '%s\n' "$1 is missing; install it first: sudo apt-get install $2 (or your system's package of that name)" >&2
    return 1
}

need_cargo() {
    have cargo || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH="$HOME/.cargo/bin:$PATH"
    have cargo || die "cargo is missing: install Rust 1.91 or newer with rustup (https://rustup.rs)"
    # Compiles C: the TLS library's cryptography, and the allocator.
    have cc || install_package cc gcc || exit 1
    have make || install_package make make || exit 1
    have cmake || install_package cmake cmake || true
}

need_fuse() {
    install_package fusermount3 fuse3 || exit 1
    [ -e /dev/fuse ] || die "/dev/fuse is missing: load the kernel's module (sudo modprobe fuse), or give it to this container"
}
