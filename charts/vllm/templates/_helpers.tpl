{{- define "vllm.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
vllm.fullname is short enough for a ReplicaSet's and a pod's suffix to stay readable, and an HPA's prefix. A release's name
may have dots, which a Service's may not.
*/}}
{{- define "vllm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimAll "-" -}}
{{- else -}}
{{- $name := include "vllm.name" . -}}
{{- $release := .Release.Name | replace "." "-" -}}
{{- if contains $name .Release.Name -}}
{{- $release | trunc 46 | trimAll "-" -}}
{{- else -}}
{{- printf "%s-%s" $release $name | trunc 46 | trimAll "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "vllm.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "vllm.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vllm.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/*
vllm.servingLabels select the pods with an API: of a group, the leader.
*/}}
{{- define "vllm.servingLabels" -}}
{{ include "vllm.selectorLabels" . }}
{{- if eq .Values.workload "LeaderWorkerSet" }}
leaderworkerset.sigs.k8s.io/worker-index: "0"
{{- end }}
{{- end -}}

{{/*
vllm.workload names the Deployment, or the LeaderWorkerSet, whose controller makes a headless Service of the same name: not
the chart's own. The group's index and the index in it come behind, within the 63 characters of a label.
*/}}
{{- define "vllm.workload" -}}
{{- if eq .Values.workload "LeaderWorkerSet" -}}
{{- printf "%s-group" (include "vllm.fullname" . | trunc 43 | trimSuffix "-") -}}
{{- else -}}
{{- include "vllm.fullname" . -}}
{{- end -}}
{{- end -}}

{{/*
vllm.scaleTarget refers to what is scaled, by a subresource.
*/}}
{{- define "vllm.scaleTarget" -}}
apiVersion: {{ eq .Values.workload "LeaderWorkerSet" | ternary "leaderworkerset.x-k8s.io/v1" "apps/v1" }}
kind: {{ .Values.workload }}
name: {{ include "vllm.workload" . }}
{{- end -}}

{{/*
vllm.groupSeconds is how long a pod of a group waits for the others: for a cold node's download, an hour at most, and the
start.
*/}}
{{- define "vllm.groupSeconds" -}}
{{- add 3600 (mul 60 .Values.startup.minutes) -}}
{{- end -}}

{{/*
vllm.nodes is how many nodes a replica takes, vllm.gpusPerNode its GPUs on each.
*/}}
{{- define "vllm.nodes" -}}
{{- eq .Values.workload "LeaderWorkerSet" | ternary .Values.multiNode.size 1 -}}
{{- end -}}

{{- define "vllm.gpusPerNode" -}}
{{- div (mul .Values.vllm.tensorParallel .Values.vllm.pipelineParallel) (include "vllm.nodes" . | int) -}}
{{- end -}}

{{- define "vllm.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "vllm.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
vllm.image gives an image's reference (a dict with image and tag, its default).
*/}}
{{- define "vllm.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "vllm.servingImage" -}}
{{- include "vllm.image" (dict "image" .Values.image "tag" .Chart.AppVersion) -}}
{{- end -}}

{{- define "vllm.stokerImage" -}}
{{- include "vllm.image" (dict "image" .Values.stoker.image "tag" .Chart.Version) -}}
{{- end -}}

{{- define "vllm.servedName" -}}
{{- default .Values.model.name .Values.model.servedName -}}
{{- end -}}

{{/*
vllm.injects says who gives the pod what Stoker's pods need: admission, chart, or nobody.
*/}}
{{- define "vllm.injects" -}}
{{- if not .Values.stoker.enabled -}}
nobody
{{- else if ne .Values.stoker.inject "auto" -}}
{{- .Values.stoker.inject -}}
{{- else if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
admission
{{- else -}}
chart
{{- end -}}
{{- end -}}

{{/*
vllm.ownArguments are the options that the chart always sets, with the value to set instead.
*/}}
{{- define "vllm.ownArguments" -}}
--model: model.name
--served-model-name: model.servedName
--revision: model.source (hf://ORG/NAME@REVISION)
--port: port
--tensor-parallel-size: vllm.tensorParallel
--gpu-memory-utilization: vllm.gpuMemoryUtilization
--kv-cache-dtype: vllm.kvCacheDtype
--max-model-len: vllm.maxModelLen
{{- end -}}

{{/*
vllm.option is the option that an argument sets, in full. vLLM's parser takes underscores, short names, and the beginning of a
name as long as no other option begins so: the second column is the shortest one (vLLM 0.33; a test holds it against the
list of all options).
*/}}
{{- define "vllm.option" -}}
{{- $flag := regexFind "^[^=[:space:]]*" . -}}
{{- $option := replace "_" "-" $flag -}}
{{- range $short, $full := dict "^-tp?($|=|[0-9])" "--tensor-parallel-size" "^-pp($|=|[0-9])" "--pipeline-parallel-size" "^-n($|=|[0-9])" "--nnodes" "^-r($|=|[0-9])" "--node-rank" -}}
{{- if regexMatch $short $flag -}}
{{- $option = $full -}}
{{- end -}}
{{- end -}}
{{- range $full, $least := dict "--served-model-name" "--ser" "--port" "--por" "--revision" "--rev" "--tensor-parallel-size" "--te" "--gpu-memory-utilization" "--gp" "--device-memory-utilization" "--device-m" "--max-model-len" "--max-m" "--pipeline-parallel-size" "--pi" "--nnodes" "--nn" "--node-rank" "--nod" "--master-addr" "--master-a" "--headless" "--hea" "--distributed-timeout-seconds" "--distributed-t" "--distributed-executor-backend" "--distributed-e" "--api-key" "--api-k" "--lora-modules" "--lora-m" "--max-lora-rank" "--max-lora-r" -}}
{{- if and (hasPrefix $least $option) (hasPrefix $option $full) -}}
{{- $option = $full -}}
{{- end -}}
{{- end -}}
{{- eq $option "--device-memory-utilization" | ternary "--gpu-memory-utilization" $option -}}
{{- end -}}

{{/*
vllm.validate refuses what a schema cannot see: what is missing, and values that contradict one another.
*/}}
{{- define "vllm.validate" -}}
{{- if not .Values.model.name -}}
{{- fail "model.name is empty; set it to the model's name in Stoker's list, as in --set model.name=qwen2.5-7b-instruct" -}}
{{- end -}}
{{- if and (not .Values.stoker.enabled) (not .Values.model.source) -}}
{{- fail "stoker.enabled is false and model.source is empty, so there is nothing to serve; set model.source to hf://ORG/NAME@COMMIT" -}}
{{- end -}}
{{- if and .Values.stoker.enabled .Values.model.source -}}
{{- fail (printf "model.source is %q, but with stoker.enabled the source stands in Stoker's model list; leave one of them out" .Values.model.source) -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %d, more than autoscaling.maxReplicas, %d" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- if gt (int .keda.fallback.replicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.keda.fallback.replicas is %d, more than autoscaling.maxReplicas, %d" (int .keda.fallback.replicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and (ne .Values.autoscaling.kind "none") (not (kindIs "invalid" .Values.replicas)) -}}
{{- fail (printf "replicas is %d and autoscaling.kind is %s, but only one of them may set the number of replicas: hand it over first, if the release was installed with replicas (README.md, \"Who sets the number of replicas\"; without that step Kubernetes goes to 1), then set replicas to null" (int .Values.replicas) .Values.autoscaling.kind) -}}
{{- end -}}
{{- if dig "stoker" "enabled" false .Values.monitoring -}}
{{- fail "monitoring.stoker.enabled is true, but Stoker's own monitoring comes with charts/stoker now: set its monitoring.podMonitor, rules and dashboard, and false here" -}}
{{- end -}}
{{- with .Values.lora.adapters -}}
{{- if not $.Values.stoker.enabled -}}
{{- fail "lora.adapters are entries of Stoker's model list, but stoker.enabled is false; without Stoker, give vLLM its adapters by vllm.extraArgs" -}}
{{- end -}}
{{- if or (has $.Values.model.name .) (has (include "vllm.servedName" $) .) -}}
{{- fail (printf "lora.adapters names %s, which is the model itself; name adapters of it" (has $.Values.model.name . | ternary $.Values.model.name (include "vllm.servedName" $))) -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.workload "LeaderWorkerSet" -}}
{{- $size := int .Values.multiNode.size -}}
{{- $all := mul .Values.vllm.tensorParallel .Values.vllm.pipelineParallel | int -}}
{{- if lt $size 2 -}}
{{- fail (printf "workload is LeaderWorkerSet and multiNode.size is %d, but a group has at least 2 nodes; raise it, or set workload: Deployment" $size) -}}
{{- end -}}
{{- if mod $all $size -}}
{{- fail (printf "a replica's GPUs are vllm.tensorParallel times vllm.pipelineParallel, %d, which cannot be divided evenly over the %d nodes of multiNode.size; vLLM recommends the GPUs of a node as vllm.tensorParallel and the nodes as vllm.pipelineParallel" $all $size) -}}
{{- end -}}
{{- if ne .Values.rollout.type "RollingUpdate" -}}
{{- fail (printf "rollout.type is %s, but a LeaderWorkerSet replaces its groups one after another only; set RollingUpdate" .Values.rollout.type) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled is true and ingress.hosts is empty; name at least one host" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.enabled is true and httpRoute.parentRefs is empty; name the Gateway: [{name: GATEWAY, namespace: NAMESPACE}]" -}}
{{- end -}}
{{- if not (or .Values.gpu.resource .Values.resourceClaims) -}}
{{- fail "gpu.resource is empty and resourceClaims too, so a replica would have no GPU; set one of them" -}}
{{- end -}}
{{- range .Values.vllm.extraEnv -}}
{{- if and (eq .name "VLLM_API_KEY") $.Values.apiKey.secret -}}
{{- fail "VLLM_API_KEY is in vllm.extraEnv and comes from apiKey.secret; leave one of them out" -}}
{{- end -}}
{{- end -}}
{{- range $argument := .Values.vllm.extraArgs -}}
{{- $flag := include "vllm.option" . -}}
{{- with get (include "vllm.ownArguments" $ | fromYaml) $flag -}}
{{- fail (printf "%s is in vllm.extraArgs, but the chart sets %s itself; set %s" $argument $flag .) -}}
{{- end -}}
{{- if and (eq $flag "--chat-template") $.Values.chatTemplate.configMap -}}
{{- fail "--chat-template is in vllm.extraArgs and comes from chatTemplate.configMap; leave one of them out" -}}
{{- end -}}
{{- if and (eq $flag "--api-key") $.Values.apiKey.secret -}}
{{- fail "--api-key is in vllm.extraArgs and comes from apiKey.secret; leave one of them out" -}}
{{- end -}}
{{- if has $flag (list "--pipeline-parallel-size") -}}
{{- fail (printf "%s is in vllm.extraArgs, where it adds no GPUs to a replica; set vllm.pipelineParallel" $flag) -}}
{{- end -}}
{{- if has $flag (list "--nnodes" "--node-rank" "--master-addr" "--headless") -}}
{{- fail (printf "%s is in vllm.extraArgs, but one set of arguments is for every pod; for a replica on several nodes set workload: LeaderWorkerSet and multiNode.size" $flag) -}}
{{- end -}}
{{- if and (has $flag (list "--distributed-executor-backend" "--distributed-timeout-seconds")) (eq $.Values.workload "LeaderWorkerSet") -}}
{{- fail (printf "%s is in vllm.extraArgs, but processes on several nodes are started with arguments of the chart's (vLLM's multiprocessing, not Ray); leave it out" $flag) -}}
{{- end -}}
{{- if and (has $flag (list "--lora-modules" "--max-lora-rank" "--max-loras")) $.Values.lora.adapters -}}
{{- fail (printf "%s is in vllm.extraArgs and comes from lora; leave one of them out" $flag) -}}
{{- end -}}
{{- end -}}
{{- with .Values.rollout -}}
{{- if and (eq .type "RollingUpdate") (eq (toString .maxSurge) "0") (eq (toString .maxUnavailable) "0") -}}
{{- fail "rollout.maxSurge and rollout.maxUnavailable are both 0, so no upgrade could begin; set one of them to 1" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
vllm.serviceAccountName is empty where the namespace's own account will do.
*/}}
{{- define "vllm.serviceAccountName" -}}
{{- if and .Values.serviceAccount.create (not .Values.serviceAccount.name) -}}
{{- include "vllm.fullname" . -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/*
vllm.gpus is a pod's GPUs as a resource, vllm.claims what it uses of the pod's claims.
*/}}
{{- define "vllm.gpus" -}}
{{- with .Values.gpu.resource -}}
{{ . }}: {{ include "vllm.gpusPerNode" $ }}
{{- end -}}
{{- end -}}

{{- define "vllm.claims" -}}
{{- with .Values.resourceClaims -}}
claims:
{{- range . }}
  - name: {{ .name }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
vllm.sidecars are those of the values, with, where the chart injects, what `stoker inject` adds to each container: not
where a path is taken or a variable is set.
*/}}
{{- define "vllm.sidecars" -}}
{{- $sidecars := list -}}
{{- range .Values.sidecars -}}
{{- $sidecar := deepCopy . -}}
{{- if eq (include "vllm.injects" $) "chart" -}}
{{- $mounts := default list .volumeMounts -}}
{{- $paths := list -}}
{{- range $mounts -}}
{{- $paths = append $paths (printf "/%s" .mountPath | clean) -}}
{{- end -}}
{{- range list (dict "name" "stoker-models" "mountPath" "/models" "readOnly" true) (dict "name" "stoker-pin" "mountPath" "/stoker" "readOnly" true) -}}
{{- if not (has .mountPath $paths) -}}
{{- $mounts = append $mounts . -}}
{{- end -}}
{{- end -}}
{{- $env := default list .env -}}
{{- $set := list -}}
{{- range $env -}}
{{- $set = append $set .name -}}
{{- end -}}
{{- range list (dict "name" "HF_HUB_OFFLINE" "value" "1") (dict "name" "TRANSFORMERS_OFFLINE" "value" "1") (dict "name" "HF_HUB_CACHE" "value" "/models/hub") -}}
{{- if not (has .name $set) -}}
{{- $env = append $env . -}}
{{- end -}}
{{- end -}}
{{- $_ := set $sidecar "volumeMounts" $mounts -}}
{{- $_ := set $sidecar "env" $env -}}
{{- end -}}
{{- $sidecars = append $sidecars $sidecar -}}
{{- end -}}
{{- if $sidecars -}}
{{- toYaml $sidecars -}}
{{- end -}}
{{- end -}}

{{/*
vllm.handover is the command after which somebody else sets the number of replicas: a second owner of the field, with the
number that it has, so that Kubernetes keeps it when the chart no longer writes it.
*/}}
{{- define "vllm.handover" -}}
{{- $target := include "vllm.scaleTarget" . | fromYaml -}}
{{- $kubectl := printf "kubectl --namespace %s" (include "vllm.namespace" .) -}}
printf '{"apiVersion": "{{ $target.apiVersion }}", "kind": "{{ $target.kind }}", "metadata": {"name": "{{ $target.name }}"}, "spec": {"replicas": %s}}' \
  "$({{ $kubectl }} get {{ lower $target.kind }} {{ $target.name }} -o jsonpath={.spec.replicas})" |
  {{ $kubectl }} apply --server-side --field-manager=replicas --filename -
{{- end -}}

{{/*
vllm.compileCacheFolder is the folder of the compile cache below its directory: what was compiled for one image, kind of
GPU or model is of no use for another, and another namespace is another owner.
*/}}
{{- define "vllm.compileCacheFolder" -}}
{{- $image := include "vllm.servingImage" . | sha256sum | trunc 16 -}}
{{- $model := printf "%s %s" .Values.model.name .Values.model.source | trimSuffix " " | sha256sum | trunc 8 -}}
{{- $gpu := default "any-gpu" .Values.gpu.product -}}
{{- $parts := list (include "vllm.namespace" .) $image $gpu (printf "%s-%s" .Values.model.name $model) -}}
{{- with .Values.compileCache.key -}}
{{- $parts = append $parts . -}}
{{- end -}}
{{- join "/" $parts -}}
{{- end -}}

{{/*
vllm.restricted: what the Pod Security level of that name demands of a container, for the init containers.
*/}}
{{- define "vllm.restricted" -}}
{{- with .Values.stoker.nonRootUser }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
{{- end }}
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
vllm.behavior: how fast replicas come and go, for either kind of autoscaling.
*/}}
{{- define "vllm.behavior" -}}
{{- with .Values.autoscaling -}}
scaleUp:
  stabilizationWindowSeconds: {{ .scaleUp.stabilizationSeconds }}
  policies:
    - type: Pods
      value: {{ .scaleUp.podsPerMinute }}
      periodSeconds: 60
scaleDown:
  stabilizationWindowSeconds: {{ .scaleDown.stabilizationSeconds }}
  policies:
    - type: Pods
      value: {{ .scaleDown.podsPerMinute }}
      periodSeconds: 60
{{- end -}}
{{- end -}}

{{/*
vllm.defaulted gives keys that are null their defaults, in place: below a key without a value, which YAML reads as null,
templates would find nothing. Every template begins with it, because none knows which one Helm renders first.
*/}}
{{- define "vllm.defaulted" -}}
{{- if eq (toString .Values.enabled) "false" -}}
{{- fail "enabled is false, but the chart is rendered: only the condition of an umbrella chart's dependency reads it; name it there (condition: vllm.enabled), or leave the chart out" -}}
{{- end -}}
{{- $defaults := include "vllm.defaults" . | fromYaml -}}
{{- include "vllm.fill" (dict "values" .Values "defaults" $defaults "clearable" (include "vllm.clearable" . | splitList "\n") "prefix" "") -}}
{{- end -}}

{{- define "vllm.fill" -}}
{{- range $key, $default := .defaults -}}
{{- $value := index $.values $key -}}
{{- $path := print $.prefix $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $default) -}}
{{- if not (has $path $.clearable) -}}
{{- include "vllm.fill" (dict "values" $value "defaults" $default "clearable" $.clearable "prefix" (print $path ".")) -}}
{{- end -}}
{{- else if kindIs "invalid" $value -}}
{{- if not (has $path $.clearable) -}}
{{- $_ := set $.values $key $default -}}
{{- else if kindIs "map" $default -}}
{{- $_ := set $.values $key dict -}}
{{- else if kindIs "slice" $default -}}
{{- $_ := set $.values $key list -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
