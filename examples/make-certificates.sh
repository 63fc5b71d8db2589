#!/bin/sh
# SPDX-License-Identifier: MIT
# Makes what a server with TLS needs, with openssl alone: a certificate authority, a certificate for the server and one for
# a client, and a file of pre-shared keys. Then prints how to use them.
#
#   sh examples/make-certificates.sh FOLDER [HOST]
#
# FOLDER/server is for the server, FOLDER/client for a client. HOST is the name by which clients reach the server; default:
# localhost. For production, keep the key of the authority (FOLDER/ca-key.pem) on another machine.
set -eu

usage() {
    echo "usage: sh examples/make-certificates.sh FOLDER [HOST]" >&2
    exit 2
}
[ $# -ge 1 ] && [ $# -le 2 ] && [ -n "$1" ] || usage
folder=$1
host=${2:-localhost}
[ ! -e "$folder/ca-key.pem" ] || {
    echo "make-certificates.sh: $folder has certificates already" >&2
    exit 1
}

umask 077 # the keys are for their owner alone
mkdir -p "$folder/server" "$folder/client"
folder=$(cd "$folder" && pwd)
days=3650

key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null ||
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

# certificate FILE KEY SUBJECT EXTENSIONS: signed by the authority.
certificate() {
    openssl req -new -key "$2" -subj "$3" -out "$folder/request.pem"
    printf '%s\n' "$4" >"$folder/extensions"
    openssl x509 -req -in "$folder/request.pem" -CA "$folder/server/ca-cert.pem" -CAkey "$folder/ca-key.pem" \
        -set_serial "0x$(openssl rand -hex 16)" -days "$days" -extfile "$folder/extensions" -out "$1" 2>/dev/null
    rm "$folder/request.pem" "$folder/extensions"
}

key "$folder/ca-key.pem"
openssl req -new -x509 -key "$folder/ca-key.pem" -subj "/CN=NBD certificate authority" -days "$days" \
    -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
    -out "$folder/server/ca-cert.pem"
cp "$folder/server/ca-cert.pem" "$folder/client/ca-cert.pem"

case $host in
    *[!0-9.]*) names="DNS:$host" ;;
    *) names="IP:$host" ;;
esac
case $host in *:*) names="IP:$host" ;; esac
[ "$host" != localhost ] || names="DNS:localhost,IP:127.0.0.1,IP:::1"
key "$folder/server/server-key.pem"
certificate "$folder/server/server-cert.pem" "$folder/server/server-key.pem" "/CN=$host" \
    "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectAltName=$names"

key "$folder/client/client-key.pem"
certificate "$folder/client/client-cert.pem" "$folder/client/client-key.pem" "/CN=client" \
    "basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=clientAuth"

# The same file for both. qemu looks for a file with this name, and for the identity "qemu" by default.
printf 'client:%s\nqemu:%s\n' "$(openssl rand -hex 32)" "$(openssl rand -hex 32)" >"$folder/server/keys.psk"
cp "$folder/server/keys.psk" "$folder/client/keys.psk"

cat <<END
Server, with certificates, with certificates of clients too, and with pre-shared keys:
  nbd-serve mem:1G --tls require --tls-certificates $folder/server
  nbd-serve mem:1G --tls require --tls-certificates $folder/server --tls-verify-peer
  nbd-serve mem:1G --tls require --tls-psk $folder/server/keys.psk
Client, with certificates:
  nbdinfo 'nbds://$host/?tls-certificates=$folder/client'
  qemu-img info --object tls-creds-x509,id=tls,dir=$folder/client,endpoint=client \\
      --image-opts driver=nbd,server.type=inet,server.host=$host,server.port=10809,tls-creds=tls
Client, with pre-shared keys:
  nbdinfo 'nbds://client@$host/?tls-psk-file=$folder/client/keys.psk'
  qemu-img info --object tls-creds-psk,id=tls,dir=$folder/client,endpoint=client,username=client \\
      --image-opts driver=nbd,server.type=inet,server.host=$host,server.port=10809,tls-creds=tls
END
