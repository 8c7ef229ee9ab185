#!/usr/bin/env bash
# Guests that nobody here wrote, under `exeat serve`: a virtual machine of QEMU behind a TAP, and a container of an OCI
# runtime in its network namespace. Each reaches what its policy allows and nothing else, asks our resolver whichever
# it asks, obeys a policy that is pushed, and reaches nothing while there is no daemon.
#
#     cargo build && tests/guests.sh [vm] [container]
#
# It needs root, and of Debian 12: iproute2, nftables, curl, python3, busybox-static; for the virtual machine
# qemu-system-x86, cpio, kmod and a Linux kernel; for the container crun, or runc. The kernel is the newest of /boot, or
# KERNEL=FOLDER, where a package was unpacked (apt-get download, dpkg-deb -x). What is missing is said, and that part
# skipped. The machine is emulated, for not every host has KVM to spare; all of it ends within five minutes.
#
# The host here is a network namespace that forwards, so that a packet which nothing stops arrives: before the daemon
# starts, the virtual machine is seen to reach the Internet, which is another namespace that counts what comes.
set -euo pipefail
shopt -s extglob

if [ -z "${EXEAT_GUESTS_INSIDE:-}" ]; then
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    if [ "$(id -u)" -ne 0 ]; then
        echo 'SKIPPED: guests: they take root' >&2
        exit 0
    fi
    EXEAT_GUESTS_INSIDE=1 exec timeout --kill-after=10 300 unshare --net --mount --propagation private \
        bash "tests/$(basename "${BASH_SOURCE[0]}")" "$@"
fi

exeat=$(realpath "${EXEAT:-target/debug/exeat}")
scratch=$(mktemp -d)
patience=90
daemon= internet= guest= runtime=
passed=()

