# Sourced by the scripts that report why a machine cannot run tests in a sandbox.

missing=
# need PROGRAM PACKAGE notes one of Debian's packages when its program is missing.
need() { command -v "$1" >/dev/null || missing="$missing $2"; }

hindered() { echo "$*"; exit; }

# check_sandbox ends the script with a reason if no sandbox can be entered here, or if packages are missing.
check_sandbox() {
  [ "$(uname -s)" = Linux ] || hindered "it is not Linux"
  [ "$(id -u)" = 0 ] || hindered "this is not root"
  [ -z "$missing" ] || hindered "these are missing, as Debian calls their packages:$missing"
  unshare --mount --pid --net --ipc --uts --fork true 2>/dev/null || hindered "no namespaces may be made (is this a container without CAP_SYS_ADMIN?)"
  for root in /sys/fs/cgroup /sys/fs/cgroup/memory; do
    [ ! -e $root/cgroup.procs ] || { mkdir $root/stoker-hindrance-$$ && rmdir $root/stoker-hindrance-$$; } 2>/dev/null || hindered "no cgroups may be made in $root"
  done
  # Containers' file systems are overlays; another overlay can hold none.
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  mkdir "$dir/lower" "$dir/upper" "$dir/work" "$dir/at"
  unshare --mount mount -t overlay overlay -o "lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work" "$dir/at" 2>/dev/null ||
    hindered "the file system of ${TMPDIR:-/tmp} can hold no overlay"
}
