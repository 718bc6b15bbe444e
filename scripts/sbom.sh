#!/bin/sh
# Writes a software bill of materials (CycloneDX 1.6, JSON) for each image: sh scripts/sbom.sh VENV [FOLDER [IMAGE...]]
# The Python packages are those of the image's lock, with the hashes that it installs by. Debian's packages are added
# where `make prove-image` has left their list (build/IMAGE-debian.tsv); without it the document has none of them.
set -eu
venv=$1
folder=${2:-build/sbom}
if [ $# -gt 2 ]; then shift 2; else set -- functions-gpu functions-cpu controller triggers; fi
lists=${DEBIAN_LISTS:-build}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
write() { # IMAGE LOCK...
  image=$1
  shift
  for lock in "$@"; do cat "locks/$lock.txt"; done |
    "$venv/bin/cyclonedx-py" requirements --sv 1.6 --output-reproducible --no-validate -o "$work/python.json" -
  "$venv/bin/python" scripts/sbom_complete.py "$work/python.json" "pilotlight-$image" "$version" \
    "$lists/${image%-[cg]pu}-debian.tsv" >"$work/$image.json"
  mv "$work/$image.json" "$folder/$image.cdx.json"
}
for one in "$@"; do
  case $one in
    functions-cpu) write "$one" functions-cpu torch-cpu ;;
    functions-gpu | controller | triggers) write "$one" "$one" ;;
    *) echo "sbom: IMAGE = $one, must be functions-gpu, functions-cpu, controller or triggers" >&2 && exit 2 ;;
  esac
  echo "$folder/$one.cdx.json"
done
