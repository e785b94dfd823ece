#!/bin/sh
# Brings what Python's packages cannot: `machine.sh venv` for every make target, `machine.sh servers`
# for the tests and benches. Says what it would need where it may not install it.
set -eu

install() {
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "penstock: please install: $*" >&2
        return 1
    fi
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            echo "penstock: please run: sudo apt-get install $*" >&2
            return 1
        fi
        as_root="sudo"
    fi
    echo "penstock: installing $*"
    $as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

have() { # have NAME: on PATH, or where Debian keeps the server programs
    command -v "$1" >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/"$1" >/dev/null 2>&1
}

case "${1:-}" in
venv)
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "penstock: Python 3.11 or later is needed" >&2
        exit 1
    }
    # Debian's python3 comes without ensurepip, and `python3 -m venv` wants it.
    python3 -c 'import ensurepip, venv' 2>/dev/null || install python3-venv
    ;;
servers)
    missing=""
    have redis-server || missing="$missing redis-server"
    have initdb || missing="$missing postgresql"
    have psql || missing="$missing postgresql-client"
    # shellcheck disable=SC2086 # several words are wanted
    if [ -n "$missing" ] && ! install $missing; then
        echo "penstock: going on with the servers out of Python wheels" >&2
    fi
    ;;
*)
    echo "usage: machine.sh venv|servers" >&2
    exit 2
    ;;
esac
