# Installs the packages that the other scripts need on a fresh Debian machine, if they are missing. Sourced, not run.

MINIMUM_RUST=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")

say() { printf '%s\n' "$*" >&2; }

# Runs apt-get quietly as root or through sudo; updates the package lists once.
apt() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { say "please run as root: apt-get $*"; return 1; }
        as_root=(sudo)
    fi
    if [ -z "${APT_UPDATED:-}" ]; then
        "${as_root[@]}" apt-get update -qq || return 1
        APT_UPDATED=yes
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -qq "$@" >/dev/null
}

install_packages() {
    if ! command -v apt-get >/dev/null; then
        say "missing packages: $*. This machine has no apt-get: please install them by its own means, then run the script again."
        return 1
    fi
    say "installing $*"
    apt install --no-install-recommends "$@"
}

# Succeeds if a rustc is there and new enough; it prints `rustc 1.95.0 (..)`.
rust_is_new_enough() {
    local version
    version=$("$1" --version 2>/dev/null | awk '{ print $2 }') || return 1
    [ -n "$version" ] && [ "$(printf '%s\n%s\n' "$MINIMUM_RUST" "$version" | sort -V | head -n 1)" = "$MINIMUM_RUST" ]
}

# Ensures a Rust tool chain: the one in PATH, else rustup's, else Debian's newest, else rustup's installer.
ensure_rust() {
    command -v cc >/dev/null || install_packages gcc libc6-dev || return 1
    if rust_is_new_enough rustc && command -v cargo >/dev/null; then return; fi
    if rust_is_new_enough "$HOME/.cargo/bin/rustc"; then
        export PATH="$HOME/.cargo/bin:$PATH"
        return
    fi
    # Debian has a second, newer Rust package for its browsers.
    if command -v apt-cache >/dev/null; then
        apt check || return 1
        local package
        for package in rustc-web rustc; do
            local candidate
            candidate=$(apt-cache policy "$package" | awk '/Candidate:/ { print $2 }')
            if [ -n "$candidate" ] && dpkg --compare-versions "$candidate" ge "$MINIMUM_RUST"; then
                install_packages "$package" "${package/rustc/cargo}" && rust_is_new_enough rustc && return
            fi
        done
    fi
    say "installing Rust with rustup into $HOME/.cargo"
    command -v curl >/dev/null || install_packages curl ca-certificates || return 1
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y -q --profile minimal -c clippy -c rustfmt || return 1
    export PATH="$HOME/.cargo/bin:$PATH"
}

# Ensures a Vulkan adapter for the tests: Mesa's software driver if there is no driver.
ensure_vulkan() {
    local folder
    ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1' || install_packages libvulkan1 || return 1
    for folder in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d; do
        if compgen -G "$folder/*.json" >/dev/null; then return; fi
    done
    [ -n "${VK_ICD_FILENAMES:-}${VK_DRIVER_FILES:-}" ] || install_packages mesa-vulkan-drivers
}
