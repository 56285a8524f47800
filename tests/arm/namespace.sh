#!/bin/sh
# Process 1 of a user, mount and process namespace of its own. Everything below is private to it and
# gone with it, and it ends when its standard input does, so a driver that is killed leaves nothing.
#
#   namespace.sh FOLDER [REGISTRATION]     then lines on standard input, see below
#
# REGISTRATION is a line for binfmt_misc, when this machine does not run arm64 binaries yet.
set -eu
folder=$1
registration=${2-}

read -r _ # the user ids are mapped now
mount -t proc proc /proc
if [ -n "$registration" ]; then
  # Since Linux 6.7 a user namespace has registrations of its own.
  mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
  printf '%s' "$registration" > /proc/sys/fs/binfmt_misc/register
fi
echo ready

while read -r word; do
  case $word in
    boot) # a copy of the cached system, with devices and caches
      root=$folder/run/root
      mkdir -p "$root" "$folder/pip" "$folder/debs/partial"
      # Not an overlay: in a user namespace it cannot rename a folder, which dpkg does.
      cp -a --reflink=auto "$folder/base/." "$root"
      mount -t proc proc "$root/proc"
      mount -t tmpfs tmpfs "$root/dev"
      for device in null zero full random urandom tty; do
        : > "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
      done
      mkdir -m 1777 "$root/dev/shm"
      ln -s /proc/self/fd "$root/dev/fd"
      chown 1000:1000 "$folder/pip"
      mount --bind "$folder/pip" "$root/home/pi/.cache/pip"
      mount --bind "$folder/debs" "$root/var/cache/apt/archives"
      ;;
  esac
  echo "$word"
done
