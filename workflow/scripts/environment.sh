#!/usr/bin/env bash
# Make or repair the virtual environment $1: the package with all extras, at the versions of constraints.txt.
set -euo pipefail

venv=$1
log=$venv/install.log

python=
for candidate in "${PYTHON3:-}" python3 python3.13 python3.12 python3.11 python; do
    # A name in PATH may still be no Python, or another version than it says: ask it.
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "make: no Python 3.11, 3.12 or 3.13 found (tried python3.13 ... python3, python); install one, or name it:" \
        "make PYTHON3=/path/to/python3" >&2
    exit 1
fi

rm -f "$venv/ready"
# An environment that was moved, or whose Python is gone, is made again; one that runs is brought up to date.
if ! "$venv/bin/python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 \
    || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 \
    || ! head -n 3 "$venv/bin/pip" 2>/dev/null | grep -qF "$(pwd -P)/$venv/bin/python"; then
    rm -rf "$venv"
    if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        echo "make: $("$python" -c 'import sys; print(sys.executable)') lacks venv or ensurepip; on Debian and Ubuntu:" \
            "apt install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2
        exit 1
    fi
    echo "Making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi

step() {
    echo "$1"
    shift
    if ! "$@" >>"$log" 2>&1; then
        tail -n 15 "$log" >&2
        echo "make: could not install; all of what was said is in $log; the same command goes on from here" >&2
        exit 1
    fi
}

: >"$log"
pip=("$venv/bin/python" -m pip install --disable-pip-version-check --no-input -c constraints.txt)
# pip first: a wheel for this machine may only be found through pip's own configuration, which uv does not read.
step "Installing torch (up to 3 GB where the index's wheel brings CUDA); pip's own words go to $log" "${pip[@]}" torch
if command -v uv >/dev/null 2>&1; then
    pip=(uv pip install --python "$venv/bin/python" -c constraints.txt)
fi
step "Installing the rest (a few minutes at most)" "${pip[@]}" -e '.[dev,docs,notebooks,video,workflow]'
touch "$venv/ready"
