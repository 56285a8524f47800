#!/bin/sh
# Installs headwater-agent on a Raspberry Pi or any Debian-like Linux, in an environment of its own.
# It does what `pipx install "headwater[agent]"` does, and finds the wheels that a 32-bit Pi needs.
#
#   sudo sh install-agent.sh                        # from the package index, into /opt/headwater
#   sudo sh install-agent.sh --wheel FILE.whl       # a wheel that was copied here
#   sh install-agent.sh --prefix ~/headwater        # without root
#   sh install-agent.sh --index URL                 # another package index
set -eu

PREFIX=/opt/headwater
BIN=/usr/local/bin
WHEEL=
INDEX=
PIWHEELS=https://www.piwheels.org/simple

say() { printf 'install-agent: %s\n' "$1"; }
fail() { printf 'install-agent: %s; %s\n' "$1" "$2" >&2; exit 2; }

while [ $# -gt 0 ]; do
  case "$1" in
    --wheel | --prefix | --index | --bin)
      [ $# -ge 2 ] || fail "$1 has no value" "write $1 VALUE"
      case "$1" in
        --wheel) WHEEL=$2 ;;
        --prefix) PREFIX=$2 ;;
        --index) INDEX=$2 ;;
        --bin) BIN=$2 ;;
      esac
      shift 2 ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) fail "unknown option $1" "see --help" ;;
  esac
done

[ -z "$WHEEL" ] || [ -f "$WHEEL" ] || fail "$WHEEL does not exist" "name a .whl file"

# 3.11 first: tflite-runtime has wheels for it on every Pi, 32-bit ones included. From 3.12 on the
# trainer is ai-edge-litert, which has 64-bit wheels only.
PYTHON=
for name in python3.11 python3 python3.12 python3.13; do
  if command -v "$name" > /dev/null 2>&1 &&
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
    PYTHON=$name
    break
  fi
done
[ -n "$PYTHON" ] || fail "no Python 3.11 or newer" \
  "sudo apt-get install python3 python3-venv (Raspberry Pi OS 12 or newer has 3.11)"
"$PYTHON" -c 'import ensurepip, venv' 2> /dev/null ||
  fail "$PYTHON has no venv module" "sudo apt-get install python3-venv"

case "$(uname -m)" in
  armv6l | armv7l | armhf)
    # PyPI holds no 32-bit ARM wheels of numpy, cbor2 and pycryptodome, and building them takes a Pi
    # hours and more memory than it has. piwheels.org, of the Raspberry Pi project, has them built.
    set -- --extra-index-url "$PIWHEELS"
    say "32-bit ARM: wheels come from $PIWHEELS as well"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info >= (3, 12))' ||
      fail "no TFLite runtime for 32-bit ARM on $("$PYTHON" --version)" "use Python 3.11, or a 64-bit system"
    ;;
  *) set -- ;;
esac
[ -z "$INDEX" ] || set -- "$@" --index-url "$INDEX"

mkdir -p "$PREFIX" 2> /dev/null && [ -w "$PREFIX" ] ||
  fail "$PREFIX cannot be written" "run it with sudo, or give --prefix"
if [ ! -x "$PREFIX/bin/python" ]; then
  "$PYTHON" -m venv "$PREFIX" || fail "no environment in $PREFIX" "remove $PREFIX and try again"
fi

if [ -n "$WHEEL" ]; then
  REQUIREMENT="headwater[agent] @ file://$(cd "$(dirname "$WHEEL")" && pwd)/$(basename "$WHEEL")"
else
  REQUIREMENT='headwater[agent]'
fi
# Wheels only where there are some: a Pi should never start a compiler by accident.
"$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade \
  --prefer-binary "$@" "$REQUIREMENT" ||
  fail "pip could not install $REQUIREMENT" "check the network; the lines above say what is missing"
if [ -n "$WHEEL" ]; then
  # pip takes a wheel of the version that is there already for the same one; this one was asked for.
  "$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-deps --force-reinstall "$WHEEL" || fail "pip could not install $WHEEL" "see the lines above"
fi

"$PREFIX/bin/headwater-agent" --help > /dev/null || fail "the installation does not start" "run it again"
if [ -w "$BIN" ] && [ "$PREFIX" != "${BIN%/bin}" ]; then
  ln -sf "$PREFIX/bin/headwater-agent" "$BIN/headwater-agent"
  say "headwater-agent is in $BIN"
else
  say "headwater-agent is in $PREFIX/bin"
fi
say "next: headwater-agent init --help, then headwater-agent doctor, then sudo headwater-agent install-service"
