#!/usr/bin/env bash
# A smoke test of the HTTP interface of a running service, by curl alone: health, a session, messages with a retry, a
# live event, a file, and the removal of all of it.
#
#     deploy/smoke_http.sh http://HOST:PORT [USER]
#
# The key, if the service has keys, is in SESSIOND_KEY; it never becomes an argument, which other users of the machine can
# see. USER: the one that the key is bound to. It uses no session but its own, which it deletes, also after a failure.
# Exit codes: 0 everything worked, 1 a step failed, 2 wrong usage, 3 the service cannot be reached, 4 the session could
# not be deleted; its id is printed.
set -euo pipefail

[[ $# -ge 1 && $1 == http* ]] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
base=${1%/} user=${2:-}
id="${user:+$user~}smoke-$(date +%s)-$$-$RANDOM"
url="$base/v1/sessions/$id"
work=$(mktemp -d)

call() { # METHOD URL [curl's arguments]: the body; fails where the status is none of success
  local method=$1 url=$2
  shift 2
  curl --silent --show-error --fail-with-body --max-time 30 --config "$work/key" --request "$method" "$@" "$url"
}
json() { call "$1" "$2" --header 'content-type: application/json' --data "$3" "${@:4}"; }
step() { # NAME COMMAND...
  local name=$1 began=$SECONDS
  shift
  if "$@" >"$work/out" 2>&1; then
    echo "ok      $name ($((SECONDS - began)) s)"
  else
    echo "FAILED  $name: $(head -c 500 "$work/out")"
    exit 1
  fi
}
gone() {
  local code=$?
  trap - EXIT
  if [[ -e $work/made ]]; then
    call DELETE "$url" >"$work/out" 2>&1 || true
    local status
    status=$(curl --silent --output /dev/null --write-out '%{http_code}' --max-time 30 --config "$work/key" \
      "$url?consistency=CONSISTENCY_STRONG" || true)
    if [[ $status == 404 ]]; then
      echo "ok      delete the session"
    else
      echo "the session is left behind: $id"
      code=4
    fi
  fi
  rm -rf "$work"
  exit "$code"
}
trap gone EXIT

umask 077
: >"$work/key"
[[ -z ${SESSIOND_KEY:-} ]] || printf 'header = "authorization: Bearer %s"\n' "$SESSIOND_KEY" >"$work/key"

create() {
  local session="{\"session_id\": \"$id\", \"user_id\": \"$user\", \"status\": \"SESSION_STATUS_ACTIVE\", \"ttl\": \"3600s\"}"
  touch "$work/made"
  json POST "$base/v1/sessions" "$session" >"$work/created" 2>&1 || {
    cat "$work/created"
    ! grep -q '"status": 4' "$work/created" || rm "$work/made" # refused: there is none
    return 1
  }
}
append() {
  local said='{"messages": [{"role": "ROLE_USER", "parts": [{"text": "smoke?"}]}, {"role": "ROLE_ASSISTANT", "parts": [{"text": "no fire"}]}]}'
  json POST "$url/messages" "$said" --header "idempotency-key: smoke" >"$work/first"
  json POST "$url/messages" "$said" --header "idempotency-key: smoke" >"$work/again"
  cmp "$work/first" "$work/again"
}
read_back() {
  call GET "$url/messages" >"$work/messages"
  [[ $(grep -o '"message_id"' "$work/messages" | wc -l) == 2 ]] && grep -q 'no fire' "$work/messages"
}
watch() { # the first event says how the session stands; then the line is cut
  exec 3< <(exec curl --silent --no-buffer --max-time 30 --config "$work/key" "$url/events")
  local stream=$! found=0
  grep -m 1 '^event: snapshot' <&3 || found=1
  kill "$stream" 2>/dev/null || true
  return "$found"
}
file() {
  head -c 100000 /dev/urandom >"$work/file"
  local digest
  digest=$(openssl dgst -sha256 -binary "$work/file" | base64)
  call PUT "$url/attachments/smoke/content?name=smoke.bin" --upload-file "$work/file" \
    --header "repr-digest: sha-256=:$digest:" --header 'content-type: application/octet-stream'
  call GET "$url/attachments/smoke/content" >"$work/copy"
  cmp "$work/file" "$work/copy"
}

curl --silent --show-error --fail --max-time 10 --output /dev/null "$base/healthz" || { echo "FAILED  reach $base"; exit 3; }
step "create a session" create
step "append messages, and once more with the same key" append
step "read the messages" read_back
step "see the session live" watch
step "upload 100000 bytes, and read them back" file
