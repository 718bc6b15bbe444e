#!/bin/sh
# Provides CRIU 4.1 or later for the tests of snapshots: sh scripts/criu.sh FOLDER; prints the program's path.
# Debian 12 has CRIU 3.17, which cannot read the vDSO of current kernels. There, Debian 13's package and its
# libraries are unpacked into a folder, verified by apt as always, and run with their own dynamic loader.
set -eu
new_enough() { "$1" --version 2>/dev/null | grep -Eq '^Version: (4\.[1-9]|4\.[1-9][0-9]|[5-9])'; }

if program=$(command -v criu) && new_enough "$program"; then
  echo "$program"
  exit 0
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
program=$folder/criu
if [ -x "$program" ] && new_enough "$program"; then
  echo "$program"
  exit 0
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null
mkdir -p "$folder/sources" "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/packages" "$folder/root"
# The machine's own mirrors of Debian, with the newer release.
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
  if [ -f "$file" ]; then
    sed -e 's/bookworm-updates//g' -e 's/bookworm-backports//g' -e 's/bookworm/trixie/g' "$file" \
      >"$folder/sources/$(basename "$file" .list).${file##*.}"
  fi
done
options="-qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=$folder/sources
  -o Dir::State::Lists=$folder/lists -o Dir::Cache=$folder/cache -o APT::Get::List-Cleanup=0 -o APT::Sandbox::User=root"
# shellcheck disable=SC2086 # options are several words
apt-get $options update >&2
# shellcheck disable=SC2086
packages=$(apt-cache $options depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
  --no-replaces --no-enhances criu | grep -E '^[a-z0-9]' | sort -u)
# shellcheck disable=SC2086
(cd "$folder/packages" && apt-get $options download $packages >&2)
for package in "$folder"/packages/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
loader=$(find "$folder/root" -name 'ld-linux*.so.*' | head -n 1)
libraries=$(dirname "$(find "$folder/root" -name 'libnet.so.*' | head -n 1)")
cat >"$program.new" <<END
#!/bin/sh
exec "$loader" --library-path "$libraries" "$folder/root/usr/sbin/criu" "\$@"
END
chmod 755 "$program.new"
rm -rf "$folder/packages" "$folder/cache" "$folder/lists"
"$program.new" --version | grep -q '^Version:'
mv "$program.new" "$program"
new_enough "$program"
echo "$program"
