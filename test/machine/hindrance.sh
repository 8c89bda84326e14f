#!/bin/sh
# Reports in one line why this machine cannot boot the tests' machines; prints nothing if it can. With the argument
# packages: which of Debian's packages are missing.
set -eu
. "$(dirname "$0")/../node/sandbox/hindrance.sh"

need ip iproute2
need mke2fs e2fsprogs
need nsenter util-linux
need mmdebstrap mmdebstrap
need patchelf patchelf
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"

if [ "${1:-}" = packages ]; then
  echo $missing
  exit
fi

check_sandbox
[ "$(uname -m)" = x86_64 ] || hindered "it is not x86-64, which the kernel is built for"
command -v apt-get >/dev/null || hindered "there is no apt, by which the kernel and its root directory are downloaded"
# In namespaces, because the interface must not be this machine's.
unshare --net ip tuntap add dev stoker-tap mode tap 2>/dev/null || hindered "no network interface may be made through /dev/net/tun"
