#!/usr/bin/env bash
# Applies deploy/ to a real Kubernetes and uses it as its users would: client.ts tells what is looked at.
#
#   tests/kubernetes/run.sh                          with kube-up (KUBE_UP, else ../shared/kube-up), where it is built
#   BUILD=true tests/kubernetes/run.sh               builds it first, which takes up to 20 minutes, once
#   IMAGE=registry/name:tag tests/kubernetes/run.sh  in your own cluster, the one of kubectl's current context
#
# The image of kube-up's cluster is the one that tests/container/run.sh has built.
set -euo pipefail
cd "$(dirname "$0")/../.."

say() { printf 'kubernetes: %s\n' "$*" >&2; }
skip() {
  say "NOT RUN: $*"
  exit 0
}

command -v kubectl >/dev/null || skip "there is no kubectl here"
[[ -d node_modules ]] || npx -y bun install --frozen-lockfile
PATH=$PWD/node_modules/.bin:$PATH
work=$(mktemp -d)
namespace=jupyter-test-$$
kube_up='' inside=()
cleanup() {
  local code=$?
  trap - EXIT
  ((code == 0)) || "${inside[@]}" kubectl --namespace "$namespace" get pods,events >&2 2>/dev/null || true
  if [[ -n $kube_up ]]; then "$kube_up" down || true; else kubectl delete namespace "$namespace" --ignore-not-found >/dev/null || true; fi
  rm -rf "$work"
  exit "$code"
}

if [[ -z ${IMAGE:-} ]]; then
  kube_up=${KUBE_UP:-$(realpath -m ../shared/kube-up)}
  built=${KUBE_UP_CACHE:-${HOME:-/root}/.cache/kube-up}/built
  [[ -x $kube_up ]] || skip "$kube_up is not there. Set IMAGE where there is a cluster."
  [[ -e $built || ${BUILD:-} == true ]] || skip "the cluster is not built here, which takes longer than five minutes. Set BUILD=true."
  ((EUID == 0)) || skip "kube-up needs root"
  smoke=${CONTAINER_SMOKE_CACHE:-${HOME:-/root}/.cache/container-smoke}
  IMAGE=localhost/jupyter-server:test
  storage=(env CONTAINERS_CONF="$smoke/containers.conf" CONTAINERS_STORAGE_CONF="$smoke/storage.conf" podman --tmpdir "$smoke/libpod")
  "${storage[@]}" image exists "$IMAGE" 2>/dev/null || skip "there is no image; tests/container/run.sh builds it"
  trap cleanup EXIT
  trap 'exit 143' TERM INT
  "${storage[@]}" save --quiet --format docker-archive --output "$work/image.tar" "$IMAGE"
  "$kube_up" up "$work/image.tar"
  rm "$work/image.tar"
  inside=("$kube_up" run)
else
  trap cleanup EXIT
  trap 'exit 143' TERM INT
fi

# The overlay for one user, with this image. Rendered here: an older kubectl knows no components.
cp -r deploy "$work/deploy"
mkdir "$work/deploy/overlays/test"
cat >"$work/deploy/overlays/test/kustomization.yaml" <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: $namespace
resources: [../small]
images:
  - name: registry.example.org/jupyter-server
    newName: ${IMAGE%:*}
    newTag: ${IMAGE##*:}
END
kubectl kustomize "$work/deploy/overlays/test" >"$work/manifests.yaml"
for overlay in team gpu; do kubectl kustomize "$work/deploy/overlays/$overlay" >"$work/$overlay.yaml"; done
# Kubernetes before 1.21, which kube-up's is, has this kind under another version, with one field less.
version=$("${inside[@]}" kubectl version --output json 2>/dev/null | sed -n '/serverVersion/,$s/.*"gitVersion": "v1\.\([0-9]*\).*/\1/p')
say "Kubernetes 1.$version, namespace $namespace, image $IMAGE"
if ((version < 21)); then
  say "NOT CHECKED here: disruption budgets as they are written (policy/v1), pod security levels"
  sed -i 's#^apiVersion: policy/v1$#&beta1#; /unhealthyPodEvictionPolicy/d' "$work/manifests.yaml" "$work/team.yaml" "$work/gpu.yaml"
fi
say "NOT CHECKED: enforcement of network policies, Enterprise Gateway's kernel pods, several nodes, a cloud's volumes"
"${inside[@]}" env PATH="$PATH" bun tests/kubernetes/client.ts "$namespace" "$work"
say PASS
