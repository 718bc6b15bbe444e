#!/bin/sh
# Writes constraints.txt from what is installed: sh scripts/lock.sh VENV
# Development tools that only a person uses by hand are left out by not being installed.
set -eu
{
  echo "# Versions that are known to work together; made by 'make lock'."
  "$1/bin/python" -m pip freeze --exclude-editable --disable-pip-version-check |
    sed 's/ @ .*//' | grep -E '^[A-Za-z0-9._-]+==' | grep -viE '^(torchvision|torchaudio|torchcodec|pip|setuptools)=='
} >constraints.new
mv constraints.new constraints.txt
echo "constraints.txt: $(grep -c == constraints.txt) packages"
