#!/bin/sh
# Makes deploy/secrets/, for docker-compose.yml and deploy/k8s/: the password of Redis, the secret of stream tokens and an
# API key for each NAME. All of it is random, nothing of it goes anywhere else; the keys are shown this once.
#
#   deploy/secrets.sh alice
set -eu
umask 077
cd "$(dirname "$0")"
if [ $# -eq 0 ]; then
  echo "usage: deploy/secrets.sh NAME..." >&2
  exit 2
fi
for name in "$@"; do
  if [ "$name" = anonymous ] || ! printf %s "$name" | grep -Eqx '[A-Za-z0-9_.@|:-]{1,128}'; then
    echo "'$name' cannot be the name of a caller" >&2
    exit 2
  fi
done
if [ -e secrets ]; then
  echo "deploy/secrets is there already: whoever uses it would be locked out" >&2
  exit 1
fi

secret() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }
digest() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }

made=$(mktemp -d ./secrets.XXXXXX)
password=$(secret)
url="redis://holdfast:$password@redis:6379/0"
echo "REDIS_PASSWORD=$password" > "$made/redis.env"
printf 'HOLDFAST_REDIS_URL=%s\nHOLDFAST_TOKEN_SECRET=%s\n' "$url" "$(secret)" > "$made/api.env"
printf 'HOLDFAST_REDIS_URL=%s\n#OPENAI_API_KEY=\n#ANTHROPIC_API_KEY=\n' "$url" > "$made/worker.env"
echo "GF_SECURITY_ADMIN_PASSWORD=$(secret)" > "$made/grafana.env"

# Read inside of containers, by users that are not you; there are no passwords in them, but hashes.
umask 022
mkdir "$made/redis" "$made/keys"
sed "s/>CHANGE-ME/#$(digest "$password")/" users.acl > "$made/redis/users.acl"
keys=
for name in "$@"; do
  key="hf_$(secret)"
  keys="$keys, \"$name\": [\"$(digest "$key")\"]"
  echo "key of $name, shown this once: $key"
done
echo "{${keys#, }}" > "$made/keys/keys.json"
mv "$made" secrets
echo "The keys of the providers go into deploy/secrets/worker.env."
