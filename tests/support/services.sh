#!/bin/sh
# Installs and starts PostgreSQL and RabbitMQ on a Debian machine, each only where nothing serves on its port, and waits until they serve.
# What it does it says; run again, it changes nothing.
#
#   POSTGRES_PORT  5432   another port gets a cluster of its own, `crossdock-PORT`
#   RABBITMQ_PORT  5672   another port gets a node of its own, `crossdock-PORT@localhost`
#   WAIT_SECONDS   120    how long one of them may take to serve
set -eu

postgres_port=${POSTGRES_PORT:-5432}
rabbitmq_port=${RABBITMQ_PORT:-5672}
wait_seconds=${WAIT_SECONDS:-120}

say() { echo "$1: $2"; }

fail() { # NAME WHAT HINT
    echo "$1: $2" >&2
    echo "  $3" >&2
    exit 1
}

as_root() {
    [ "$(id -u)" = 0 ] || fail "$1" "it is to be installed or started, and this is not root" "run this as root, or: docker compose up -d --wait"
}

open() { timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1" 2>/dev/null; }

install() { # NAME PACKAGE PROGRAM
    if [ -x "$3" ]; then return; fi
    command -v apt-get >/dev/null || fail "$1" "it is not installed, and this is no Debian" "install it by hand, or: docker compose up -d --wait"
    say "$1" "installing the package $2"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2"
}

wait_for() { # NAME PORT CHECK
    until_second=$(($(date +%s) + wait_seconds))
    until $3 "$2"; do
        [ "$(date +%s)" -lt "$until_second" ] || fail "$1" "it does not serve on 127.0.0.1:$2 after $wait_seconds s" "look at its log below /var/log"
        sleep 1
    done
}

# --- PostgreSQL ---

# Whether a session of the user postgres can be had, without a password.
postgres_serves() { PGCONNECT_TIMEOUT=5 psql -XAtqw -h 127.0.0.1 -p "$1" -U postgres -d postgres -c 'SELECT 1' >/dev/null 2>&1; }

# Whether the server is up, whoever it lets in.
postgres_answers() { command -v pg_isready >/dev/null && pg_isready -q -h 127.0.0.1 -p "$1"; }

postgres_name() { if [ "$1" = 5432 ]; then echo main; else echo "crossdock-$1"; fi; }

postgres_start() { # PORT
    as_root PostgreSQL
    install PostgreSQL postgresql /usr/bin/pg_ctlcluster
    name=$(postgres_name "$1")
    version=$(find /usr/lib/postgresql -mindepth 1 -maxdepth 1 -printf '%f\n' | sort -n | tail -n 1)
    if [ ! -d "/etc/postgresql/$version/$name" ]; then
        say PostgreSQL "making the cluster $version/$name"
        pg_createcluster --port "$1" "$version" "$name" >/dev/null
    fi
    say PostgreSQL "starting the cluster $version/$name"
    pg_ctlcluster --skip-systemctl-redirect "$version" "$name" start || true
    wait_for PostgreSQL "$1" postgres_answers
}

# The tests come over 127.0.0.1 as the user postgres, without a password.
postgres_trust() { # PORT
    as_root PostgreSQL
    name=$(postgres_name "$1")
    rules=$(find /etc/postgresql -path "*/$name/pg_hba.conf" 2>/dev/null | sort | tail -n 1)
    line='host all all 127.0.0.1/32 trust'
    [ -n "$rules" ] || fail PostgreSQL "it answers on 127.0.0.1:$1, and refuses the user postgres" "add this line on top of its pg_hba.conf: $line"
    say PostgreSQL "$rules: everybody on 127.0.0.1 is let in without a password (for tests; not for a machine that others use)"
    { echo "$line"; cat "$rules"; } >"$rules.new"
    chown --reference="$rules" "$rules.new"
    chmod --reference="$rules" "$rules.new"
    mv "$rules.new" "$rules"
    version=$(basename "$(dirname "$(dirname "$rules")")")
    pg_ctlcluster --skip-systemctl-redirect "$version" "$name" reload
    wait_for PostgreSQL "$1" postgres_serves
}

postgres() { # PORT
    if postgres_serves "$1"; then
        say PostgreSQL "serves on 127.0.0.1:$1"
        return
    fi
    if ! postgres_answers "$1"; then
        if open "$1"; then fail PostgreSQL "something else listens on 127.0.0.1:$1" "stop it, or name another port: POSTGRES_PORT=NUMBER make services"; fi
        postgres_start "$1"
    fi
    postgres_serves "$1" || postgres_trust "$1"
    say PostgreSQL "serves on 127.0.0.1:$1 now"
}

# --- RabbitMQ ---

# Whether a broker answers a client's greeting with Connection.Start: a frame of type 1, class 10, method 10.
rabbitmq_serves() {
    start=$(timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1; printf 'AMQP\\0\\0\\11\\1' >&3; head -c 11 <&3 | od -An -tu1 -w11" 2>/dev/null | tr -s ' ') || return 1
    case "$start" in " 1 0 0 "*" 0 10 0 10") return 0 ;; *) return 1 ;; esac
}

rabbitmq_node() {
    if [ "$1" != 5672 ]; then echo "crossdock-$1@localhost"; return; fi
    # A container's own name often leads nowhere; a node needs one that does.
    if getent hosts "$(hostname -s)" >/dev/null; then echo; else echo rabbit@localhost; fi
}

rabbitmq_start() { # PORT
    as_root RabbitMQ
    install RabbitMQ rabbitmq-server /usr/sbin/rabbitmq-server
    # The package may have started it.
    if rabbitmq_serves "$1"; then return; fi
    node=$(rabbitmq_node "$1")
    say RabbitMQ "starting the node ${node:-of this machine}"
    if [ -n "$node" ]; then export RABBITMQ_NODENAME="$node"; fi
    if [ "$1" != 5672 ]; then
        # Not by RABBITMQ_NODE_PORT: the listeners of the machine's own settings are stronger.
        RABBITMQ_CONFIG_FILE=/var/lib/rabbitmq/$node.conf
        RABBITMQ_DIST_PORT=$(($1 + 20000))
        export RABBITMQ_CONFIG_FILE RABBITMQ_DIST_PORT
        echo "listeners.tcp.1 = 127.0.0.1:$1" >"$RABBITMQ_CONFIG_FILE"
    fi
    rabbitmq-server -detached
    wait_for RabbitMQ "$1" rabbitmq_serves
}

rabbitmq() { # PORT
    if rabbitmq_serves "$1"; then
        say RabbitMQ "serves on 127.0.0.1:$1"
        return
    fi
    if open "$1"; then
        say RabbitMQ "something listens on 127.0.0.1:$1, and is no broker yet; waiting"
        wait_for RabbitMQ "$1" rabbitmq_serves
    else
        rabbitmq_start "$1"
    fi
    say RabbitMQ "serves on 127.0.0.1:$1 now"
}

postgres "$postgres_port"
rabbitmq "$rabbitmq_port"
