#!/bin/sh
# Unpacks Debian's RabbitMQ and its Erlang for the tests: sh scripts/rabbitmq.sh VENV
# Nothing is installed, so that no server is started; needs apt-get and dpkg-deb, but no rights.
set -eu
venv=$(cd "$1" && pwd)
[ ! -e "$venv/rabbitmq/.ready" ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
packages=rabbitmq-server
for part in asn1 base crypto eldap ftp inets mnesia os-mon parsetools public-key runtime-tools snmp ssl syntax-tools tftp tools xmerl; do
  packages="$packages erlang-$part"
done
# The lists may be old or missing; only root can renew them.
# shellcheck disable=SC2086 # a list of words
apt-get download -qq $packages 2>/dev/null || { apt-get update -qq && apt-get download -qq $packages; }
rm -rf "$venv/rabbitmq"
for package in *.deb; do
  dpkg-deb -x "$package" "$venv/rabbitmq"
done
# Erlang's launcher has its folder written into it.
sed -i "s#ROOTDIR=/usr/lib/erlang#ROOTDIR=$venv/rabbitmq/usr/lib/erlang#" "$venv/rabbitmq/usr/lib/erlang/bin/erl"
: >"$venv/rabbitmq/.ready"
