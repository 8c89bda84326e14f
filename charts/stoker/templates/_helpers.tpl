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

{{- define "stoker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "stoker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "stoker.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "stoker.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
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
{{- $name := regexReplaceAll "[^a-z0-9.-]" (base $path | lower) "-" | trimAll "-." -}}
{{- if gt (len $name) 63 -}}
{{- $name = printf "%s-%s" (trunc 54 $name) (sha256sum $source | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/*
stoker.injects says yes where pods get their volume, init container and affinity from the API server; old where they
would, were the cluster not older than MutatingAdmissionPolicy; and else no.
*/}}
{{- define "stoker.injects" -}}
{{- if not (and .Values.inject.enabled .Values.namespaces) -}}
no
{{- else if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
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
{{- with $model.credentials -}}
{{- if not (hasKey $.Values.credentials .) -}}
{{- fail (printf "models[%d] (%s): credentials %q is no key of the value credentials; add credentials: {%s: {secretName: NAME-OF-THE-SECRET}}" $i $name . .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
