# Sourced by quickstart and test: makes .venv with one extra of advjax, once.
# Usage: . scripts/_bootstrap.sh EXTRA      sets $venv; PYTHON=... chooses the interpreter.

venv=${ADVJAX_VENV:-.venv}

find_python() {
    for name in ${PYTHON:-} python3.12 python3.11 python3 python; do
        command -v "$name" >/dev/null 2>&1 || continue
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return 0
        fi
    done
    echo "advjax needs Python 3.11 or newer with venv: install it (python3.12, python3.12-venv)," >&2
    echo "or name one: PYTHON=/path/to/python3.12 $0" >&2
    return 1
}

# an interrupt while it is made leaves an environment without pip
usable() {
    [ -x "$venv/bin/python" ] &&
        "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
        "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

bootstrap() {
    extra=$1
    if ! usable; then
        if [ -n "${ADVJAX_VENV:-}" ] && [ -e "$venv" ]; then
            # a folder that somebody named is not ours to empty
            echo "advjax: $venv has no Python 3.11 or newer with pip; remove it or unset ADVJAX_VENV" >&2
            exit 1
        fi
        python=$(find_python) || exit 1
        echo "advjax: making $venv with $("$python" --version)"
        "$python" -m venv --clear "$venv"
    fi
    version=$("$venv/bin/python" -c 'import sys; print(f"{sys.version_info[0]}{sys.version_info[1]}")')
    pins=constraints/py$version.txt
    # newer Pythons get the newest pins
    [ -f "$pins" ] || pins=constraints/py312.txt
    stamp=$venv/advjax-$extra.stamp
    wanted=$(cat pyproject.toml "$pins" | cksum)
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
        echo "advjax: installing with the extra '$extra' (about 1 GB, once)"
        # pip's own progress bars for a person, silence for a log
        quiet=--quiet
        [ -t 1 ] && quiet=
        "$venv/bin/python" -m pip install $quiet --disable-pip-version-check \
            --constraint "$pins" --editable ".[$extra]"
        echo "$wanted" >"$stamp"
    fi
}

bootstrap "$1"
