#!/bin/sh
# Runs schemathesis against the admin API of an engine of its own, with the tokens of an admin and of a viewer. Needs Python 3 and a package index.
# Left out: live changes, which do not end, and the revoking of tokens, which would end the run.
set -eu
cd "$(dirname "$0")/../.."
[ -x target/schemathesis/bin/schemathesis ] || {
	python3 -m venv target/schemathesis
	target/schemathesis/bin/pip install --quiet schemathesis
}
cargo build --quiet --bin crossdock
crossdock=$PWD/target/debug/crossdock
schemathesis=$PWD/target/schemathesis/bin/schemathesis
project=$(mktemp -d)
port=${PORT:-18081}
mkdir "$project/flows"
printf 'listen: "127.0.0.1:0"\nadmin: { listen: "127.0.0.1:%s", rate: 100000/s }\n' "$port" >"$project/crossdock.yaml"
cat >"$project/flows/orders.yaml" <<'FLOW'
flow: orders
source:
  webhook: { path: /orders, verify: none }
keys: { order: number }
steps: []
sinks:
  out: { discard: {} }
FLOW
"$crossdock" run --no-watch --project "$project" 2>"$project/engine.log" &
engine=$!
trap 'kill $engine; wait $engine; rm -rf "$project"' EXIT
cd "$project"
until [ -S "$project/.crossdock/engine.sock" ]; do sleep 0.1; done
for role in admin viewer; do
	token=$("$crossdock" token create --project "$project" --name "$role" --role "$role" --expires 1d)
	"$schemathesis" run "http://127.0.0.1:$port/api/v1/openapi.json" \
		--header "Authorization: Bearer $token" --exclude-path /api/v1/changes --exclude-path '/api/v1/flows/{flow}/tap' --exclude-path '/api/v1/tokens/{name}:revoke' \
		--max-examples "${EXAMPLES:-50}" \
		--checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance
done
