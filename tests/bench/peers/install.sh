#!/usr/bin/env bash
# Installs what the benchmarks compare with, where this machine lets us; what stays away is named in the tables.
set -uo pipefail
cd "$(dirname "$0")/../../.."

if command -v npm >/dev/null; then
  npm install --prefix tests/node --silent || echo "bench: npm could not install resumable-stream" >&2
fi

module=/usr/lib/nginx/modules/ngx_nchan_module.so
if [[ ! -e $module ]] && command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends libnginx-mod-nchan >/dev/null ||
    echo "bench: apt-get could not install nchan" >&2
fi
exit 0
