# The host's hand in dom0. Commands come as lines on the last virtio-serial port, whose number is $ebb_control, from
# Linux's command line:
#
#   run ID COMMAND      runs the shell command; several run at once
#   off                 powers the machine off
#
# and are answered, on the same port, by lines that never mix because each is one write:
#
#   p ID TEXT           a piece of an output line that goes on
#   o ID TEXT           an output line, or its last piece
#   exit ID CODE        the command has ended, and this was its status, or that of who frames its output, if that died
#
# Command 0 is the machine's own: it "exits" when the agent is ready.

# Creates a domain from the configuration $1 and stays with it: prints what xl says of it, up to how it ended, and
# connects its console to port $2 until the domain is gone. Ends when both are done.
create() {
    local line domid
    { xl create -F "$1" 2>&1; echo "xl ended with status $?"; } | {
        while IFS= read -r line; do
            echo "$line"
            case $line in
            *"(domid "*)
                domid=${line#*"(domid "}
                console "${domid%%)*}" "/dev/vport0p$2" &
                ;;
            esac
        done
        wait
    }
}

# Copies the console of domain $1 to the device $2, until the domain is gone. The terminal is xenconsoled's, already
# raw; its name is in xenstore as soon as it is open, which is usually before the domain runs.
console() {
    local tty watcher node=/local/domain/$1/console/tty events=/run/agent/console.$1
    tty=$(xenstore-read "$node" 2>/dev/null)
    if ! [ -c "$tty" ]; then
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
    fi
    [ -c "$tty" ] && cat "$tty" >"$2" 2>/dev/null
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
    framed=$?
    read -r code <"/run/agent/$1"
    rm "/run/agent/$1"
    [ "$framed" -eq 0 ] || code=$framed
    echo "exit $1 $code" >&3
}

# Ports come one by one after their driver; /init has listened to the kernel's events since before.
until [ -c "/dev/vport0p$ebb_control" ]; do
    read -r event
done </run/events
kill "$listener"
exec 3<>"/dev/vport0p$ebb_control"
read -r uptime _ </proc/uptime
echo "o 0 $uptime" >&3
echo "exit 0 0" >&3
while read -r verb id command <&3; do
    case $verb in
    run) run "$id" "$command" & ;;
    off) poweroff -f ;;
    esac
done
