#!/bin/sh
# Metrics before the eyes of those who read them: a running engine, a real Prometheus, promtool. `make telemetry-check` calls it.
set -eu
if ! command -v promtool > /dev/null || ! command -v prometheus > /dev/null; then
  echo "installing Prometheus for promtool" >&2
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "promtool and prometheus are not here: install Prometheus (Debian: apt-get install prometheus)" >&2
    exit 1
  fi
  apt-get update > /dev/null
  # The check starts its own; a service at boot is not wanted.
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends prometheus > /dev/null
fi
rules=docs/operating/prometheus
promtool check rules "$rules/alerts.yaml"
(cd "$rules" && promtool test rules alerts.test.yaml)

folder=$(mktemp -d)
engine= prometheus=
end() {
  for process in $engine $prometheus; do
    kill "$process" 2> /dev/null || true
    wait "$process" 2> /dev/null || true
  done
  rm -rf "$folder"
}
trap end EXIT

port() { # a free one, by the system's choice
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
senders=$(port) watchers=$(port) collector=$(port)
mkdir -p "$folder/project/flows"
cat > "$folder/project/crossdock.yaml" << YAML
listen: "127.0.0.1:$senders"
telemetry: { metrics: { listen: "127.0.0.1:$watchers" } }
YAML
cat > "$folder/project/flows/orders.yaml" << YAML
flow: orders
source: { webhook: { path: /orders, verify: none } }
sinks: { out: { file: { path: out.jsonl, format: jsonl } } }
YAML
cargo build --quiet --bin crossdock
"${CARGO_TARGET_DIR:-target}/debug/crossdock" run --project "$folder/project" 2> "$folder/engine.log" &
engine=$!
waits=0
until curl -fs "http://127.0.0.1:$watchers/healthz/ready" > /dev/null; do
  waits=$((waits + 1))
  [ "$waits" -lt 100 ] || { cat "$folder/engine.log" >&2; exit 1; }
  sleep 0.1
done
for number in 1 2 3; do
  curl -fs -d "{\"number\": $number}" "http://127.0.0.1:$senders/orders" > /dev/null
done
curl -fs "http://127.0.0.1:$watchers/metrics" > "$folder/metrics.txt"
promtool check metrics < "$folder/metrics.txt"
echo "promtool takes $(grep -vc '^#' "$folder/metrics.txt") values"

cat > "$folder/prometheus.yml" << YAML
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: ["$PWD/$rules/alerts.yaml"]
scrape_configs:
  - { job_name: crossdock, static_configs: [{ targets: ["127.0.0.1:$watchers"] }] }
YAML
promtool check config "$folder/prometheus.yml" > /dev/null
prometheus --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/data" --web.listen-address="127.0.0.1:$collector" > "$folder/prometheus.log" 2>&1 &
prometheus=$!
ask() { curl -fsG "http://127.0.0.1:$collector/api/v1/query" --data-urlencode "query=$1"; }
waits=0
until ask 'crossdock_messages_received_total{flow="orders"}' 2> /dev/null | grep -q '"3"'; do
  waits=$((waits + 1))
  [ "$waits" -lt 150 ] || { tail "$folder/prometheus.log" >&2; echo "Prometheus has not scraped the engine" >&2; exit 1; }
  sleep 0.1
done
ask 'scrape_samples_scraped' | grep -q crossdock
curl -fs "http://127.0.0.1:$collector/api/v1/rules" | grep -q '"health":"ok"'
if curl -fs "http://127.0.0.1:$collector/api/v1/rules" | grep -q '"health":"err"'; then
  echo "a rule cannot be evaluated" >&2
  exit 1
fi
echo "Prometheus scrapes the engine, and all rules evaluate"
