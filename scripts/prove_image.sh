#!/bin/sh
# Builds the Dockerfile without a container engine and runs what it has built: sh scripts/prove_image.sh [OPTION...]
#
#   --targets "functions controller triggers"   which images (default: all three)
#   --engine cpu|gpu       of the functions image (default cpu; that for GPUs is built, never started: no GPU is asked for)
#   --release trixie|bookworm   Debian's release of the base image (default: the Dockerfile's, trixie; bookworm for
#                          functions with ENGINE=cpu where pip finds a CPU build of torch for its Python alone)
#   --work DIR             where everything lies meanwhile (default /var/tmp/pilotlight-image; 12 GB for cpu, 40 for gpu)
#   --keep                 leave the work folder there, and use one that was left
#   --report FILE          sizes and times as JSON (default build/image.json)
#   --limit SECONDS        of the whole (default 2400)
#
# The base image comes from no registry: mmdebstrap makes it of Debian's packages. buildah builds, each RUN in a chroot,
# with pip set up as on this machine. The image's own entry point is started as user 10001 and as one that no passwd
# file knows, without capabilities, with a read-only root, /tmp alone writable, and a network that has nothing but
# loopback. A `generate` stage has to serve a small model that the image itself has made; the others have to become ready.
# Needs root, buildah, mmdebstrap, jq (installed by apt-get where they are missing), a Debian mirror and a package
# index for pip. Everything is removed at the end; no daemon runs, no port of this machine is used.
set -eu
cd "$(dirname "$0")/.."
targets="functions controller triggers"
engine=cpu
release=
work=/var/tmp/pilotlight-image
keep=
report=build/image.json
limit=2400
die() { printf 'prove_image: %s\n' "$*" >&2; exit 1; }
say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }
while [ $# -gt 0 ]; do
  case $1 in
    --keep) keep=1; shift; continue ;;
    --help | -h) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
  esac
  [ $# -ge 2 ] || die "$1 needs a value, or is unknown; see --help"
  case $1 in
    --targets) targets=$2 ;;
    --engine) engine=$2 ;;
    --release) release=$2 ;;
    --work) work=$2 ;;
    --report) report=$2 ;;
    --limit) limit=$2 ;;
    *) die "$1 is unknown; see --help" ;;
  esac
  shift 2
done
for target in $targets; do
  case $target in functions | controller | triggers) ;; *) die "--targets: '$target' must be functions, controller or triggers" ;; esac
done
case $engine in cpu | gpu) ;; *) die "--engine = '$engine', must be cpu or gpu" ;; esac
case $release in '' | trixie | bookworm) ;; *) die "--release = '$release', must be trixie or bookworm" ;; esac
case $limit in '' | *[!0-9]*) die "--limit = '$limit', must be seconds" ;; esac
[ "$(id -u)" = 0 ] || die "must be root: mmdebstrap makes device files and owners of a base image"

# The whole is bounded: this script again, under timeout, in a process group of its own.
if [ -z "${PROVE_IMAGE_BOUNDED:-}" ]; then
  export PROVE_IMAGE_BOUNDED=1
  set -- --targets "$targets" --engine "$engine" --work "$work" --report "$report" --limit "$limit"
  if [ -n "$release" ]; then set -- "$@" --release "$release"; fi
  if [ -n "$keep" ]; then set -- "$@" --keep; fi
  # 60 s later what is left of it is killed, should cleaning up hang.
  timeout --kill-after 60 "$limit" sh "$0" "$@" && exit 0
  code=$?
  if [ $code = 124 ] || [ $code = 137 ]; then die "took longer than $limit s (--limit)"; fi
  exit $code
fi

missing=
for pair in buildah:buildah mmdebstrap:mmdebstrap jq:jq; do
  command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
if [ -n "$missing" ]; then
  say "installing$missing"
  # shellcheck disable=SC2086 # a list of words
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
    >/dev/null 2>&1 || die "cannot be installed:$missing"
fi