leave() {
    local code=$?
    [ -z "$runtime" ] || "$runtime" --root "$scratch/oci" delete --force exeat-guest 2>/dev/null || true
    kill -KILL $daemon $internet $guest 2>/dev/null || true
    wait 2>/dev/null || true
    [ $code -eq 0 ] || tail -n 20 "$scratch"/*.log >&2 || true
    rm -rf "$scratch"
    [ $code -eq 0 ] || echo "guests: FAILED" >&2
}
trap leave EXIT

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# Whether all these programs are here; if not, what is skipped.
has() {
    local what=$1 program missing=()
    shift
    for program in "$@"; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [ ${#missing[@]} -eq 0 ] || skipped "$what" "it takes ${missing[*]}"
}

skipped() {
    printf 'SKIPPED: %s: %s\n' "$1" "$2" >&2
    return 1
}

# Asks until a command succeeds.
eventually() {
    local tries=$((patience * 10))
    until "$@" >/dev/null 2>&1; do
        [ $((tries -= 1)) -gt 0 ] || fail "in vain: $*"
        sleep 0.1
    done
}

# --- The ground -------------------------------------------------------------------------------------------------------

# Greets over HTTP and on TCP 7, and answers questions about names.
services=$(cat <<'PYTHON'
import socket, struct, threading
NAMES = {b"\x07allowed\x03rig": "203.0.113.9", b"\x06denied\x03rig": "203.0.113.10"}
def greet(port):
    def answer(client):
        client.settimeout(5)
        try:
            own = client.getsockname()[0]
            text = f"hello from {own}\n"
            if port == 80:
                client.recv(4000)
                text = f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n{text}"
            client.sendall(text.encode())
        except OSError:
            pass
        client.close()
    listener = socket.create_server(("0.0.0.0", port))
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],)).start()
def names():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("203.0.113.53", 53))
    while True:
        question, client = s.recvfrom(1500)
        end = question.index(0, 12)
        name, kind = question[12:end].lower(), question[end + 1:end + 3]
        address = NAMES.get(name)
        record = b""
        if address and kind == b"\0\x01":
            record = b"\xc0\x0c\0\x01\0\x01" + struct.pack("!IH", 60, 4) + socket.inet_aton(address)
        head = question[:2] + (b"\x81\x80" if address else b"\x81\x83") + struct.pack("!4H", 1, bool(record), 0, 0)
        s.sendto(head + question[12:end + 5] + record, client)
for work in (lambda: greet(80), lambda: greet(7), names):
    threading.Thread(target=work).start()
PYTHON
)

make_ground() {
    mount -t tmpfs none /run/netns
    # Nothing here is limited, and runtimes refuse some arrangements of control groups: they see none.
    mount -t tmpfs none /sys/fs/cgroup
    ip link set lo up
    ip netns add internet
    ip link add out type veth peer name out netns internet
    ip address add 203.0.113.1/24 dev out
    ip link set out up
    sysctl -q net.ipv4.ip_forward=1
    ip -n internet link set lo up
    ip -n internet link set out up
    local last
    for last in 2 9 10 11 53; do
        ip -n internet address add 203.0.113.$last/24 dev out
    done
    ip -n internet route add 10.0.0.0/24 via 203.0.113.1
    ip netns exec internet nft -f - <<'NFT'
table ip watch {
  counter own {}
  counter begun {}
  counter datagrams {}
  chain arrived {
    type filter hook prerouting priority -500
    ip saddr 10.0.0.0/24 counter name own
    tcp flags & (syn | ack) == syn counter name begun
    ip protocol != tcp counter name begun
    udp dport 99 counter name datagrams
  }
}
NFT
    ip netns exec internet python3 -c "$services" >"$scratch/internet.log" 2>&1 &
    internet=$!
    eventually curl --silent --max-time 2 http://203.0.113.9/
}

# How many packets this counter of the Internet has seen.
arrived() {
    ip netns exec internet nft --json list counter ip watch "$1" | grep -o '"packets": [0-9]*' | tr -dc 0-9
}

forget_arrivals() {
    ip netns exec internet nft reset counters >/dev/null
}

# --- The daemon -------------------------------------------------------------------------------------------------------

control=$scratch/control.sock

start_daemon() {
    cat >"$scratch/serve.yaml" <<YAML
state: $scratch/state
control: { socket: $control }
audit: $scratch/audit.log
resolvers: ["203.0.113.53"]
YAML
    "$exeat" serve --config "$scratch/serve.yaml" >>"$scratch/daemon.log" 2>&1 &
    daemon=$!
    eventually curl --fail --silent --unix-socket "$control" http://localhost/readyz
    echo '  (the daemon runs)'
}

end_daemon() {
    local code=0
    kill -"$1" "$daemon"
    wait "$daemon" 2>/dev/null || code=$?
    [ "$1" = KILL ] || [ $code -eq 0 ] || fail "the daemon ended with $code"
    daemon=
    echo "  (the daemon has ended by SIG$1)"
}

# METHOD PATH BODY
ask_daemon() {
    curl --silent --show-error --fail-with-body --max-time 20 --unix-socket "$control" -X "$1" --data "$3" \
        "http://localhost$2" >"$scratch/answer.log" || fail "$1 $2: $(cat "$scratch/answer.log")"
}

policy='{"allow": {"allowed.rig": []}, "deny": ["denied.rig"], "subnets": {"allow": ["203.0.113.11/32"]}}'

# --- What a guest tries -----------------------------------------------------------------------------------------------

# Inside, one line after the other is carried out.
obey='echo ready; while IFS= read -r line; do eval "$line" </dev/null 2>&1; echo "=> $?"; done'

# Puts busybox and its names into a folder.
furnish() {
    mkdir -p "$1"/{bin,dev,etc,proc,sys,tmp}
    cp "$(command -v busybox)" "$1/bin/busybox"
    local name
    for name in sh insmod ip mount nc nslookup ping stty tftp timeout wget; do
        ln -s busybox "$1/bin/$name"
    done
    echo 'nameserver 198.51.100.53' >"$1/etc/resolv.conf"
}

# The next line of a guest.
hear() {
    IFS= read -r -t $patience line <&"${said[0]}" || fail "the guest is silent"
    line=${line%$'\r'}
}

await_ready() {
    local line=
    until [ "$line" = ready ]; do hear; done
}

# What a command in the guest prints, and then `=> CODE`.
tell() {
    local line= text=
    printf '%s\n' "$1" >&"${said[1]}"
    until [[ $line == '=> '* ]]; do
        hear
        text+=$line$'\n'
    done
    printf '%s' "$text"
}

# COMMAND PATTERN: what comes of the command matches.
expect() {
    local text
    text=$(tell "$1")
    # shellcheck disable=SC2053 # it is a pattern
    [[ $text == $2 ]] || fail "in the guest, $1: $text"
    printf '  %-58s %s\n' "$1" "$(tr -s '\r\n\t ' ' ' <<<"$text")"
}

ok=$'\n=> 0'
# A connection is accepted before it is judged, so what counts is that nothing comes.
refused='!(*hello*|*bytes from*)'
by_name='timeout 20 wget -q -O - http://allowed.rig/'
by_address='timeout 20 nc -w 10 203.0.113.11 7'

reaches_what_is_allowed() {
    expect "$by_name" "*hello from 203.0.113.9${ok}"
    expect "$by_address" "*hello from 203.0.113.11${ok}"
}

# The guest's resolver does not exist, and a question to any other is answered by ours.
asks_our_resolver() {
    expect 'timeout 20 nslookup allowed.rig' '*203.0.113.9*=> 0*'
    expect 'timeout 20 nslookup -type=a denied.rig 203.0.113.53' '*192.0.2.1*'
}

# A name that is denied, addresses that nothing allows, a service of the host, other protocols.
is_refused_the_rest() {
    expect 'timeout 20 wget -q -O - http://denied.rig/' '*403 Forbidden*=> [1-9]*'
    expect 'timeout 20 wget -q -O - --header "Host: denied.rig" http://203.0.113.10/' '*403 Forbidden*=> [1-9]*'
    local address
    for address in 203.0.113.9 203.0.113.10 203.0.113.1 169.254.169.254; do
        expect "timeout 5 nc -w 3 $address 7" "$refused"
    done
    expect 'timeout 2 tftp -g -r x 203.0.113.9 99' "$refused"
    expect 'timeout 3 ping -c 1 -W 1 203.0.113.9' "$refused"
}

reaches_nothing() {
    expect "${by_name/20/3}" "$refused"
    expect "${by_address/20/3}" "$refused"
    expect 'timeout 3 nslookup allowed.rig 203.0.113.53' '!(*203.0.113.9*)'
    expect 'timeout 3 ping -c 1 -W 1 203.0.113.9' "$refused"
}

# ATTACHMENT, as the control API takes it: all of it, from attaching to detaching.
try_under_the_firewall() {
    start_daemon
    ask_daemon POST /v2/sandboxes "{\"name\": \"guest\", \"attachment\": $1, \"networkPolicy\": $policy}"
    reaches_what_is_allowed
    asks_our_resolver
    is_refused_the_rest
    ask_daemon PATCH /v2/sandboxes/guest '{"networkPolicy": "deny-all"}'
    echo '  (now nothing is allowed)'
    expect "$by_address" "$refused"
    expect "$by_name" "$refused"
    ask_daemon PATCH /v2/sandboxes/guest "{\"networkPolicy\": $policy}"
    reaches_what_is_allowed
    local signal begun
    for signal in TERM KILL; do
        end_daemon $signal
        begun=$(arrived begun)
        reaches_nothing
        [ "$(arrived begun)" = "$begun" ] || fail 'something arrived without a daemon'
        start_daemon
        reaches_what_is_allowed
    done
    [ "$(arrived own)" = 0 ] || fail 'a packet of the guest itself arrived'
    [ "$(arrived datagrams)" = 0 ] || fail 'a datagram arrived'
    ask_daemon DELETE /v2/sandboxes/guest ''
    end_daemon TERM
}

# --- The virtual machine ----------------------------------------------------------------------------------------------

# Sets `kernel` and `modules`.
find_kernel() {
    local root=${KERNEL:-/}
    kernel=$(find "$root/boot" -maxdepth 1 -name 'vmlinuz-*' 2>/dev/null | sort -V | tail -n 1)
    [ -n "$kernel" ] || skipped 'a virtual machine' 'it takes a kernel: /boot/vmlinuz-*, or KERNEL=FOLDER' || return 1
    modules=$root/lib/modules/${kernel##*/vmlinuz-}
    [ -d "$modules" ] || skipped 'a virtual machine' "it takes the kernel's modules: $modules"
}

