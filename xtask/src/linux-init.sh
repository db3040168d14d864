#!/bin/busybox sh
# The first process of the Linux that is measured beside Ebb: obeys lines that are typed on its console, one at a time,
# and answers each by one line that begins with '@'. Whatever cannot be done is answered by '@failed'.
#
#   down MIB     gives MIB back through the balloon's own target in sysfs      @moved ns= polls= calls= frames=
#   up MIB       takes MIB back                                                the same
#   touch MIB    writes MIB of memory and frees it                             @touched ns=
#   spike MIB    takes MIB back and writes them                                @spiked grown_ns= ns= free_kib=
#   swap ALGORITHM MIB      makes a compressed block device of MIB, and swaps to it         @swapping
#   peer WORDS   runs the program that touches pages                           what it says
#   off          powers off
#
# A move says '@begin' before its clock starts.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tracefs trace /sys/kernel/tracing
mount -t tmpfs -o size=100% memory /memory
exec </dev/hvc0 >/dev/hvc0 2>&1
stty -echo
mkfifo /ticks
exec 9<>/ticks

balloon=/sys/devices/system/xen_memory/xen_memory0
tracing=/sys/kernel/tracing

# Sets $ns: the kernel's monotonic clock, without starting a process.
now() {
    { read -r _; read -r _; read -r _ _ ns _; } </proc/timer_list
}

# Each call of these functions of the kernel is one hypercall, for at most 512 frames. The probes count calls and sum up
# the first argument, which is the number of frames.
if echo 'p:down xenmem_reservation_decrease count=%di:s32' >$tracing/kprobe_events &&
    echo 'p:up xenmem_reservation_increase count=%di:s32' >>$tracing/kprobe_events; then
    for probe in down up; do
        echo 'hist:keys=common_pid:vals=count' >$tracing/events/kprobes/$probe/trigger
        echo 1 >$tracing/events/kprobes/$probe/enable
    done
fi

# Sets $calls and $frames: what probe $1 has counted since boot; empty where the kernel has no probes.
counted() {
    calls= frames=
    [ -r $tracing/events/kprobes/$1/hist ] || return 0
    calls=$(awk '$1 == "Hits:" { print $2 }' $tracing/events/kprobes/$1/hist)
    frames=$(awk '$1 == "{" { sum += $NF } END { print sum + 0 }' $tracing/events/kprobes/$1/hist)
}

# Waits until the balloon has $1 KiB: looks every 5 ms, because the kernel tells nobody; at most two minutes.
reach() {
    polls=0
    while read -r kib <$balloon/info/current_kb && [ "$kib" -ne "$1" ]; do
        polls=$((polls + 1))
        [ $polls -gt 24000 ] && return 1
        read -r -t 0.005 _ <&9
    done
    true
}

# Moves by $1 KiB, which may be negative.
move() {
    read -r kib <$balloon/info/current_kb
    goal=$((kib + $1))
    echo @begin
    now && begun=$ns
    echo $goal >$balloon/target_kb && reach $goal && now
}

write() {
    dd if=/dev/zero of=/memory/pattern bs=1M count="$1" 2>/dev/null
}

perform() {
    case $1 in
    down | up)
        [ "$1" = up ] && kib=$(($2 * 1024)) || kib=$(($2 * -1024))
        counted "$1" && calls_before=$calls frames_before=$frames
        move $kib || return
        took=$((ns - begun))
        counted "$1"
        calls=${calls:+$((calls - calls_before))} frames=${frames:+$((frames - frames_before))}
        echo "@moved ns=$took polls=$polls calls=$calls frames=$frames"
        ;;
    touch)
        now && begun=$ns
        write "$2" && rm /memory/pattern && now && echo "@touched ns=$((ns - begun))"
        ;;
    spike)
        free=$(sed -n 's/MemFree: *\([0-9]*\).*/\1/p' /proc/meminfo)
        move $(($2 * 1024)) && grown=$((ns - begun)) && write "$2" && now || return
        echo "@spiked grown_ns=$grown ns=$((ns - begun)) free_kib=$free"
        rm /memory/pattern
        ;;
    swap)
        for module in /modules/*.ko; do
            insmod "$module" && rm "$module" || return
        done
        echo "$2" >/sys/block/zram0/comp_algorithm && echo "$3M" >/sys/block/zram0/disksize &&
            mkswap /dev/zram0 >/dev/null && swapon /dev/zram0 && echo "@swapping"
        ;;
    peer)
        shift
        ebb-swap-peer "$@"
        ;;
    off) poweroff -f ;;
    *) false ;;
    esac
}

read -r target <$balloon/target_kb
reach "$target"
read -r kib <$balloon/info/current_kb
echo "@ready version=$(uname -r) kib=$kib"
while read -r line; do
    # Unquoted: the words are arguments.
    perform $line || echo "@failed verb=${line%% *}"
done
poweroff -f
