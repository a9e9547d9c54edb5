#!/usr/bin/env bash
# Serves LoRA Land in miniature (or MODEL=smollm2) and says what to try. Called by `make run`, with the release binaries.
# LISTEN; by default: MODEL=loraland, STATE in .cache, LORIKEET_BINARY and LORIKEET_OPERATOR of target/release
set -euo pipefail
cd "$(dirname "$0")/../.."

binaries=${CARGO_TARGET_DIR:-target}/release
runtime=${LORIKEET_BINARY:-$binaries/lorikeet} operator=${LORIKEET_OPERATOR:-$binaries/lorikeet-operator}
state=${STATE:-.cache/up/loraland-${LISTEN##*:}}
case ${MODEL:-loraland} in
  loraland)
    command=("$operator" up deploy/loraland --listen "$LISTEN" --state "$state" --runtime "$runtime")
    is_ready() { [ -e "$state/run/ready" ]; }
    try=(
      "curl http://$LISTEN/v1/models"
      "curl http://$LISTEN/v1/completions -H 'content-type: application/json' -d '{\"model\": \"glue_sst2\", \"temperature\": 0, \"max_tokens\": 8, \"prompt\": \"Is the movie review positive or negative?\\n### Review: The story is fresh and the plot is superb.\\n### Label:\"}'"
      "curl http://$LISTEN/generate -H 'content-type: application/json' -d '{\"inputs\": \"Turn the sentence about a game into its meaning.\\n### Sentence: Dark Hunter came out in 1995 on Switch.\\n### Meaning:\", \"parameters\": {\"adapter_id\": \"viggo\", \"max_new_tokens\": 40}}'"
    ) ;;
  smollm2)
    command=("$runtime" serve --model "$SMOLLM2" --served-name smollm2 --listen "$LISTEN"
      --admin-listen "$ADMIN_LISTEN" --admin-insecure)
    is_ready() { curl -sf -o /dev/null "http://$LISTEN/ready"; }
    try=(
      "curl http://$LISTEN/v1/models"
      "curl http://$LISTEN/v1/chat/completions -H 'content-type: application/json' -d '{\"model\": \"smollm2\", \"temperature\": 0, \"max_tokens\": 32, \"messages\": [{\"role\": \"system\", \"content\": \"You are a helpful assistant.\"}, {\"role\": \"user\", \"content\": \"What is the capital of France?\"}]}'"
      "curl -N http://$LISTEN/generate_stream -H 'content-type: application/json' -d '{\"inputs\": \"The sea is\", \"parameters\": {\"max_new_tokens\": 24}}'"
    ) ;;
  *) echo "run: no model '$MODEL'; there are loraland and smollm2" >&2; exit 2 ;;
esac

# Says what to try once it is ready, below what that says itself; ends by itself when the server is gone. Another server may
# have the port, or have been ready before: ours has ended by then, or has yet to begin.
announce() {
  until sleep 0.5 && is_ready; do kill -0 $$ 2> /dev/null || return 0; done
  sleep 0.5
  kill -0 $$ 2> /dev/null || return 0
  printf 'Ready. In another terminal:\n\n'
  printf '  %s\n\n' "${try[@]}"
}
announce &
exec "${command[@]}"
