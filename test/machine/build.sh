#!/bin/sh
# Builds the kernel and the root directory that the tests' machines boot, once, below the directory given as the
# argument, and prints the directory that holds them. Progress goes to standard error. With the argument key it prints
# the name of that directory only. The exit code is 3 when Debian no longer serves a kernel that can run here.
#
#   kernel         user-mode Linux: a kernel that runs as a process
#   kernel.sha256  its checksum, checked before every boot
#   root/          the root file system of every machine, with the kernel's modules; machines never write to it
#   root.files     the checksum and path of every file below root/
#   about          the versions of what is in here
#
# Packages come from Debian through apt, which checks signatures; the kernel's package is pinned by checksum too.
set -eu

# The first choice: Linux 7.2. It needs glibc 2.38, which the root directory has.
SUITE=forky VERSION=7.2um1
SHA256=f947c9244fd79d481299df2ad68961f6b3b7703bff38c4b0e726f861161da62c
# The second, for when Debian no longer serves the first: Linux 6.1. It crashes on processors with AMX.
OLD_SUITE=bookworm OLD_VERSION=6.1um4+b13
OLD_SHA256=0ce700f835c385ab09860ad33137817402403a29e424177510244bd75a81c687

ROOT_SUITE=trixie
ROOT_PACKAGES=nfs-kernel-server,nfs-common,iproute2,iputils-ping,xfsprogs,e2fsprogs,mount,kmod,procps,ca-certificates
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Everything that decides the result is in this file.
key=$(sha256sum <"$0" | cut -c1-16)
[ "$1" != key ] || { echo "$key"; exit; }
mkdir -p "$1"
place=$(cd "$1" && pwd)/$key
[ ! -e "$place" ] || { echo "$place"; exit; }

start=$(date +%s)
step() { echo "[$(date +%T)] machine: $*" >&2; }
die() { echo "build the machines' kernel and root directory: $*" >&2; exit 1; }
# no_kernel ends with code 3: there is nothing to boot, and nothing here can change that.
no_kernel() { echo "build the machines' kernel: $*" >&2; exit 3; }

new=$place.new.$$
mkdir "$new"
trap 'rm -rf "$new"' EXIT
trap 'exit 1' INT TERM HUP
exec 3>&1 >"$new/log" 4>&2
trap 'code=$?; [ $code = 0 ] || tail -n 40 "$new/log" >&4; rm -rf "$new"; exit $code' EXIT

# The mirror that this machine's own apt uses.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
[ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' | grep '/debian/*$' | head -n 1)
[ -n "$mirror" ] || die "apt knows no Debian archive on this machine (is /etc/apt/sources.list empty?)"

# fetch_kernel SUITE VERSION SHA256 leaves the package's files in $new/package. It returns 1 if Debian no longer has it.
fetch_kernel() {
  apt=$new/apt-$1
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/empty"
  echo "deb [signed-by=$KEYRING] $mirror $1 main" >"$apt/sources.list"
  options="-q -o Dir::Etc::sourcelist=$apt/sources.list -o Dir::Etc::sourceparts=$apt/empty -o Dir::State::lists=$apt/lists
    -o Dir::Cache=$apt/cache -o APT::Sandbox::User=root -o Acquire::Languages=none"
  apt-get $options update || return 1
  (cd "$apt" && apt-get $options download "user-mode-linux=$2") || return 1
  echo "$3  $(ls "$apt"/user-mode-linux_*.deb)" | sha256sum -c - || die "user-mode-linux $2 has another checksum than the pinned one"
  dpkg-deb -x "$apt"/user-mode-linux_*.deb "$new/package"
  rm -rf "$apt"
}

step "kernel (36 MB to download)"
if fetch_kernel $SUITE $VERSION $SHA256 2>&1; then
  version=$VERSION
else
  step "Debian has no user-mode-linux $VERSION any more; using $OLD_VERSION"
  ! grep -qw amx_tile /proc/cpuinfo || no_kernel "user-mode-linux $OLD_VERSION crashes on processors with AMX, which this one has"
  fetch_kernel $OLD_SUITE $OLD_VERSION $OLD_SHA256 2>&1 || no_kernel "Debian has no user-mode-linux $OLD_VERSION either"
  version=$OLD_VERSION
fi

step "root directory (about 40 s on 2 cores)"
mmdebstrap --variant=essential --format=directory --include=$ROOT_PACKAGES --keyring=$KEYRING \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
  $ROOT_SUITE "$new/root" "deb [signed-by=$KEYRING] $mirror $ROOT_SUITE main" 2>&1

step "modules and checksums"
mkdir -p "$new/root/usr/lib/modules"
cp -a "$new"/package/usr/lib/uml/modules/* "$new/root/usr/lib/modules/"
# Nobody answers name queries there: with a name server configured, every mount would wait for it.
: >"$new/root/etc/resolv.conf"
sed -i 's/^hosts:.*/hosts: files/' "$new/root/etc/nsswitch.conf"
cp "$new/package/usr/bin/linux.uml" "$new/kernel"
# The kernel uses the root directory's C library, in its final place.
patchelf --set-interpreter "$place/root/usr/lib64/ld-linux-x86-64.so.2" --set-rpath "$place/root/usr/lib/x86_64-linux-gnu" "$new/kernel"
sha256sum <"$new/kernel" | cut -d' ' -f1 >"$new/kernel.sha256"
(cd "$new/root" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) >"$new/root.files"
{
  echo "user-mode-linux $version, Linux $(ls "$new/root/usr/lib/modules")"
  echo "root.files sha256 $(sha256sum <"$new/root.files" | cut -d' ' -f1)"
  sed -n '/^Package: /{s///;h};/^Version: /{s///;H;x;s/\n/ /;p}' "$new/root/var/lib/dpkg/status"
} >"$new/about"
rm -rf "$new/package" "$new/log"

# Another clone may have been faster.
mv -T "$new" "$place" 2>/dev/null || [ -e "$place/kernel" ] || die "$place cannot be made"
step "done in $(($(date +%s) - start)) s: $place ($(du -sh "$place" | cut -f1))"
echo "$place" >&3
