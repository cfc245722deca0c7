#!/usr/bin/env bash
# One sweep over all chips of a TPU pod slice: the same command on every worker. From the checkout,
# on a machine that may reach the slice by gcloud:
#
#   TPU=NAME ZONE=ZONE scripts/cluster/tpu_pod.sh install
#   TPU=NAME ZONE=ZONE scripts/cluster/tpu_pod.sh sweep CONFIG.py
#
# What follows CONFIG.py goes to `advjax sweep` too. A sweep that was killed goes on where it
# stopped: run it again. Files that are not committed go there too; ADVJAX_DATA_DIR, where it is
# set, is where the data lie on the workers.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${TPU:?name the slice: TPU=NAME}" "${ZONE:?name its zone: ZONE=ZONE}"
usage="usage: TPU=NAME ZONE=ZONE $0 install | sweep CONFIG.py"

everywhere() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

case "${1:-}" in
  install)
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    # what was removed is listed until that is committed
    git ls-files -z --cached --others --exclude-standard |
      while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done |
      tar czf "$archive" --null -T -
    gcloud compute tpus tpu-vm scp "$archive" "$TPU:advjax.tar.gz" --zone="$ZONE" --worker=all
    everywhere "mkdir -p advjax && tar xzf advjax.tar.gz -C advjax && cd advjax &&
      python3 -m venv .venv && .venv/bin/pip install -q '.[run]' 'jax[tpu]'"
    ;;
  sweep)
    shift
    : "${1:?$usage}"
    # jax asks the slice for addresses and numbers; every worker has to take part
    data=${ADVJAX_DATA_DIR:+ADVJAX_DATA_DIR=$(printf '%q' "$ADVJAX_DATA_DIR") }
    everywhere "cd advjax && $data.venv/bin/advjax sweep$(printf ' %q' "$@") --distributed"
    ;;
  *)
    echo "$usage" >&2
    exit 2
    ;;
esac
