#!/bin/sh
# Installs and starts RabbitMQ and PostgreSQL on a Debian machine, each only where nothing answers on its port.
set -eu

reachable() { bash -c "exec 3<>/dev/tcp/127.0.0.1/$1" 2>/dev/null; }

wait_for() { # NAME PORT
    for _ in $(seq 60); do
        if reachable "$2"; then echo "$1: reachable on 127.0.0.1:$2"; return; fi
        sleep 1
    done
    echo "$1: not reachable on 127.0.0.1:$2 after 60 s" >&2
    exit 1
}

if reachable 5432; then
    echo "PostgreSQL: already reachable on 127.0.0.1:5432"
else
    command -v pg_ctlcluster >/dev/null || { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y postgresql; }
    version=$(ls /etc/postgresql | sort -n | tail -n 1)
    pg_ctlcluster --skip-systemctl-redirect "$version" main start || true
    wait_for PostgreSQL 5432
fi

if reachable 5672; then
    echo "RabbitMQ: already reachable on 127.0.0.1:5672"
else
    command -v rabbitmq-server >/dev/null || { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y rabbitmq-server; }
    reachable 5672 || rabbitmq-server -detached
    wait_for RabbitMQ 5672
fi
