{{/*
vllm.podTemplate is the pod template of a replica, or, with role leader or worker, of one of the pods of a group that is a
replica together (a dict of role and what templates find at the root).
*/}}
{{- define "vllm.podTemplate" -}}
{{- $stoker := .Values.stoker -}}
{{- $injects := include "vllm.injects" . -}}
{{- /* Where the chart does not inject, the volumes still have to be there for the init container that reads the model. */ -}}
{{- $volumes := or (eq $injects "chart") (and $stoker.enabled $stoker.fitCheck) -}}
metadata:
  labels:
    {{- include "vllm.selectorLabels" . | nindent 4 }}
    {{- if $stoker.enabled }}
    stoker.dev/model: {{ .Values.model.name }}
    {{- end }}
    {{- with merge (dict) .Values.podLabels .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or .Values.podAnnotations $stoker.enabled }}
  annotations:
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if $stoker.enabled }}
    stoker.dev/placement: {{ $stoker.placement }}
    {{- with .Values.lora.adapters }}
    stoker.dev/adapters: {{ join "," . | quote }}
    {{- end }}
    {{- if $stoker.requireFits }}
    stoker.dev/fits: require
    {{- end }}
    {{- end }}
  {{- end }}
spec:
  # vLLM asks nothing of the cluster.
  automountServiceAccountToken: {{ .Values.serviceAccount.automountToken }}
  # A Service called vllm would set VLLM_PORT to an address, with which vLLM ends.
  enableServiceLinks: false
  {{- with include "vllm.serviceAccountName" . }}
  serviceAccountName: {{ . }}
  {{- end }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.schedulerName }}
  schedulerName: {{ . }}
  {{- end }}
  {{- with .Values.resourceClaims }}
  resourceClaims:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- if or .Values.nodeSelector .Values.gpu.product }}
  nodeSelector:
    {{- with .Values.gpu.product }}
    nvidia.com/gpu.product: {{ . | quote }}
    {{- end }}
    {{- with .Values.nodeSelector }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  {{- with include "vllm.affinity" . }}
  affinity:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with include "vllm.tolerations" . }}
  tolerations:
    {{- . | nindent 4 }}
  {{- end }}
  {{- /* Groups are spread, by their leaders, and not the pods of one. */}}
  {{- if eq .role "worker" }}
  {{- else if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range .Values.topologySpreadConstraints }}
    {{- $own := dict "labelSelector" (dict "matchLabels" (include "vllm.servingLabels" $ | fromYaml)) }}
    - {{- toYaml (ternary . (merge $own .) (hasKey . "labelSelector")) | nindent 6 }}
    {{- end }}
  {{- else if ne .Values.spread "none" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: {{ eq .Values.spread "zone" | ternary "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "vllm.servingLabels" . | nindent 10 }}
  {{- end }}
  terminationGracePeriodSeconds: {{ add .Values.drain.settleSeconds .Values.drain.timeoutSeconds 30 }}
  {{- if or $volumes .Values.initContainers }}
  initContainers:
    {{- if eq $injects "chart" }}
    - name: stoker-wait
      image: {{ include "vllm.stokerImage" . | quote }}
      imagePullPolicy: {{ $stoker.image.pullPolicy }}
      args:
        - wait
        - {{ .Values.model.name | quote }}
        {{- range .Values.lora.adapters }}
        - {{ . | quote }}
        {{- end }}
        - --store=/models
        - --pin=/stoker
      resources:
        requests:
          cpu: {{ $stoker.cpu | quote }}
          memory: {{ $stoker.memory | quote }}
        limits:
          cpu: {{ $stoker.cpu | quote }}
          memory: {{ $stoker.memory | quote }}
      securityContext:
        {{- include "vllm.restricted" . | nindent 8 }}
      volumeMounts:
        - name: stoker-models
          mountPath: /models
          readOnly: true
        - name: stoker-pin
          mountPath: /stoker
    {{- end }}
    {{- if and $stoker.enabled $stoker.fitCheck }}
    # It is given the GPUs that vLLM then gets: what init containers ask for does not add up.
    - name: stoker-fit
      image: {{ include "vllm.stokerImage" . | quote }}
      imagePullPolicy: {{ $stoker.image.pullPolicy }}
      args:
        - fit
        - /stoker/model
        - --store=/models
        - --tensor-parallel={{ .Values.vllm.tensorParallel }}
        {{- if gt (int .Values.vllm.pipelineParallel) 1 }}
        - --pipeline-parallel-size={{ .Values.vllm.pipelineParallel }}
        {{- end }}
        {{- if .role }}
        - --nnodes={{ .Values.multiNode.size }}
        {{- end }}
        {{- with .Values.vllm.maxModelLen }}
        - --max-model-len={{ int64 . }}
        {{- end }}
        - --gpu-memory-utilization={{ .Values.vllm.gpuMemoryUtilization }}
        - --kv-cache-dtype={{ .Values.vllm.kvCacheDtype }}
        - --check
        {{- if or .Values.vllm.extraArgs .Values.lora.adapters }}
        # As vLLM gets them. What may change the memory and is not counted makes the answer an estimate.
        - --
        {{- if .Values.lora.adapters }}
        - --enable-lora
        - --max-lora-rank={{ .Values.lora.maxRank }}
        - --max-loras={{ .Values.lora.maxActive }}
        {{- end }}
        {{- range .Values.vllm.extraArgs }}
        - {{ . | quote }}
        {{- end }}
        {{- end }}
      env:
        - name: NVIDIA_DRIVER_CAPABILITIES
          value: utility
        {{- range .Values.vllm.extraEnv }}
        {{- if eq .name "VLLM_ALLOW_LONG_MAX_MODEL_LEN" }}
        {{- toYaml (list .) | nindent 8 }}
        {{- end }}
        {{- end }}
      resources:
        requests:
          cpu: {{ $stoker.cpu | quote }}
          memory: {{ $stoker.memory | quote }}
          {{- include "vllm.gpus" . | nindent 10 }}
        limits:
          cpu: {{ $stoker.cpu | quote }}
          memory: {{ $stoker.memory | quote }}
          {{- include "vllm.gpus" . | nindent 10 }}
        {{- include "vllm.claims" . | nindent 8 }}
      securityContext:
        {{- include "vllm.restricted" . | nindent 8 }}
      volumeMounts:
        - name: stoker-models
          mountPath: /models
          readOnly: true
        - name: stoker-pin
          mountPath: /stoker
          readOnly: true
    {{- end }}
    {{- with .Values.initContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: vllm
      image: {{ include "vllm.servingImage" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      # The image's own entry point was another before v0.11; this is right for both.
      command: [vllm, serve]
      args:
        {{- if $stoker.enabled }}
        # A link to the revision that was published when the pod started. It does not move.
        - /stoker/model
        {{- else }}
        {{- $source := trimPrefix "hf://" .Values.model.source }}
        - {{ regexReplaceAll "@.*$" $source "" | quote }}
        {{- if contains "@" $source }}
        - {{ printf "--revision=%s" (regexReplaceAll "^[^@]*@" $source "") | quote }}
        {{- end }}
        {{- end }}
        - {{ printf "--served-model-name=%s" (include "vllm.servedName" .) | quote }}
        {{- if .Values.lora.adapters }}
        - --enable-lora
        - --max-lora-rank={{ .Values.lora.maxRank }}
        - --max-loras={{ .Values.lora.maxActive }}
        - --lora-modules
        {{- range .Values.lora.adapters }}
        - {{ printf "%s=/stoker/adapters/%s" . . | quote }}
        {{- end }}
        {{- end }}
        - --port={{ .Values.port }}
        - --tensor-parallel-size={{ .Values.vllm.tensorParallel }}
        {{- if gt (int .Values.vllm.pipelineParallel) 1 }}
        - --pipeline-parallel-size={{ .Values.vllm.pipelineParallel }}
        {{- end }}
        {{- if .role }}
        - --nnodes={{ .Values.multiNode.size }}
        - --node-rank=$(LWS_WORKER_INDEX)
        - --master-addr=$(LWS_LEADER_ADDRESS)
        # The first of the group to start waits for nodes that are still cold.
        - --distributed-timeout-seconds={{ include "vllm.groupSeconds" . }}
        {{- end }}
        {{- if eq .role "worker" }}
        - --headless
        {{- end }}
        - --gpu-memory-utilization={{ .Values.vllm.gpuMemoryUtilization }}
        - --kv-cache-dtype={{ .Values.vllm.kvCacheDtype }}
        {{- with .Values.vllm.maxModelLen }}
        - --max-model-len={{ int64 . }}
        {{- end }}
        {{- with .Values.chatTemplate.configMap }}
        - {{ printf "--chat-template=/etc/vllm/chat-template/%s" $.Values.chatTemplate.key | quote }}
        {{- end }}
        {{- range .Values.vllm.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      env:
        # Both must be writable; HF_HUB_CACHE, which Stoker sets, is not.
        - name: HF_HOME
          value: {{ $stoker.enabled | ternary "/var/cache/scratch/huggingface" "/var/cache/huggingface" }}
        - name: VLLM_CACHE_ROOT
          value: {{ .Values.compileCache.enabled | ternary "/var/cache/vllm" "/var/cache/scratch/vllm" }}
        {{- if and (not $stoker.enabled) .Values.hubCache.tokenSecret }}
        - name: HF_TOKEN
          valueFrom:
            secretKeyRef:
              name: {{ .Values.hubCache.tokenSecret }}
              key: HF_TOKEN
        {{- end }}
        {{- with .Values.apiKey.secret }}
        - name: VLLM_API_KEY
          valueFrom:
            secretKeyRef:
              name: {{ . }}
              key: {{ $.Values.apiKey.key }}
        {{- end }}
        {{- with .Values.vllm.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- if eq $injects "chart" }}
        - name: HF_HUB_OFFLINE
          value: "1"
        - name: TRANSFORMERS_OFFLINE
          value: "1"
        - name: HF_HUB_CACHE
          value: /models/hub
        {{- end }}
      {{- with .Values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- /* A worker has no API. */}}
      {{- if ne .role "worker" }}
      ports:
        - name: http
          containerPort: {{ .Values.port }}
      # Loading takes minutes; the other probes begin when it is done.
      startupProbe:
        httpGet:
          path: /health
          port: http
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: {{ if .role }}{{ div (include "vllm.groupSeconds" . | int) 5 }}{{ else }}{{ mul 12 .Values.startup.minutes }}{{ end }}
      readinessProbe:
        httpGet:
          path: /health
          port: http
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      # A busy replica answers late; only one whose engine is gone is restarted.
      livenessProbe:
        httpGet:
          path: /health
          port: http
        periodSeconds: 10
        timeoutSeconds: 10
        failureThreshold: 6
      {{- end }}
      lifecycle:
        preStop:
          exec:
            command:
              - python3
              - -c
              - |
                {{- .Files.Get "files/drain.py" | nindent 16 }}
              - {{ .Values.drain.settleSeconds | quote }}
              - {{ .Values.drain.timeoutSeconds | quote }}
              {{- /* A worker stays until the leader serves nothing: the script replaces the variable. */}}
              - {{ printf "http://%s:%d/metrics" (eq .role "worker" | ternary "$LWS_LEADER_ADDRESS" "127.0.0.1") (int .Values.port) }}
      resources:
        requests:
          {{- with .Values.resources.requests }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
          {{- include "vllm.gpus" . | nindent 10 }}
        limits:
          {{- with .Values.resources.limits }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
          {{- include "vllm.gpus" . | nindent 10 }}
        {{- include "vllm.claims" . | nindent 8 }}
      securityContext:
        {{- $own := dict "allowPrivilegeEscalation" false "capabilities" (dict "drop" (list "ALL")) "seccompProfile" (dict "type" "RuntimeDefault") }}
        {{- toYaml (mergeOverwrite $own .Values.securityContext) | nindent 8 }}
      volumeMounts:
        - name: shared-memory
          mountPath: /dev/shm
        - name: scratch
          mountPath: /var/cache/scratch
        - name: tmp
          mountPath: /tmp
        {{- if .Values.compileCache.enabled }}
        - name: compile-cache
          mountPath: /var/cache/vllm
          subPath: {{ include "vllm.compileCacheFolder" . | quote }}
        {{- end }}
        {{- if not $stoker.enabled }}
        - name: hub-cache
          mountPath: /var/cache/huggingface
        {{- end }}
        {{- if .Values.chatTemplate.configMap }}
        - name: chat-template
          mountPath: /etc/vllm/chat-template
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- if eq $injects "chart" }}
        - name: stoker-models
          mountPath: /models
          readOnly: true
        - name: stoker-pin
          mountPath: /stoker
          readOnly: true
        {{- end }}
    {{- with include "vllm.sidecars" . }}
    {{- . | nindent 4 }}
    {{- end }}
  volumes:
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: {{ .Values.sharedMemory }}
    - name: scratch
      emptyDir:
        sizeLimit: {{ .Values.scratch }}
    - name: tmp
      emptyDir:
        sizeLimit: {{ .Values.scratch }}
    {{- if .Values.compileCache.enabled }}
    - name: compile-cache
      hostPath:
        path: {{ .Values.compileCache.hostPath }}
        type: DirectoryOrCreate
    {{- end }}
    {{- if not $stoker.enabled }}
    - name: hub-cache
      {{- if .Values.hubCache.claimName }}
      persistentVolumeClaim:
        claimName: {{ .Values.hubCache.claimName }}
      {{- else }}
      emptyDir:
        sizeLimit: {{ .Values.hubCache.size }}
      {{- end }}
    {{- end }}
    {{- with .Values.chatTemplate.configMap }}
    - name: chat-template
      configMap:
        name: {{ . }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- if $volumes }}
    - name: stoker-models
      persistentVolumeClaim:
        claimName: stoker-models
        readOnly: true
    - name: stoker-pin
      emptyDir: {}
    {{- end }}
{{- end -}}
