#!/bin/sh
# dropbear 2022.83 (dropbear-bin==2022.83-1+deb12u3) with OpenSSH's ssh 9.2: a command of more than 9,000 bytes ends the whole connection, without a word of why.
#
# RFC 4254 (section 6.5) bounds no command, and sshd takes one of 100,000 bytes. dropbear's limit (MAX_CMD_LEN in sysoptions.h) is
# nowhere told to the client: neither does the channel request fail (SSH_MSG_CHANNEL_FAILURE), nor does a disconnect message come.
# Seen: 9,000 bytes run; one byte more, and the connection is closed. Only dropbear's own log says "String too long".
#
# Needs Debian 12 on amd64, root (a mount of its own for the account's file), ssh and Debian's packages. Fails when another length is
# the border, or the client is told.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
apt-get download dropbear-bin=2022.83-1+deb12u3 libtomcrypt1=1.18.2-6 libtommath1=1.2.0-6+deb12u1 >/dev/null 2>&1
for package in *.deb; do dpkg-deb -x "$package" root; done
libraries="$folder/root/usr/lib/x86_64-linux-gnu"
mkdir -m 700 .ssh
ssh-keygen -q -t ed25519 -N '' -f client
cp client.pub .ssh/authorized_keys
chmod 600 .ssh/authorized_keys
sed "s#^root:.*#root:x:0:0:root:$folder:/bin/sh#" /etc/passwd > passwd
export LD_LIBRARY_PATH="$libraries"
root/usr/bin/dropbearkey -t ed25519 -f host >/dev/null 2>&1
root/usr/sbin/dropbear -V
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
unshare --mount sh -c 'mount --bind passwd /etc/passwd && exec root/usr/sbin/dropbear -F -E -r host -P pid -p "$1"' sh "127.0.0.1:$port" 2>log &
server=$!
trap 'kill "$server" 2>/dev/null; rm -rf "$folder"' EXIT
sleep 1
unset LD_LIBRARY_PATH
run() { # a command of so many bytes that prints "there"
    padding=$(printf '%*s' $(($1 - 11)) '')
    ssh -F none -i client -p "$port" -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=known root@127.0.0.1 "echo there;$padding" 2>said || true
}
fits=$(run 9000)
over=$(run 9001)
tail -n 1 said
printf '9000 bytes: "%s"; 9001 bytes: "%s"\n' "$fits" "$over"
grep -o 'String too long' log
[ "$fits" = there ] && [ -z "$over" ] && grep -qi 'broken pipe\|closed\|reset' said && ! grep -qi 'too long\|request failed' said
