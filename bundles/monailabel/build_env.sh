#!/usr/bin/env bash
# Builds the environment of the MONAI Label app: build_env.sh <folder> [--tests]
# PYTHON names the interpreter to build it with (3.11 by default); --tests adds what the tests need.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${2:---tests}" != --tests ]; then
  echo "usage: $0 <folder of the new environment> [--tests]" >&2
  exit 2
fi

app="$(cd "$(dirname "$0")" && pwd)"
"${PYTHON:-python3.11}" -m venv "$1"
pip="$1/bin/pip"
"$pip" install --quiet -r "$app/requirements.txt"
# Without their dependencies: see requirements.txt. AE-Flow itself is found beside the app.
"$pip" install --quiet --no-deps monailabel==0.8.5
if [ "${2:-}" = --tests ]; then
  grep -E '^(pytest|pytest-xdist|hypothesis|FrEIA|selenium)==' "$app/../../constraints.txt" |
    xargs "$pip" install --quiet
fi
(cd "$app/../.." && pwd) > \
  "$("$1/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/aeflow.pth"
echo "Ready: $1/bin/python -m monailabel.main start_server --app $app --studies <folder> --conf models aeflow --host 127.0.0.1"
