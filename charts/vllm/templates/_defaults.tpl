{{/*
Made of values.yaml by go -C test test -tags e2e ./charts -run TestDefaults -update. Helm takes a key that is null for one
without a default; vllm.defaulted gives it its default back, and a null that clears stays.
*/}}
{{- define "vllm.clearable" -}}
maxUnavailable
monitoring.dashboards.labels
resources.requests
tolerations
{{- end -}}

{{- define "vllm.defaults" -}}
affinity: {}
apiKey:
  key: api-key
  secret: ""
autoscaling:
  keda:
    authenticationRef: {}
    fallback:
      failureThreshold: 3
      replicas: 0
    paused: false
    pollingSeconds: 15
    serverAddress: http://prometheus-operated.monitoring.svc:9090
  kind: none
  kvCacheTarget: 0.8
  maxReplicas: 4
  minReplicas: 1
  queueTarget: 5
  scaleDown:
    podsPerMinute: 1
    stabilizationSeconds: 300
  scaleUp:
    podsPerMinute: 4
    stabilizationSeconds: 0
chatTemplate:
  configMap: ""
  key: chat_template.jinja
commonLabels: {}
compileCache:
  enabled: false
  hostPath: /var/cache/vllm
  key: ""
drain:
  settleSeconds: 10
  timeoutSeconds: 120
envFrom: []
extraVolumeMounts: []
extraVolumes: []
fullnameOverride: ""
gpu:
  product: ""
  resource: nvidia.com/gpu
httpRoute:
  annotations: {}
  enabled: false
  hostnames: []
  parentRefs: []
  path: /
  requestTimeout: ""
hubCache:
  claimName: ""
  size: 100Gi
  tokenSecret: ""
image:
  digest: ""
  pullPolicy: IfNotPresent
  repository: vllm/vllm-openai
  tag: ""
imagePullSecrets: []
ingress:
  annotations: {}
  className: ""
  enabled: false
  hosts: []
  tlsSecret: ""
initContainers: []
lora:
  adapters: []
  maxActive: 1
  maxRank: 16
maxUnavailable: 1
model:
  name: ""
  servedName: ""
  source: ""
monitoring:
  dashboards:
    enabled: false
    labels:
      grafana_dashboard: "1"
  podMonitor:
    enabled: false
    interval: 15s
    labels: {}
  rules:
    alertLabels: {}
    enabled: false
    firstTokenSeconds: 5
    kvCache: 0.95
    labels: {}
    preemptions: 0.1
    queue: 20
    startMinutes: 45
    warmNodes: 0
multiNode:
  exclusiveTopology: ""
  size: 2
nameOverride: ""
namespaceOverride: ""
nodeSelector: {}
podAnnotations: {}
podLabels: {}
podSecurityContext: {}
port: 8000
priorityClassName: ""
replicas: null
resourceClaims: []
resources:
  limits: {}
  requests:
    cpu: "4"
    memory: 16Gi
rollout:
  maxSurge: 1
  maxUnavailable: 0
  type: RollingUpdate
runtimeClassName: ""
schedulerName: ""
scratch: 20Gi
securityContext: {}
service:
  annotations: {}
  labels: {}
  port: 80
  type: ClusterIP
serviceAccount:
  annotations: {}
  automountToken: false
  create: false
  name: ""
sharedMemory: 4Gi
sidecars: []
spot: never
spread: zone
startup:
  minutes: 30
stoker:
  cpu: 100m
  enabled: true
  fitCheck: true
  image:
    digest: ""
    pullPolicy: IfNotPresent
    repository: ghcr.io/stoker-project/stoker
    tag: ""
  inject: auto
  memory: 128Mi
  nonRootUser: 65532
  placement: prefer
  requireFits: false
  weights:
    fits: 100
    idle: 1
    ram: 10
    warm: 100
tolerations:
- key: nvidia.com/gpu
  operator: Exists
topologySpreadConstraints: []
vllm:
  extraArgs: []
  extraEnv: []
  gpuMemoryUtilization: 0.92
  kvCacheDtype: auto
  maxModelLen: 0
  pipelineParallel: 1
  tensorParallel: 1
workload: Deployment
{{- end -}}
