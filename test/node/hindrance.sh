#!/bin/sh
# Says in one line why this machine cannot run the tests on real nodes; says nothing if it can. With the argument
# packages: which of Debian's packages are missing.
set -eu
. "$(dirname "$0")/sandbox/hindrance.sh"

need runc runc
need iptables iptables
need conntrack conntrack
need buildah buildah
need debootstrap debootstrap
need ip iproute2
need mkfs.ext4 e2fsprogs
need nsenter util-linux
# These are no programs on the path.
[ -e /usr/lib/cni/bridge ] || [ -e /opt/cni/bin/bridge ] || missing="$missing containernetworking-plugins"

if [ "${1:-}" = packages ]; then
  echo $missing
  exit
fi

check_sandbox
[ -e /dev/loop-control ] || hindered "there are no loop devices"