needed_gb=12
if [ "$engine" = gpu ]; then needed_gb=40; fi
mkdir -p "$work" "$(dirname "$report")"
work=$(cd "$work" && pwd)
free_gb=$(df -BG --output=avail "$work" | tail -n 1 | tr -dc '0-9')
[ "$free_gb" -ge "$needed_gb" ] || die "$work: $free_gb GB are free, $needed_gb are needed (--work DIR)"
export STORAGE_DRIVER=overlay BUILDAH_ISOLATION=chroot TMPDIR="$work/tmp"
mkdir -p "$TMPDIR"
buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }
mounted=
clean_up() {
  code=$?
  trap - EXIT INT TERM HUP
  for one in $mounted; do buildah umount "$one" >/dev/null 2>&1 || true; done
  if [ -z "$keep" ]; then
    buildah rm --all >/dev/null 2>&1 || true
    # The driver keeps its folder mounted.
    umount "$work/storage/overlay" 2>/dev/null || true
    rm -rf --one-file-system "$work"
  fi
  exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# pip in the build has what pip on this machine has: certificates, index, folders with packages.
mkdir -p "$work/pip"
cat /etc/ssl/certs/ca-certificates.crt >"$work/pip/ca.crt" 2>/dev/null || : >"$work/pip/ca.crt"
volumes="-v $work/pip:/run/pip:ro -v $work/pip/pip.conf:/etc/pip.conf:ro"
{
  printf '[global]\ntimeout = 120\nretries = 2\n'
  if [ -s "$work/pip/ca.crt" ]; then echo 'cert = /run/pip/ca.crt'; fi
  for key in index-url find-links; do
    value=$(python3 -m pip config get "global.$key" 2>/dev/null || true)
    if [ -n "$value" ]; then echo "$key = $value"; fi
  done
} >"$work/pip/pip.conf"
for folder in $(sed -n 's/^find-links = //p' "$work/pip/pip.conf"); do
  if [ -d "$folder" ]; then volumes="$volumes -v $folder:$folder:ro"; fi
done
has_torch() { # PYTHON: is there a locked CPU build of torch for it?
  python3 -m pip install -q --dry-run --no-deps --ignore-installed --target "$work/none" --only-binary :all: \
    --python-version "$1" --platform manylinux_2_28_x86_64 --retries 0 --require-hashes \
    --extra-index-url https://download.pytorch.org/whl/cpu -r locks/torch-cpu.txt >/dev/null 2>&1
}
release_of() { # TARGET
  if [ -n "$release" ]; then
    echo "$release"
  elif [ "$1" = functions ] && [ "$engine" = cpu ] && ! has_torch 3.13; then
    echo bookworm
  else
    sed -n 's/^ARG BASE=debian:\([a-z]*\)-slim$/\1/p' Dockerfile
  fi
}
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$work/policy.json"
make_base() { # RELEASE: what debian:RELEASE-slim holds, made of the same packages
  name=docker.io/library/debian:$1-slim
  if buildah images -q "$name" >/dev/null 2>&1; then return; fi
  say "base image $name: mmdebstrap"
  mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
  mmdebstrap --quiet --variant=minbase --include=ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' "$1" "$work/base.tar" \
    "deb $mirror $1 main" "deb $mirror $1-updates main" "deb $mirror-security $1-security main"
  base=$(buildah from scratch)
  buildah add -q "$base" "$work/base.tar" / >/dev/null
  rm "$work/base.tar"
  buildah commit -q --signature-policy "$work/policy.json" --rm "$base" "$name" >/dev/null
}
inside() { # USER MODEL_MODE ARGUMENTS...: runs in the image that is mounted at $root, in namespaces of its own
  env -i ROOT="$root" PROOF="$work/pip" MODEL="$work/model" MODE="$2" IDS="$1" PATH="$PATH" \
    VARIABLES="$(jq -r '(.Env // [])[]' "$work/image.json")" unshare --mount --pid --fork --kill-child --net --ipc --uts \
    sh -c '
      set -eu
      shift 2
      mount --make-rprivate /
      mount --bind "$ROOT" "$ROOT"
      mount -o remount,bind,ro,nosuid "$ROOT"
      mount -t proc proc "$ROOT/proc"
      mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$ROOT/tmp"
      mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
      for device in null zero full random urandom; do
        : >"$ROOT/dev/$device"
        mount --bind "/dev/$device" "$ROOT/dev/$device"
      done
      ln -s /proc/self/fd "$ROOT/dev/fd"
      mkdir "$ROOT/dev/shm"
      mount -t tmpfs -o mode=1777,nosuid,nodev,size=1g shm "$ROOT/dev/shm"
      mount --rbind -o ro /sys "$ROOT/sys"
      mount -t tmpfs -o mode=755 tmpfs "$ROOT/mnt"
      mkdir "$ROOT/mnt/proof" "$ROOT/mnt/model"
      mount --bind "$PROOF" "$ROOT/mnt/proof"
      mount --bind "$MODEL" "$ROOT/mnt/model"
      mount -o "remount,bind,ro" "$ROOT/mnt/proof"
      mount -o "remount,bind,$MODE" "$ROOT/mnt/model"
      python3 -c "import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack(\"16sH14s\", b\"lo\", 0x49, b\"\"))"
      exec env -i $VARIABLES chroot "$ROOT" setpriv --reuid "${IDS%%:*}" --regid "${IDS##*:}" --clear-groups \
        --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
    ' inside "$@" </dev/null
}

mkdir -p "$work/model"
chmod 1777 "$work/model"
cp scripts/prove_image_inside.py "$work/pip/inside.py"
chmod 755 "$work" "$work/pip"
echo '{}' >"$work/report.json"
for target in $targets; do
  chosen=$(release_of "$target")
  make_base "$chosen"
  tag=pilotlight-$target
  say "$target: buildah on debian:$chosen-slim, ENGINE=$engine (log: $work/$target-build.log)"
  began=$(date +%s)
  # shellcheck disable=SC2086 # $volumes is several words
  buildah bud --signature-policy "$work/policy.json" --pull-never --layers --build-arg BASE="docker.io/library/debian:$chosen-slim" \
    --build-arg ENGINE="$engine" $volumes --target "$target" -t "$tag" -f Dockerfile . >"$work/$target-build.log" 2>&1 || {
    tail -n 30 "$work/$target-build.log" >&2
    die "$target: the build fails"
  }
  took=$(($(date +%s) - began))
  buildah inspect --type image "$tag" | jq '.OCIv1.config' >"$work/image.json"
  [ "$(jq -r .User "$work/image.json")" = 10001 ] || die "$target: the image's user is not 10001"
  container=$(buildah from --pull-never --signature-policy "$work/policy.json" "$tag")
  mounted="$mounted $container"
  root=$(buildah mount "$container")
  # What is left of a build has no place in an image.
  for leftover in pip gcc; do
    if [ "$target-$leftover" != functions-gcc ] && chroot "$root" sh -c "command -v $leftover" >/dev/null; then
      die "$target: has $leftover"
    fi
  done
  packages=$(du -sm "$root/opt/pilotlight" | cut -f1)
  total=$(du -smx "$root" | cut -f1)
  say "$target: $total MB, of which Python packages $packages MB; built in $took s"
  results='[]'
  if [ "$target-$engine" = functions-gpu ]; then
    say "functions: built for GPUs; not started (no GPU is asked for here)"
  else
    if [ "$target" = functions ] && [ ! -e "$work/model/demo" ]; then
      inside 10001:10001 rw python /mnt/proof/inside.py model /mnt/model/demo
    fi
    for user in 10001:10001 1234567:0; do
      # shellcheck disable=SC2046 # the entry point is several words
      inside "$user" ro python /mnt/proof/inside.py "$target" $(jq -r '(.Entrypoint + (.Cmd // []))[]' "$work/image.json") \
        >"$work/answer.json" 2>"$work/$target-run.log" || {
        tail -n 30 "$work/$target-run.log" >&2
        die "$target: fails as user $user"
      }
      say "$target as user $user: $(cat "$work/answer.json")"
      results=$(jq -c --argjson all "$results" '$all + [.]' "$work/answer.json")
    done
  fi
  chroot "$root" dpkg-query -W -f '${Package}\t${Version}\t${Architecture}\n' >"$work/$target-debian.tsv"
  cat "$work/$target-debian.tsv" >"$(dirname "$report")/$target-packages.new"
  mv "$(dirname "$report")/$target-packages.new" "$(dirname "$report")/$target-debian.tsv"
  jq --arg target "$target" --arg base "debian:$chosen-slim" --arg engine "$engine" --argjson total "$total" \
    --argjson packages "$packages" --argjson seconds "$took" --argjson runs "$results" \
    '.[$target] = {base: $base, engine: $engine, megabytes: $total, python_megabytes: $packages,
                   build_seconds: $seconds, runs: $runs}' "$work/report.json" >"$work/report.new"
  mv "$work/report.new" "$work/report.json"
done
cp "$work/report.json" "$report"
say "proven: $targets; sizes and times are in $report"
