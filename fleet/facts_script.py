"""The script of a visit: what a shell on a server reads of the machine and its containers (`fleet.facts` has the parser)."""

# Of more running containers than this a host tells nothing, so that what it prints is bounded; each has at most this many interfaces.
MOST_CONTAINERS = 500
MOST_INTERFACES = 8
# More lines than the script can print are no answer of the script's.
MOST_LINES = MOST_CONTAINERS + 100
# In what the kernel counts the time of processes (USER_HZ, the same on all machines that relays run on).
TICKS_A_SECOND = 100

# What runs in containers, by one pass over /proc. Whose a process is stands in its control group, `…/docker/ID` or
# `…/docker-ID.scope`; where there are none, as under rootless Docker with control groups v1, it is the process whose parent is a
# containerd-shim, and the Engine's files that are mounted into it name its container. All others are the children of such ones.
# runc's own processes, which are there for a moment at a container's start, count as nobody. The start of the oldest process is the
# container's. Any user may read all of it, unless /proc is mounted with hidepid. awk is mawk, gawk, busybox or the original one.
# A list of TCP sockets is only read where there is more than the one that listens, since the kernel walks through the sockets of the
# whole machine for each: 3.5 ms where it has 24 GB, and less with less.
_CONTAINERS = r"""
function find_id(text, is_mount,   count, place, part, id) {
  count = split(text, part, /[\/ ]/)
  id = ""
  for (place = 1; place <= count; place++) {
    sub(/^docker-/, "", part[place])
    sub(/\.scope$/, "", part[place])
    if (length(part[place]) == 64 && part[place] !~ /[^0-9a-f]/ && (!is_mount || part[place - 1] == "containers")) id = part[place]
  }
  return id
}
function is_shim(pid) { return name[pid] ~ /^\(containerd-shim/ }
BEGIN {
  for (at = 1; at < ARGC; at++) {
    pid = ARGV[at]
    sub(/.*\//, "", pid)
    file = ARGV[at] "/stat"
    if ((getline text < file) > 0 && match(text, /^[0-9]+ \(.*\) /)) {
      word = substr(text, index(text, "("), RLENGTH)
      if (split(substr(text, RLENGTH + 1), field, " ") >= 22 && field[2] != 2) {
        order[++processes] = pid
        name[pid] = word
        parent[pid] = field[2]
        ticks[pid] = field[12] + field[13] + field[14] + field[15]
        start[pid] = field[20]
        pages[pid] = field[22]
      }
    }
    close(file)
  }
  for (at = 1; at <= processes; at++) {
    pid = order[at]
    if (is_shim(pid)) continue
    id = ""
    file = "/proc/" pid "/cgroup"
    while (id == "" && (getline text < file) > 0) id = find_id(text, 0)
    close(file)
    if (id == "" && is_shim(parent[pid])) {
      file = "/proc/" pid "/mountinfo"
      while (id == "" && (getline text < file) > 0) id = find_id(text, 1)
      close(file)
    }
    own[pid] = id
  }
  for (at = 1; at <= processes; at++) {
    pid = order[at]
    if (is_shim(pid) || name[pid] ~ /^\(runc/) continue
    id = ""
    for (depth = 0; id == "" && depth < 20 && pid in own; depth++) { id = own[pid]; pid = parent[pid] }
    if (id == "") continue
    pid = order[at]
    if (!(id in first)) { first[id] = pid; ids[++containers] = id }
    if (start[pid] + 0 < start[first[id]] + 0) first[id] = pid
    cpu[id] += ticks[pid]
    memory[id] += pages[pid]
  }
  for (at = 1; at <= containers && at <= most_containers; at++) {
    id = ids[at]
    folder = "/proc/" first[id] "/net/"
    split("", number)
    while ((getline text < (folder "igmp")) > 0) if (text ~ /^[0-9]/) { split(text, field, " "); number[field[2]] = field[1] }
    close(folder "igmp")
    told = 0
    line = ""
    while ((getline text < (folder "dev")) > 0) {
      if (!sub(/:/, " ", text) || split(text, field, " ") < 10 || field[1] == "lo" || ++told > most_interfaces) continue
      line = line " " field[1] " " (field[1] in number ? number[field[1]] : "-") " " field[2] " " field[10]
    }
    close(folder "dev")
    split("", open)
    split("", listens)
    is_told = 0
    for (version = 0; version < 2; version++) {
      ending = version ? "6" : ""
      sockets = -1
      file = folder "sockstat" ending
      while ((getline text < file) > 0) if (text ~ /^TCP6?: inuse /) { split(text, field, " "); sockets = field[3] + 0 }
      close(file)
      if (sockets >= 0) is_told = 1
      if (sockets == 0 || sockets == 1) continue
      file = folder "tcp" ending
      while ((getline text < file) > 0) {
        is_told = 1
        split(text, field, " ")
        sub(/.*:/, "", field[2])
        if (field[4] == "0A") listens[field[2]] = 1
        if (field[4] == "01") open[field[2]]++
      }
      close(file)
    }
    connections = 0
    for (port in open) if (port in listens) connections += open[port]
    printf "container %s %s %.0f %.0f %s%s\n", id, start[first[id]], cpu[id], memory[id], is_told ? connections : "-", line
  }
}
"""