# An initial file system whose first program raises the network and obeys.
make_initramfs() {
    local tree=$scratch/tree version=${modules##*/} path order=()
    furnish "$tree"
    # The drivers that this kernel has not built in, each after what it depends on; an unpacked package has no list yet.
    mkdir -p "$scratch/lib/modules/$version" "$tree/modules"
    ln -s "$(realpath "$modules")"/* "$scratch/lib/modules/$version/"
    depmod --basedir "$scratch" "$version"
    for path in $(modprobe --dirname "$scratch" --set-version "$version" --show-depends --all virtio_pci virtio_net |
        sed -n 's/^insmod //p'); do
        cp --update "$path" "$tree/modules/"
        order+=("${path##*/}")
    done
    cat >"$tree/init" <<INIT
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in ${order[*]:-}; do insmod /modules/\$module 2>/dev/null; done
ip link set lo up
ip address add 10.0.0.2/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.0.1
stty raw -echo
$obey
INIT
    chmod +x "$tree/init"
    (cd "$tree" && find . | cpio --quiet --create --format=newc) >"$scratch/initramfs"
}

try_vm() {
    has 'a virtual machine' qemu-system-x86_64 busybox cpio modprobe || return 0
    local kernel modules
    find_kernel || return 0
    echo "a virtual machine, $(basename "$kernel")"
    make_initramfs
    ip tuntap add mode tap name tap0
    coproc said { exec qemu-system-x86_64 -machine q35,accel=tcg -m 256 -nodefaults -no-user-config -no-reboot \
        -display none -serial stdio -kernel "$kernel" -initrd "$scratch/initramfs" \
        -append 'console=ttyS0 quiet loglevel=0 panic=-1' \
        -netdev tap,id=net,ifname=tap0,script=no,downscript=no -device virtio-net-pci,netdev=net,romfile= \
        2>"$scratch/qemu.log"; }
    guest=$said_PID
    local booting=$SECONDS
    await_ready
    echo "  (it booted in $((SECONDS - booting)) s)"
    # Nothing confines it yet, and it is seen to get through.
    ip address add 10.0.0.1/24 dev tap0
    ip link set tap0 up
    expect 'timeout 20 nc -w 10 203.0.113.10 7' "*hello from 203.0.113.10${ok}"
    tell 'timeout 2 tftp -g -r x 203.0.113.9 99' >/dev/null
    [ "$(arrived own)" != 0 ] && [ "$(arrived datagrams)" != 0 ] || fail 'the Internet does not count what arrives'
    ip link set tap0 down
    ip address flush dev tap0
    forget_arrivals
    try_under_the_firewall '{"interface": {"name": "tap0", "addresses": ["10.0.0.2"]}}'
    kill -KILL "$guest"
    wait "$guest" 2>/dev/null || true
    guest=
    ip link delete tap0
    passed+=(vm)
}

