{{/*
vllm.spotLabels: what the usual clouds and Karpenter call nodes that can be taken away.
*/}}
{{- define "vllm.spotLabels" -}}
karpenter.sh/capacity-type: spot
eks.amazonaws.com/capacityType: SPOT
cloud.google.com/gke-spot: "true"
cloud.google.com/gke-preemptible: "true"
kubernetes.azure.com/scalesetpriority: spot
{{- end -}}

{{/*
vllm.affinity: the affinity of the values, with what spot asks for, and, where the chart injects, with the terms that
`stoker inject` would add: the same ones in the same order (agent/inject; a test compares the two).
*/}}
{{- define "vllm.affinity" -}}
{{- $affinity := deepCopy .Values.affinity -}}
{{- $node := default dict $affinity.nodeAffinity -}}
{{- $preferred := default list $node.preferredDuringSchedulingIgnoredDuringExecution -}}
{{- $notSpot := list -}}
{{- $spot := list -}}
{{- range $key, $value := include "vllm.spotLabels" . | fromYaml -}}
{{- $notSpot = append $notSpot (dict "key" $key "operator" "NotIn" "values" (list $value)) -}}
{{- $spot = append $spot (dict "weight" 100 "preference" (dict "matchExpressions" (list (dict "key" $key "operator" "In" "values" (list $value))))) -}}
{{- end -}}
{{- $required := list -}}
{{- if eq .Values.spot "never" -}}
{{- $required = $notSpot -}}
{{- else if eq .Values.spot "avoid" -}}
{{- $preferred = append $preferred (dict "weight" 100 "preference" (dict "matchExpressions" $notSpot)) -}}
{{- else if eq .Values.spot "prefer" -}}
{{- $preferred = concat $preferred $spot -}}
{{- end -}}
{{- if eq (include "vllm.injects" .) "chart" -}}
{{- $warm := dict "key" (printf "warm.stoker.dev/%s" .Values.model.name) "operator" "Exists" -}}
{{- $fits := printf "fits.stoker.dev/%s" .Values.model.name -}}
{{- with .Values.stoker.weights -}}
{{- $preferred = append $preferred (dict "weight" .warm "preference" (dict "matchExpressions" (list $warm))) -}}
{{- if .fits -}}
{{- $preferred = append $preferred (dict "weight" .fits "preference" (dict "matchExpressions" (list $warm (dict "key" $fits "operator" "Gt" "values" (list "0"))))) -}}
{{- end -}}
{{- if .ram -}}
{{- $preferred = append $preferred (dict "weight" .ram "preference" (dict "matchExpressions" (list (dict "key" $warm.key "operator" "In" "values" (list "ram"))))) -}}
{{- end -}}
{{- if .idle -}}
{{- $preferred = append $preferred (dict "weight" .idle "preference" (dict "matchExpressions" (list (dict "key" "gpu.stoker.dev/idle" "operator" "Gt" "values" (list "0"))))) -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.stoker.placement "require" -}}
{{- $required = append (append $required $warm) (dict "key" $fits "operator" "Gt" "values" (list "0")) -}}
{{- else if .Values.stoker.requireFits -}}
{{- $required = append $required (dict "key" $fits "operator" "NotIn" "values" (list "0")) -}}
{{- end -}}
{{- end -}}
{{- if $preferred -}}
{{- $_ := set $node "preferredDuringSchedulingIgnoredDuringExecution" $preferred -}}
{{- end -}}
{{- if $required -}}
{{- $own := $node.requiredDuringSchedulingIgnoredDuringExecution -}}
{{- if not $own -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" (list (dict "matchExpressions" $required))) -}}
{{- else -}}
{{- /* Of a pod's own terms a node has to match one: each gets the requirement. A term without anything matches none. */ -}}
{{- range $own.nodeSelectorTerms -}}
{{- if or .matchExpressions .matchFields -}}
{{- $_ := set . "matchExpressions" (concat (default list .matchExpressions) $required) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $node -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- end -}}
{{- if $affinity -}}
{{- toYaml $affinity -}}
{{- end -}}
{{- end -}}

{{/*
vllm.tolerations: those of the values, and of the taints that clouds put on Spot nodes, where these are allowed.
*/}}
{{- define "vllm.tolerations" -}}
{{- $tolerations := .Values.tolerations -}}
{{- if ne .Values.spot "never" -}}
{{- $tolerations = append $tolerations (dict "key" "kubernetes.azure.com/scalesetpriority" "operator" "Equal" "value" "spot" "effect" "NoSchedule") -}}
{{- $tolerations = append $tolerations (dict "key" "cloud.google.com/gke-spot" "operator" "Equal" "value" "true" "effect" "NoSchedule") -}}
{{- end -}}
{{- if $tolerations -}}
{{- toYaml $tolerations -}}
{{- end -}}
{{- end -}}
