#!/usr/bin/env bash
# Run tests with every declared Python that this machine has besides the one in .venv.
#
#   scripts/test_pythons.sh "3.11 3.12 3.13" [arguments of pytest]
#
# Each gets a virtual environment of its own under build/, made as .venv is.
set -euo pipefail
cd "$(dirname "$0")/.."
versions=$1
shift

find_python() {  # prints the program; a shim of pyenv may be there and not work
    for program in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if "$program" -c "" 2> /dev/null; then
            echo "$program"
            return
        fi
    done
}

for version in $versions; do
    [ ! -x ".venv/bin/python$version" ] || continue
    program=$(find_python "$version")
    if [ -z "$program" ]; then
        echo "Python $version is not here: not tested"
        continue
    fi
    make --no-print-directory PYTHON="$program" VENV="build/venv-$version" venv
    echo "Python $version:"
    "build/venv-$version/bin/python" -m pytest "$@"
done
