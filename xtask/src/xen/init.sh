#!/bin/busybox sh
# The first process of dom0: mounts, modules, the toolstack's daemons, then the agent. Whatever fails here ends
# the machine, so that whoever waits for it hears at once; the reason is on the console.

/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin
export HOME=/

fail() {
    echo "ebb: dom0: $*"
    poweroff -f
}

mount -t devtmpfs dev /dev || fail "no /dev"
mkdir -p /dev/pts
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts || fail "no /dev/pts"
mount -t proc proc /proc || fail "no /proc"
mount -t sysfs sys /sys || fail "no /sys"
mount -t tmpfs run /run || fail "no /run"
mkdir -p /run/lock /run/xen /run/xenstored /run/agent

mkfifo /run/events
uevent >/run/events &
listener=$!

while read -r module; do
    insmod "$module" || fail "cannot load $module"
done </modules/order

mount -t xenfs xenfs /proc/xen || fail "no xenfs"
# Both of these return when they are ready to serve.
xenstored --pid-file /run/xenstored.pid || fail "xenstored did not start"
xen-init-dom0 || fail "dom0 has no entry in xenstore"
xenconsoled --pid-file /run/xenconsoled.pid --log=guest --log-dir=/var/log/xen/console ||
    fail "xenconsoled did not start"

. /agent
fail "the agent ended: the host is gone"
