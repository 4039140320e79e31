#!/usr/bin/env bash
# Makes .venv with exactly what the lock files name; returns at once when it is there already.
#
#   PYTHON=/path/to/python3.11   where python3.11 is not on the PATH
#   DEVICE=cpu|gpu               instead of looking for an NVIDIA GPU
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VENV=.venv LOCKS=cluster/requirements LOG=.venv/install.log STAMP=.venv/installed
readonly UV="uv==0.13.9"   # only where pip does not find torch

say() { printf '%s\n' "$*" >&2; }
die() { say "install: $*"; exit 1; }

find_device() {
    if [ -n "${DEVICE:-}" ]; then echo "$DEVICE"
    elif [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; then echo gpu
    else echo cpu; fi
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "Python 3.11 is needed and was not found. On Debian 12: apt-get install python3.11 python3.11-venv"
}

# What pip cannot bring: Debian's python3.11 comes without ensurepip, and vLLM's CPU kernels link to libnuma.
missing_system_packages() {
    local python=$1 device=$2
    "$python" -c 'import ensurepip' 2>/dev/null || echo python3.11-venv
    if [ "$device" = cpu ]; then
        "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || echo libnuma1
    fi
}

install_system_packages() {
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "install: apt-get install $*"
        if { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null; then
            return
        fi
    fi
    die "system packages are missing. Install them, then try again:  sudo apt-get install $*"
}

# tick NAME: the seconds so far and the newest line of the log, until killed.
tick() {
    local name=$1 began=$SECONDS newest
    while sleep 1; do
        newest=$(tail -n 1 "$LOG" | tr -d '\r' | cut -c 1-64)
        if [ -t 2 ]; then
            printf '\r\033[K  %-22s %4d s  %s' "$name" $((SECONDS - began)) "$newest" >&2
        elif [ $(((SECONDS - began) % 10)) = 0 ]; then
            say "  $name: $((SECONDS - began)) s  $newest"
        fi
    done
}

# step NAME COMMAND…: the command's output goes to the log, its progress to the terminal. The command is the one in
# the foreground, so that Ctrl-C ends it; the ticker goes with the script.
step() {
    local name=$1 began=$SECONDS ticker outcome=0
    shift
    tick "$name" &
    ticker=$!
    # shellcheck disable=SC2064  # this ticker's id, now
    trap "kill $ticker 2>/dev/null" EXIT
    "$@" >>"$LOG" 2>&1 || outcome=$?
    kill "$ticker" 2>/dev/null
    trap - EXIT
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
    if [ $outcome = 0 ]; then
        say "  $name: done in $((SECONDS - began)) s"
    else
        say "  $name: failed after $((SECONDS - began)) s; the end of $LOG:"
        tail -n 15 "$LOG" >&2
        return "$outcome"
    fi
}

pip_install() { "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"; }

# Some machines' pip knows a folder or an index that has the CPU build; elsewhere uv knows PyTorch's own.
torch_for_cpu() {
    pip_install --no-deps -r "$LOCKS/torch-cpu.txt" && return
    pip_install "$UV" &&
        "$VENV/bin/uv" pip install --python "$VENV/bin/python" --no-deps --torch-backend cpu -r "$LOCKS/torch-cpu.txt"
}

main() {
    local device python wanted
    device=$(find_device)
    [ -f "$LOCKS/$device.txt" ] || die "DEVICE must be cpu or gpu, not $device"
    # The path is a part of it: a virtual environment that was moved or copied does not work.
    wanted="$device $PWD $(cat "$LOCKS/$device.txt" "$LOCKS/torch-cpu.txt" | sha256sum | cut -d ' ' -f 1)"
    if [ "$(cat "$STAMP" 2>/dev/null)" = "$wanted" ]; then return; fi

    python=$(find_python)
    # shellcheck disable=SC2046  # one word a package
    install_system_packages $(missing_system_packages "$python" "$device")

    say "install: $VENV for $device, some minutes the first time; details in $LOG"
    # A stamp that differs: begin anew, as pip removes nothing. No stamp: an interrupted install goes on.
    if [ -f "$STAMP" ] || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --clear "$VENV"
    fi
    : >"$LOG"
    if [ "$device" = cpu ]; then step "PyTorch for CPU" torch_for_cpu; fi
    step "$(grep -c == "$LOCKS/$device.txt") packages" \
        pip_install --no-deps --require-hashes -r "$LOCKS/$device.txt"
    echo "$wanted" >"$STAMP"
}

# Two at a time (make serve beside make test): the second waits, and finds the work done.
exec 9<"$0"
flock 9
main
