{{/*
vllm.series selects this model's series of this namespace. Engines of one replica and replicas are told apart by further
labels, which queries sum over.
*/}}
{{- define "vllm.series" -}}
namespace={{ include "vllm.namespace" . | quote }},model_name={{ include "vllm.servedName" . | quote }}
{{- end -}}

{{/*
vllm.targets selects the replicas themselves, which have no model_name before they serve.
*/}}
{{- define "vllm.targets" -}}
namespace={{ include "vllm.namespace" . | quote }},pod=~{{ printf "%s-%s" (include "vllm.workload" .) (eq .Values.workload "LeaderWorkerSet" | ternary "[0-9]+" "[a-z0-9]+-[a-z0-9]+") | quote }},container="vllm"
{{- end -}}

{{/*
vllm.kvCache: usage of the KV cache, 0 to 1, of each engine. The name changed in v0.9.2; the old one was hidden in v0.11
and removed in v0.12. Releases between have both, of which `or` takes one.
*/}}
{{- define "vllm.kvCache" -}}
{{- $series := include "vllm.series" . -}}
vllm:kv_cache_usage_perc{ {{- $series -}} } or vllm:gpu_cache_usage_perc{ {{- $series -}} }
{{- end -}}

{{- define "vllm.waiting" -}}
sum(vllm:num_requests_waiting{ {{- include "vllm.series" . -}} })
{{- end -}}