CONTAINERS_AWK = f"awk -v most_containers={MOST_CONTAINERS} -v most_interfaces={MOST_INTERFACES} '{_CONTAINERS}' /proc/[0-9]* 2>/dev/null\n"

# POSIX sh and what Debian, Ubuntu, CentOS and Alpine (busybox) have. Its two arguments are the Docker socket's path and the folder
# whose disk counts (empty = Docker's usual one). The clock comes first: it is compared with the time of asking.
FACTS_SCRIPT = (
    r"""LC_ALL=C
export LC_ALL
echo derpmgmt-facts
echo "clock $(date +%s.%N)"
read -r uptime rest </proc/uptime
echo "uptime $uptime"
socket=$1
folder=$2
[ -d "$folder" ] || folder=/var/lib/docker
[ -d "$folder" ] || folder=/
echo "cores $(nproc 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
read -r name ticks </proc/stat
echo "cpu $ticks"
read -r one five fifteen rest </proc/loadavg
echo "load $one $five $fifteen"
while read -r name number rest; do
  case $name in
    MemTotal:) echo "memory_total $number" ;;
    MemAvailable:) echo "memory_available $number" ;;
    SwapTotal:) echo "swap_total $number" ;;
    SwapFree:) echo "swap_free $number" ;;
  esac
done </proc/meminfo
df -P -k "$folder" / | {
  read -r rest
  read -r device total used free rest
  echo "disk_total $total"
  echo "disk_free $free"
  read -r device total used free rest
  echo "root_total $total"
  echo "root_free $free"
}
echo "inodes $(stat -f -c '%c %d' "$folder" 2>/dev/null)"
echo "root_inodes $(stat -f -c '%c %d' / 2>/dev/null)"
interface=
while read -r name target rest; do
  [ "$target" = 00000000 ] && interface=$name && break
done </proc/net/route
if [ -n "$interface" ]; then
  set -- $(sed -n "s/^ *$interface: *//p" /proc/net/dev)
  echo "interface $interface"
  echo "received $1"
  echo "sent $9"
fi
if [ ! -S "$socket" ]; then echo "docker absent"
elif [ -r "$socket" ] && [ -w "$socket" ]; then echo "docker usable"
else echo "docker forbidden"
fi
echo "ssh $SSH_CONNECTION"
own=
if [ -r /proc/net/fib_trie ]; then
  while read -r mark word rest; do
    case "$mark $word $rest" in
      "|-- "*) address=$word ;;
      "/32 host LOCAL") own="$own $address" ;;
    esac
  done </proc/net/fib_trie
fi
echo "addresses$own"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "kernel $(uname -r)"
echo "machine $(uname -m)"
echo "os $(sed -n 's/^PRETTY_NAME=//p' /etc/os-release)"
echo "page $(getconf PAGESIZE 2>/dev/null || echo 4096)"
"""
    + CONTAINERS_AWK
    + "echo derpmgmt-end\n"
)
