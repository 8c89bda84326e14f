{{- define "stoker.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "stoker.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "stoker.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "stoker.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "stoker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "stoker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "stoker.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "stoker.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
stoker.release: what agents write on their Nodes of whose they are.
*/}}
{{- define "stoker.release" -}}
{{ .Release.Namespace }}/{{ .Release.Name }}
{{- end -}}

{{/*
stoker.localConfig keeps kustomize, and with it Flux's Kustomization, from applying an object; Helm does not read it.
*/}}
{{- define "stoker.localConfig" -}}
config.kubernetes.io/local-config: "true"
{{- end -}}

{{- define "stoker.serviceAccountName" -}}
{{- default (include "stoker.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "stoker.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
stoker.modelName gives the name of one entry of models: its own, or the one that the agent derives from the source.
The rule is the agent's (fetcher.Source.DeriveName); a test compares the two.
*/}}
{{- define "stoker.modelName" -}}
{{- if .name -}}
{{- .name -}}
{{- else -}}
{{- $source := .source -}}
{{- if hasPrefix "hf://" $source -}}
{{- $source = regexReplaceAll "@.*$" $source "" -}}
{{- else if hasPrefix "file://" $source -}}
{{- $source = printf "file://%s" (trimPrefix "file://" $source | clean) -}}
{{- else -}}
{{- $source = regexReplaceAll "/+$" $source "" -}}
{{- end -}}
{{- $path := regexReplaceAll "^[a-z0-9]+://" $source "" -}}
{{- if regexMatch "^(s3|gs)://.+/[^/]*[.](safetensors|gguf|bin|pt|pth)$" $source -}}
{{- $path = dir $path -}}
{{- end -}}
{{- $name := regexReplaceAll "[^a-z0-9.-]" (base $path | lower) "-" | trimAll "-." -}}
{{- if gt (len $name) 63 -}}
{{- $name = printf "%s-%s" (trunc 54 $name) (sha256sum $source | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/*
stoker.mounts says yes where there is a store for agents and pods to mount: not yet, where a read-only volume is still to
be populated.
*/}}
{{- define "stoker.mounts" -}}
{{- if and (eq .Values.volume.mode "readOnly") (not .Values.volume.readOnly.source) -}}
no
{{- else -}}
yes
{{- end -}}
{{- end -}}

{{/*
stoker.volumeName: the PersistentVolume of one namespace (a dict with root and namespace). No namespace has a dot in its
name, so what follows the last one is the namespace: releases and namespaces whose names run together (stoker-a with b,
stoker with a-b) have volumes of their own, and so has a namespace called store. The name of a bound volume cannot be
changed: a claim that charts before this rule bound keeps it.
*/}}
{{- define "stoker.volumeName" -}}
{{- $before := printf "%s-%s" (include "stoker.fullname" .root) .namespace -}}
{{- $claim := lookup "v1" "PersistentVolumeClaim" .namespace "stoker-models" | default dict -}}
{{- $instance := get (($claim.metadata | default dict).labels | default dict) "app.kubernetes.io/instance" -}}
{{- if and (eq ($claim.spec | default dict | dig "volumeName" "") $before) (eq $instance .root.Release.Name) -}}
{{- $before -}}
{{- else -}}
{{- printf "%s.%s" (include "stoker.fullname" .root) .namespace -}}
{{- end -}}
{{- end -}}

{{/*
stoker.volumes: every PersistentVolume of the release with its claim, a line each, as the sweeper takes them.
*/}}
{{- define "stoker.volumes" -}}
{{- if eq (include "stoker.mounts" .) "yes" -}}
{{- range .Values.namespaces }}
{{ include "stoker.volumeName" (dict "root" $ "namespace" .) }}={{ . }}/stoker-models
{{- end }}
{{- if ne .Values.volume.mode "node" }}
{{ include "stoker.fullname" . }}-store={{ include "stoker.namespace" . }}/{{ include "stoker.fullname" . }}-store
{{- end }}
{{- end -}}
{{- end -}}

{{/*
stoker.injects says yes where pods get their volume, init container and affinity from the API server; old where they
would, were the cluster not older than MutatingAdmissionPolicy; and else no. Who renders without a cluster may force it.
*/}}
{{- define "stoker.injects" -}}
{{- if or (not (and .Values.inject.enabled .Values.namespaces)) (eq (include "stoker.mounts" .) "no") -}}
no
{{- else if or .Values.inject.force (semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version) -}}
yes
{{- else -}}
old
{{- end -}}
{{- end -}}

{{/*
stoker.validate refuses what a schema cannot see: entries that contradict one another.
*/}}
{{- define "stoker.validate" -}}
{{- $seen := dict -}}
{{- range $i, $model := .Values.models -}}
{{- $name := include "stoker.modelName" $model -}}
{{- if not $name -}}
{{- fail (printf "models[%d]: no name can be derived from source %q; give it a name" $i $model.source) -}}
{{- end -}}
{{- if hasKey $seen $name -}}
{{- fail (printf "models[%d] (%s) and models[%d] (%s) are both named %q; give one of them another name" (get $seen $name | int) (index $.Values.models (get $seen $name | int)).source $i $model.source $name) -}}
{{- end -}}
{{- $_ := set $seen $name $i -}}
{{- if and $model.ram (has ($.Values.agent.ram.budget | default "") (list "" "0" "0%")) -}}
{{- fail (printf "models[%d] (%s): ram is true, but agent.ram.budget is empty, so nothing would be held in memory; set it to a size as in 64Gi" $i $name) -}}
{{- end -}}
{{- with $model.credentials -}}
{{- if not (hasKey $.Values.credentials .) -}}
{{- fail (printf "models[%d] (%s): credentials %q is no key of the value credentials; add credentials: {%s: {secretName: NAME-OF-THE-SECRET}}" $i $name . .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false, but serviceAccount.name is empty; name the ServiceAccount that agents run as" -}}
{{- end -}}
{{- $mode := .Values.volume.mode -}}
{{- if and .Values.store.seLinuxLabel (eq $mode "node") (not .Values.seLinuxOptions) -}}
{{- fail "store.seLinuxLabel is set, but seLinuxOptions is empty, and no container may relabel files by default; set seLinuxOptions to {type: spc_t, level: s0}" -}}
{{- end -}}
{{- if and (eq (include "stoker.mounts" .) "no") (not .Values.populate.enabled) -}}
{{- fail "volume.mode is readOnly, but volume.readOnly.source is empty; name the volume, or let a Job fill one first with populate.enabled" -}}
{{- end -}}
{{- if and .Values.populate.enabled (ne $mode "readOnly") -}}
{{- fail (printf "populate.enabled is true, but volume.mode is %s, where agents pull models themselves; set volume.mode to readOnly, or populate.enabled to false" $mode) -}}
{{- end -}}
{{- if and .Values.populate.enabled .Values.populate.prune .Values.volume.readOnly.source -}}
{{- fail "populate.prune is true while volume.readOnly.source names a volume that agents and pods read: if that is the claim's own, files would go under them; set populate.prune to false, or leave the source out while the Job runs" -}}
{{- end -}}
{{- if and .Values.populate.enabled (not .Values.populate.claim) (not .Values.populate.size) -}}
{{- fail "populate.enabled is true, but neither populate.claim nor populate.size is set; name a claim of this namespace, or the size of one for the chart to make" -}}
{{- end -}}
{{- if and (hasSuffix "%" (.Values.agent.ram.budget | default "")) (.Values.resources.limits | default dict).memory -}}
{{- fail (printf "agent.ram.budget is %s: what the agent holds in memory counts against resources.limits.memory (%v), and the chart does not know how much %s is on each node; set resources.limits.memory to null, or write the budget as a size" .Values.agent.ram.budget .Values.resources.limits.memory .Values.agent.ram.budget) -}}
{{- end -}}
{{- end -}}

{{/*
stoker.sharedSource: what a PersistentVolume of the volume that nodes share consists of (a dict with root and readOnly).
*/}}
{{- define "stoker.sharedSource" -}}
{{- $volume := get .root.Values.volume .root.Values.volume.mode -}}
{{- with $volume.mountOptions -}}
mountOptions:
  {{- toYaml . | nindent 2 }}
{{ end -}}
{{- range $kind, $source := $volume.source -}}
{{ $kind }}:
  {{- toYaml (merge (dict "readOnly" $.readOnly) $source) | nindent 2 }}
{{- end -}}
{{- end -}}

{{/*
stoker.bytes is a quantity of Kubernetes as a number of bytes.
*/}}
{{- define "stoker.bytes" -}}
{{- $text := kindIs "string" . | ternary . (printf "%.3f" (float64 .)) -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $text -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- printf "%.0f" (mulf (float64 $number) (float64 (get $units (trimPrefix $number $text)))) -}}
{{- end -}}

{{/*
stoker.agentResources: the agent's requests and limits. The pages that it holds in memory for models are charged to its
own limit, and would leave again at it: so the limit is raised by the budget.
*/}}
{{- define "stoker.agentResources" -}}
{{- $resources := deepCopy .Values.resources -}}
{{- $limit := ($resources.limits | default dict).memory -}}
{{- $budget := .Values.agent.ram.budget | default "0" -}}
{{- if and $limit (not (hasSuffix "%" $budget)) -}}
{{- $sum := addf (include "stoker.bytes" $limit) (include "stoker.bytes" $budget) -}}
{{- if ne (include "stoker.bytes" $budget) "0" -}}
{{- $_ := set $resources.limits "memory" (printf "%.0fMi" (ceil (divf $sum 1048576))) -}}
{{- end -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/*
The names of what is not the agent leave room for their suffix in 63 characters: a Job's name becomes a label.
*/}}
{{- define "stoker.sweeperName" -}}
{{- printf "%s-sweeper" (include "stoker.fullname" . | trunc 55 | trimSuffix "-") -}}
{{- end -}}

{{- define "stoker.unlabelName" -}}
{{- printf "%s-unlabel" (include "stoker.fullname" . | trunc 55 | trimSuffix "-") -}}
{{- end -}}

{{/*
stoker.componentSelectorLabels: labels of another component's pods (a dict with root and component). The name differs
from the agents', whose DaemonSet selects by name and instance, and so does the sweeper.
*/}}
{{- define "stoker.componentName" -}}
{{- printf "%s-%s" (include "stoker.name" .root | trunc 55 | trimSuffix "-") .component -}}
{{- end -}}

{{- define "stoker.componentSelectorLabels" -}}
app.kubernetes.io/name: {{ include "stoker.componentName" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{- define "stoker.componentLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "stoker.componentSelectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
stoker.podMetadata: labels and annotations of pods (a dict with root, the labels that select them, and their component's
values). The chart's version is not among them: raising it alone restarts no agent.
*/}}
{{- define "stoker.podMetadata" -}}
labels:
  {{- .selector | nindent 2 }}
  {{- with merge (dict) (.values.podLabels | default dict) (.root.Values.commonLabels | default dict) }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
stoker.transferring: fields of pods that speak to sources, the agents' and populate's.
*/}}
{{- define "stoker.transferring" -}}
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
{{- with default (.Values.hostNetwork | ternary "ClusterFirstWithHostNet" "") .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- if .Values.hostNetwork }}
hostNetwork: true
{{- end }}
{{- end -}}

{{- define "stoker.populateName" -}}
{{- printf "%s-populate" (include "stoker.fullname" . | trunc 45 | trimSuffix "-") -}}
{{- end -}}

{{- define "stoker.populateClaim" -}}
{{- default (include "stoker.populateName" .) .Values.populate.claim -}}
{{- end -}}

{{/*
stoker.sourceEnv, stoker.sourceMounts and stoker.sourceVolumes: what sources are asked with, beside the configuration:
the certificates of authorities, and the Secrets that entries of the list name.
*/}}
{{- define "stoker.sourceEnv" -}}
{{- if or .Values.caBundle.configMapName .Values.caBundle.secretName }}
- name: STOKER_CA_BUNDLE
  value: /etc/stoker/ca-bundle
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "stoker.sourceMounts" -}}
{{- if or .Values.caBundle.configMapName .Values.caBundle.secretName }}
- name: ca-bundle
  mountPath: /etc/stoker/ca-bundle
  readOnly: true
{{- end }}
{{- range $name, $_ := .Values.credentials }}
- name: credentials-{{ sha256sum $name | trunc 8 }}
  mountPath: /etc/stoker/credentials/{{ $name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- define "stoker.sourceVolumes" -}}
{{- if or .Values.caBundle.configMapName .Values.caBundle.secretName }}
- name: ca-bundle
  projected:
    defaultMode: 0444
    # While one is missing, warm models stay warm, and pulls say what they lack.
    sources:
      {{- with .Values.caBundle.configMapName }}
      - configMap:
          name: {{ . }}
          optional: true
      {{- end }}
      {{- with .Values.caBundle.secretName }}
      - secret:
          name: {{ . }}
          optional: true
      {{- end }}
{{- end }}
{{- range $name, $credential := .Values.credentials }}
- name: credentials-{{ sha256sum $name | trunc 8 }}
  secret:
    secretName: {{ $credential.secretName }}
    defaultMode: 0400
    # One missing Secret must not keep a node from all other models.
    optional: true
{{- end }}
{{- end -}}

{{/*
stoker.restricted: what the Pod Security level of that name demands of a container.
*/}}
{{- define "stoker.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "stoker.restrictedPod" -}}
runAsNonRoot: true
{{- with .Values.nonRootUser }}
runAsUser: {{ int . }}
runAsGroup: {{ int . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
stoker.nodePolicy: what ValidatingAdmissionPolicies of an account share (a dict with root and account, its name in the
release's namespace): every write to Nodes, and parts of the metadata to compare. managedFields and resourceVersion
differ with every write, so the metadata cannot be compared whole; what else a Node's metadata has cannot be changed.
Admission sees no reads.
*/}}
{{- define "stoker.nodePolicy" -}}
failurePolicy: Fail
matchConstraints:
  resourceRules:
    - apiGroups: [""]
      apiVersions: ["*"]
      operations: ["*"]
      resources: ["nodes", "nodes/*"]
matchConditions:
  - name: this-account
    expression: request.userInfo.username == "system:serviceaccount:{{ include "stoker.namespace" .root }}:{{ .account }}"
variables:
  - name: isUpdate
    expression: request.operation == "UPDATE" && (!has(request.subResource) || request.subResource == "")
  - name: labels
    expression: object.metadata.?labels.orValue({})
  - name: oldLabels
    expression: oldObject.metadata.?labels.orValue({})
  - name: annotations
    expression: object.metadata.?annotations.orValue({})
  - name: oldAnnotations
    expression: oldObject.metadata.?annotations.orValue({})
{{- end -}}

{{/*
stoker.statusLeases: "yes" where the annotation of a Node may have no room for what its agent has to say, which then goes
into a Lease of the release's namespace: where the list has more than 20 models.
*/}}
{{- define "stoker.statusLeases" -}}
{{- if gt (len .Values.models) 20 -}}yes{{- end -}}
{{- end -}}

{{/*
stoker.sameOwnership: a validation that holds what decides over a Node's life.
*/}}
{{- define "stoker.sameOwnership" -}}
- expression: >-
    !variables.isUpdate || (object.metadata.?finalizers.orValue([]) == oldObject.metadata.?finalizers.orValue([]) &&
    object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([]))
  message: this account may not change finalizers or ownerReferences of a Node
{{- end -}}

{{/*
stoker.removalOnly: a policy's spec that lets an account change of Nodes nothing but this: keys of stoker.dev go away.
*/}}
{{- define "stoker.removalOnly" -}}
{{ include "stoker.nodePolicy" . }}
validations:
  - expression: variables.isUpdate
    message: this account may change labels and annotations of Nodes, and do nothing else with Nodes and their subresources
  - expression: >-
      !variables.isUpdate || (variables.labels.all(k, k in variables.oldLabels && variables.labels[k] == variables.oldLabels[k]) &&
      variables.annotations.all(k, k in variables.oldAnnotations && variables.annotations[k] == variables.oldAnnotations[k]))
    message: this account may remove labels and annotations, not add or change any
  - expression: >-
      !variables.isUpdate || (variables.oldLabels.all(k, k in variables.labels || k.matches("^([^/]+[.])?stoker[.]dev/")) &&
      variables.oldAnnotations.all(k, k in variables.annotations || k.matches("^([^/]+[.])?stoker[.]dev/")))
    message: this account may remove keys of stoker.dev, not those of others
  - expression: "!variables.isUpdate || object.spec == oldObject.spec"
    message: this account may not change the spec of a Node
  {{- include "stoker.sameOwnership" . | nindent 2 }}
{{- end -}}

{{/*
stoker.defaulted gives keys that are null their defaults, in place: below a key without a value, which YAML reads as null,
templates would find nothing. Every template begins with it, because none knows which one Helm renders first.
*/}}
{{- define "stoker.defaulted" -}}
{{- if eq (toString .Values.enabled) "false" -}}
{{- fail "enabled is false, but the chart is rendered: only the condition of an umbrella chart's dependency reads it; name it there (condition: stoker.enabled), or leave the chart out" -}}
{{- end -}}
{{- $defaults := include "stoker.defaults" . | fromYaml -}}
{{- include "stoker.fill" (dict "values" .Values "defaults" $defaults "clearable" (include "stoker.clearable" . | splitList "\n") "prefix" "") -}}
{{- end -}}

{{- define "stoker.fill" -}}
{{- range $key, $default := .defaults -}}
{{- $value := index $.values $key -}}
{{- $path := print $.prefix $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $default) -}}
{{- if not (has $path $.clearable) -}}
{{- include "stoker.fill" (dict "values" $value "defaults" $default "clearable" $.clearable "prefix" (print $path ".")) -}}
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

{{/*
Regular expressions of CEL for the paths at which a container mounts a directory of the root, or something at or below it, or
something over all. The kubelet takes a path without a slash from the root, and further slashes and dots change nothing.
*/}}
{{- define "stoker.mountedAt" -}}
^(/|[.]/)*{{ . }}(/+[.]?)*$
{{- end -}}
{{- define "stoker.mountedWithin" -}}
^(/|[.]/)*{{ . }}(/.*)?$
{{- end -}}
{{- define "stoker.mountedOverAll" -}}
^(/|[.]/)*[.]?$
{{- end -}}
