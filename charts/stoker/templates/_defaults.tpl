{{/*
Made of values.yaml by go -C test test -tags e2e ./charts -run TestDefaults -update. Helm takes a key that is null for one
without a default; stoker.defaulted gives it its default back, and a null that clears stays.
*/}}
{{- define "stoker.clearable" -}}
monitoring.dashboard.labels
nodeSelector
populate.podAnnotations
populate.podLabels
populate.resources.limits
populate.resources.requests
resources.limits
resources.requests
sweeper.resources.limits
sweeper.resources.requests
tolerations
uninstall.podAnnotations
uninstall.podLabels
uninstall.resources.limits
uninstall.resources.requests
{{- end -}}

{{- define "stoker.defaults" -}}
affinity: {}
agent:
  gpu:
    leakAbove: 5%
  intervals:
    gpu: 60s
    gpuLeak: 5m
    gpuRise: 60s
    grace: 10m
    heartbeat: 10s
    labelWrites: 2s
    leave: 2m
    observe: 5s
    progress: 30s
    residency: 15s
    resync: 1m
    retryMax: 10m
    retryMin: 5s
    timeout: 15s
    verify: 30s
  measure:
    enabled: false
    port: 8000
    trustedNamespaces: []
  pull:
    concurrentModels: 2
    jobs: 32
    maxRate: ""
  ram:
    budget: ""
    rate: 200Mi
  scrub:
    cycle: 24h
    rate: 50Mi
  startup:
    priority: 0
    timeout: 30m
  store:
    quota: ""
    reserve: 20%
caBundle:
  configMapName: ""
  secretName: ""
commonLabels: {}
credentials: {}
dnsPolicy: ""
driver:
  hostPath: /home/kubernetes/bin/nvidia
  mounted: false
  visibleDevices: environment
extraEnv: []
extraVolumeMounts: []
extraVolumes: []
fullnameOverride: ""
gpus: auto
hostNetwork: false
image:
  digest: ""
  pullPolicy: IfNotPresent
  repository: ghcr.io/stoker-project/stoker
  tag: ""
imagePullSecrets: []
inject:
  cpu: 100m
  enabled: true
  force: false
  image: ""
  memory: 128Mi
  requireFits: true
  weights:
    fits: 100
    idle: 1
    ram: 10
    warm: 100
log:
  format: json
  verbose: false
models: []
monitoring:
  dashboard:
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
    labels: {}
nameOverride: ""
namespaceOverride: ""
namespaces: []
networkPolicy:
  egress: []
  enabled: false
  from: []
nodeSelector:
  nvidia.com/gpu.present: "true"
nonRootUser: 65532
openshift:
  scc: ""
podAnnotations: {}
podLabels: {}
populate:
  affinity: {}
  backoffLimit: 6
  claim: ""
  enabled: false
  nodeSelector: {}
  podAnnotations:
    linkerd.io/inject: disabled
  podLabels:
    sidecar.istio.io/inject: "false"
  priorityClassName: ""
  prune: false
  resources:
    limits:
      memory: 4Gi
    requests:
      cpu: "1"
      memory: 512Mi
  size: ""
  storageClassName: ""
  tolerations: []
port: 9808
priorityClassName: ""
rbac:
  create: true
resources:
  limits:
    memory: 2Gi
  requests:
    cpu: 100m
    memory: 256Mi
revisionHistoryLimit: 10
runtimeClassName: ""
seLinuxOptions: {}
serviceAccount:
  annotations: {}
  create: true
  name: ""
store:
  hostPath: /var/lib/stoker
  seLinuxLabel: ""
sweeper:
  affinity: {}
  agentTimeout: 5m
  enabled: true
  nodeSelector: {}
  podAnnotations: {}
  podLabels: {}
  priorityClassName: ""
  resources:
    limits:
      memory: 256Mi
    requests:
      cpu: 10m
      memory: 64Mi
  tolerations: []
terminationGracePeriodSeconds: 30
tolerations:
- key: nvidia.com/gpu
  operator: Exists
- effect: NoSchedule
  key: sku
  operator: Equal
  value: gpu
- key: stoker.dev/cold
  operator: Exists
uninstall:
  affinity: {}
  nodeSelector: {}
  podAnnotations:
    linkerd.io/inject: disabled
  podLabels:
    sidecar.istio.io/inject: "false"
  priorityClassName: ""
  removeLabels: true
  resources:
    limits:
      memory: 256Mi
    requests:
      cpu: 10m
      memory: 64Mi
  tolerations: []
updateStrategy:
  rollingUpdate:
    maxUnavailable: 10%
  type: RollingUpdate
volume:
  claimSize: 1Gi
  mode: node
  readOnly:
    mountOptions: []
    source: {}
  shared:
    leaseDuration: 30s
    mountOptions: []
    source: {}
{{- end -}}
