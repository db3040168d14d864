# The host's hand in dom0. Commands come as lines on the port "control":
#
#   run ID COMMAND      runs the shell command; several run at once
#   off                 powers the machine off
#
# and are answered, on the same port, by lines that never mix because each is one write:
#
#   p ID TEXT           a piece of an output line that goes on
#   o ID TEXT           an output line, or its last piece
#   exit ID CODE        the command has ended, and this was its status
#
# Command 0 is the machine's own: it "exits" when the agent is ready.

# The device of the virtio-serial port with the given name.
port() {
    local entry name
    for entry in /sys/class/virtio-ports/*; do
        read -r name <"$entry/name" && [ "$name" = "$1" ] && echo "/dev/${entry##*/}" && return
    done
    return 1
}

# Connects the console of domain $1 to the port named $2, until the domain is gone. The terminal is xenconsoled's,
# already raw; its name appears in xenstore when it is open.
console() {
    local device tty watcher node=/local/domain/$1/console/tty events=/run/agent/console.$1
    device=$(port "$2") || return 1
    mkfifo "$events"
    xenstore-watch "$node" >"$events" &
    watcher=$!
    while read -r _; do
        tty=$(xenstore-read "$node" 2>/dev/null)
        [ -c "$tty" ] && break
        xenstore-exists "/local/domain/$1" || break
    done <"$events"
    kill $watcher
    rm "$events"
    [ -c "$tty" ] && cat "$tty" >"$device" 2>/dev/null
}

frame() {
    awk -v id="$1" '{
        while (length($0) > 2000) { print "p " id " " substr($0, 1, 2000); fflush(); $0 = substr($0, 2001) }
        print "o " id " " $0; fflush()
    }'
}

run() {
    {
        (eval "$2") 2>&1 </dev/null 3>&-
        echo $? >"/run/agent/$1"
    } | frame "$1" >&3
    read -r code <"/run/agent/$1"
    rm "/run/agent/$1"
    echo "exit $1 $code" >&3
}

# Ports come one by one after their driver; /init has listened to the kernel's events since before.
until control=$(port control); do
    until read -r event && [ "$event" = SUBSYSTEM=virtio-ports ]; do :; done
done </run/events
kill "$listener"
exec 3<>"$control"
read -r uptime _ </proc/uptime
echo "o 0 $uptime" >&3
echo "exit 0 0" >&3
while read -r verb id command <&3; do
    case $verb in
    run) run "$id" "$command" & ;;
    off) poweroff -f ;;
    esac
done