# --- The container ----------------------------------------------------------------------------------------------------

# A root file system of busybox, and what the runtime is to make of it: no interface but loopback, and no power over
# its network.
make_bundle() {
    furnish "$scratch/bundle/rootfs"
    cat >"$scratch/bundle/config.json" <<JSON
{
  "ociVersion": "1.0.2",
  "root": { "path": "rootfs", "readonly": true },
  "process": {
    "user": { "uid": 0, "gid": 0 }, "cwd": "/", "env": ["PATH=/bin"], "noNewPrivileges": true,
    "args": ["/bin/sh", "-c", $(python3 -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$obey")],
    "capabilities": { "bounding": ["CAP_NET_RAW"], "effective": ["CAP_NET_RAW"], "permitted": ["CAP_NET_RAW"] }
  },
  "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
  "linux": {
    "namespaces": [{ "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }]
  }
}
JSON
}

try_container() {
    has 'a container' busybox || return 0
    runtime=$(command -v crun || command -v runc) || { skipped 'a container' 'it takes crun or runc' || return 0; }
    echo "a container, $("$runtime" --version | head -n 1)"
    make_bundle
    local manager=()
    [[ $runtime != */crun ]] || manager=(--cgroup-manager=disabled)
    coproc said { exec "$runtime" --root "$scratch/oci" "${manager[@]}" run --bundle "$scratch/bundle" \
        --pid-file "$scratch/pid" exeat-guest 2>"$scratch/container.log"; }
    guest=$said_PID
    await_ready
    forget_arrivals
    try_under_the_firewall "{\"netns\": \"/proc/$(cat "$scratch/pid")/ns/net\"}"
    "$runtime" --root "$scratch/oci" delete --force exeat-guest
    wait "$guest" 2>/dev/null || true
    guest= runtime=
    passed+=(container)
}

has 'guests' ip nft curl python3 || exit 0
[ -x "$exeat" ] || fail "there is no $exeat: run cargo build"
make_ground
for part in "${@:-vm container}"; do
    for one in $part; do "try_$one"; done
done
echo "guests: passed: ${passed[*]:-nothing} in $SECONDS s"
