#!/bin/sh
# Says in one line why this machine cannot run the tests on real nodes; says nothing if it can. With the argument
# packages: which of Debian's packages are missing.
set -eu

missing=
need() { command -v "$1" >/dev/null || missing="$missing $2"; }
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

hindered() { echo "$*"; exit; }
[ "$(uname -s)" = Linux ] || hindered "it is not Linux"
[ "$(id -u)" = 0 ] || hindered "this is not root"
[ -z "$missing" ] || hindered "these are missing, as Debian calls their packages:$missing"
unshare --mount --pid --net --ipc --uts --fork true 2>/dev/null || hindered "no namespaces may be made (is this a container without CAP_SYS_ADMIN?)"
for root in /sys/fs/cgroup /sys/fs/cgroup/memory; do
  [ ! -e $root/cgroup.procs ] || { mkdir $root/stoker-hindrance-$$ && rmdir $root/stoker-hindrance-$$; } 2>/dev/null || hindered "no cgroups may be made in $root"
done
[ -e /dev/loop-control ] || hindered "there are no loop devices"
# Containers' file systems are overlays; another overlay can hold none.
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/lower" "$dir/upper" "$dir/work" "$dir/at"
unshare --mount mount -t overlay overlay -o "lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work" "$dir/at" 2>/dev/null ||
  hindered "the file system of ${TMPDIR:-/tmp} can hold no overlay"
