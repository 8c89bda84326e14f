package charts

import (
	"strings"
	"testing"
)

// Each bad value is refused before anything is rendered, with a message that
// names the field and, where values contradict one another, what to do.
func TestVLLMRefuses(t *testing.T) {
	for _, tc := range []struct{ name, values, message string }{
		{"no model", "", "model.name is empty; set it to the model's name in Stoker's list"},
		{"nothing to serve", leastVLLM + "stoker: {enabled: false}", "model.source is empty, so there is nothing to serve"},
		{"two sources", "model: {name: a, source: 'hf://o/n'}", "the source stands in Stoker's model list; leave one of them out"},
		{"fewer than least", leastVLLM + "autoscaling: {minReplicas: 5}", "autoscaling.minReplicas is 5, more than autoscaling.maxReplicas, 4"},
		{"a fallback above the most", leastVLLM + "autoscaling: {keda: {fallback: {replicas: 9}}}", "autoscaling.keda.fallback.replicas is 9, more than"},
		{"two who set the number", leastVLLM + "replicas: 4\nautoscaling: {kind: hpa}", "replicas is 4 and autoscaling.kind is hpa, but only one of them may set the number of replicas"},
		{"an upgrade that cannot begin", leastVLLM + "rollout: {maxSurge: 0}", "so no upgrade could begin"},
		{"a group of one", leastVLLM + "workload: LeaderWorkerSet\nmultiNode: {size: 1}", "multiNode.size is 1, but a group has at least 2 nodes; raise it, or set workload: Deployment"},
		{"GPUs that nodes cannot share", leastVLLM + "workload: LeaderWorkerSet\nmultiNode: {size: 3}\nvllm: {tensorParallel: 8, pipelineParallel: 2}", "vllm.tensorParallel times vllm.pipelineParallel, 16, which cannot be divided evenly over the 3 nodes"},
		{"fewer GPUs than nodes", leastVLLM + "workload: LeaderWorkerSet", "vllm.tensorParallel times vllm.pipelineParallel, 1, which cannot be divided evenly over the 2 nodes"},
		{"groups all at once", leastVLLM + severalNodes + "rollout: {type: Recreate}", "a LeaderWorkerSet replaces its groups one after another only"},
		{"stages without GPUs", leastVLLM + "vllm: {extraArgs: [--pipeline_parallel_size=2]}", "--pipeline-parallel-size is in vllm.extraArgs, where it adds no GPUs to a replica; set vllm.pipelineParallel"},
		{"nodes by hand", leastVLLM + "vllm: {extraArgs: [--nnodes, '2']}", "for a replica on several nodes set workload: LeaderWorkerSet and multiNode.size"},
		{"Ray", leastVLLM + "workload: LeaderWorkerSet\nvllm: {tensorParallel: 2, extraArgs: [--distributed-executor-backend=ray]}", "vLLM's multiprocessing, not Ray"},
		{"another kind", leastVLLM + "workload: StatefulSet", "'/workload': value must be one of"},
		{"a rack in words", leastVLLM + "multiNode: {exclusiveTopology: my rack}", "'/multiNode/exclusiveTopology'"},
		{"a common label of the model", leastVLLM + "commonLabels: {stoker.dev/model: a}", "stoker.dev/model"},
		{"a namespace in capitals", leastVLLM + "namespaceOverride: GPU", "'/namespaceOverride'"},
		{"down to zero", leastVLLM + "autoscaling: {minReplicas: 0}", "'/autoscaling/minReplicas': minimum"},
		{"cooldown", leastVLLM + "autoscaling: {cooldownPeriod: 300}", "'/autoscaling': additional properties 'cooldownPeriod'"},
		{"unknown value", leastVLLM + "modles: {}", "additional properties 'modles'"},
		{"unknown model field", "model: {name: a, revision: main}", "'/model': additional properties 'revision'"},
		{"unknown stoker field", leastVLLM + "stoker: {wait: true}", "'/stoker': additional properties 'wait'"},
		{"unknown trigger", leastVLLM + "autoscaling: {cpuTarget: 80}", "'/autoscaling': additional properties 'cpuTarget'"},
		{"unknown rule", leastVLLM + "monitoring: {rules: {latency: 1}}", "'/monitoring/rules': additional properties 'latency'"},
		{"model in capitals", "model: {name: Qwen}", "'/model/name'"},
		{"served name with a quote", `model: {name: a, servedName: 'a"b'}`, "'/model/servedName'"},
		{"source of a bucket", "model: {name: a, source: 's3://b/c'}\nstoker: {enabled: false}", "'/model/source'"},
		{"inject", leastVLLM + "stoker: {inject: webhook}", "'/stoker/inject': value must be one of"},
		{"placement", leastVLLM + "stoker: {placement: require-warm}", "'/stoker/placement': value must be one of"},
		{"utilization as a percentage", leastVLLM + "vllm: {gpuMemoryUtilization: 92}", "'/vllm/gpuMemoryUtilization': maximum"},
		{"no GPU", leastVLLM + "vllm: {tensorParallel: 0}", "'/vllm/tensorParallel': minimum"},
		{"an argument that has a value", leastVLLM + "vllm: {extraArgs: [--max-model-len=4096]}", "set vllm.maxModelLen"},
		{"an argument by its other name", leastVLLM + "vllm: {extraArgs: [--device-memory-utilization=0.5]}", "the chart sets --gpu-memory-utilization itself; set vllm.gpuMemoryUtilization"},
		{"an argument with underscores", leastVLLM + "vllm: {extraArgs: [--gpu_memory_utilization, '0.5']}", "set vllm.gpuMemoryUtilization"},
		{"an argument in two", leastVLLM + "vllm: {extraArgs: [--tensor-parallel-size, '2']}", "set vllm.tensorParallel"},
		{"the beginning of an argument", leastVLLM + "vllm: {extraArgs: [--gpu-memory-util=0.5]}", "--gpu-memory-util=0.5 is in vllm.extraArgs, but the chart sets --gpu-memory-utilization itself; set vllm.gpuMemoryUtilization"},
		{"the beginning of its other name", leastVLLM + "vllm: {extraArgs: [--device-memory=0.5]}", "set vllm.gpuMemoryUtilization"},
		{"an argument and its value in one", leastVLLM + "vllm: {extraArgs: ['--port 9']}", "the chart sets --port itself; set port"},
		{"a short name", leastVLLM + "vllm: {extraArgs: [-tp=2]}", "set vllm.tensorParallel"},
		{"stages by their short name", leastVLLM + "vllm: {extraArgs: [-pp, '2']}", "set vllm.pipelineParallel"},
		{"nodes by their short name", leastVLLM + "vllm: {extraArgs: [-n2]}", "set workload: LeaderWorkerSet and multiNode.size"},
		{"a variable that Stoker sets", leastVLLM + "vllm: {extraEnv: [{name: HF_HUB_CACHE, value: /x}]}", "'/vllm/extraEnv/0/name'"},
		{"GPUs twice", leastVLLM + "resources: {limits: {nvidia.com/gpu: 2}}", "nvidia.com/gpu"},
		{"cache target as a percentage", leastVLLM + "autoscaling: {kvCacheTarget: 80}", "'/autoscaling/kvCacheTarget': maximum"},
		{"address without scheme", leastVLLM + "autoscaling: {keda: {serverAddress: prometheus:9090}}", "'/autoscaling/keda/serverAddress'"},
		{"kind of autoscaling", leastVLLM + "autoscaling: {kind: vpa}", "'/autoscaling/kind': value must be one of"},
		{"spot", leastVLLM + "spot: true", "'/spot': value must be one of"},
		{"no GPU at all", leastVLLM + "gpu: {resource: ''}", "gpu.resource is empty and resourceClaims too"},
		{"an Ingress of no host", leastVLLM + "ingress: {enabled: true}", "ingress.enabled is true and ingress.hosts is empty"},
		{"a route from nowhere", leastVLLM + "httpRoute: {enabled: true}", "httpRoute.parentRefs is empty"},
		{"two API keys", leastVLLM + "apiKey: {secret: a}\nvllm: {extraEnv: [{name: VLLM_API_KEY, value: a}]}", "VLLM_API_KEY is in vllm.extraEnv and comes from apiKey.secret"},
		{"two chat templates", leastVLLM + "chatTemplate: {configMap: a}\nvllm: {extraArgs: [--chat-template=/x]}", "--chat-template is in vllm.extraArgs and comes from chatTemplate.configMap"},
		{"Stoker's volume", leastVLLM + "extraVolumes: [{name: stoker-pin, emptyDir: {}}]", "'/extraVolumes/0/name'"},
		{"a mount over the models", leastVLLM + "extraVolumeMounts: [{name: a, mountPath: /models/}]", "'/extraVolumeMounts/0/mountPath'"},
		{"a container of the chart's name", leastVLLM + "sidecars: [{name: vllm, image: a}]", "'/sidecars/0/name'"},
		{"an init container of Stoker's name", leastVLLM + "initContainers: [{name: stoker-wait, image: a}]", "'/initContainers/0/name'"},
		{"a container without image", leastVLLM + "sidecars: [{name: a}]", "'/sidecars/0': missing property 'image'"},
		{"a label of the chart's", leastVLLM + "service: {labels: {app.kubernetes.io/name: a}}", "invalid propertyName 'app.kubernetes.io/name'"},
		{"a host with a scheme", leastVLLM + "ingress: {hosts: ['https://a']}", "'/ingress/hosts/0'"},
		{"a timeout in words", leastVLLM + "httpRoute: {requestTimeout: long}", "'/httpRoute/requestTimeout'"},
		{"half a claim", leastVLLM + "resourceClaims: [{resourceClaimName: a}]", "'/resourceClaims/0': missing property 'name'"},
		{"a half constraint", leastVLLM + "topologySpreadConstraints: [{topologyKey: a}]", "'/topologySpreadConstraints/0': missing properties"},
		{"an unknown strategy", leastVLLM + "rollout: {type: OnDelete}", "'/rollout/type': value must be one of"},
		{"two chat templates in two words", leastVLLM + "chatTemplate: {configMap: a}\nvllm: {extraArgs: [--chat_template, /x]}", "--chat-template is in vllm.extraArgs and comes from chatTemplate.configMap"},
		{"two keys", leastVLLM + "apiKey: {secret: a}\nvllm: {extraArgs: [--api-key=x]}", "--api-key is in vllm.extraArgs and comes from apiKey.secret"},
		{"adapters twice", leastVLLM + "lora: {adapters: [b]}\nvllm: {extraArgs: ['--lora_modules=x=y']}", "--lora-modules is in vllm.extraArgs and comes from lora"},
		{"monitoring that moved", leastVLLM + "monitoring: {stoker: {enabled: true}}", "Stoker's own monitoring comes with charts/stoker now"},
		{"adapters without Stoker", "stoker: {enabled: false}\nmodel: {name: a, source: 'hf://o/n'}\nlora: {adapters: [b]}", "lora.adapters are entries of Stoker's model list"},
		{"the model as its adapter", leastVLLM + "lora: {adapters: [qwen2.5-7b-instruct]}", "lora.adapters names qwen2.5-7b-instruct, which is the model itself"},
		{"an adapter twice", leastVLLM + "lora: {adapters: [a, a]}", "'/lora/adapters': items at 0 and 1 are equal"},
		{"an adapter by its source", leastVLLM + "lora: {adapters: ['hf://o/n']}", "'/lora/adapters/0'"},
		{"a rank that vLLM has not", leastVLLM + "lora: {maxRank: 17}", "'/lora/maxRank': value must be one of"},
		{"root as the cache", leastVLLM + "compileCache: {hostPath: /}", "'/compileCache/hostPath'"},
		{"a key that climbs", leastVLLM + "compileCache: {key: ../x}", "'/compileCache/key'"},
		{"a label that selects pods", leastVLLM + "podLabels: {stoker.dev/model: other}", "stoker.dev/model"},
		{"an annotation of Stoker's", leastVLLM + "podAnnotations: {stoker.dev/placement: require}", "stoker.dev/placement"},
		{"a severity", leastVLLM + "monitoring: {rules: {alertLabels: {severity: page}}}", "severity"},
		{"interval in words", leastVLLM + "monitoring: {podMonitor: {interval: often}}", "'/monitoring/podMonitor/interval'"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := vllm(tc.values, "").Objects()
			if err == nil {
				t.Fatalf("accepted %s", tc.values)
			}
			if !strings.Contains(err.Error(), tc.message) {
				t.Errorf("%s\nwas refused without %q:\n%v", tc.values, tc.message, err)
			}
		})
	}
}

// What is unusual but right must pass.
func TestVLLMAccepts(t *testing.T) {
	for name, values := range map[string]string{
		"a subchart's global values": leastVLLM + "global: {anything: [1, 2]}",
		"no global values":           leastVLLM + "global:\nenabled:",
		"no disruption budget":       leastVLLM + "maxUnavailable: null",
		"none may go":                leastVLLM + "maxUnavailable: 0",
		"a percentage":               leastVLLM + "maxUnavailable: 50%",
		"half a request":             leastVLLM + "autoscaling: {kind: keda, queueTarget: 0.5}",
		"the queue alone":            leastVLLM + "autoscaling: {kind: hpa, kvCacheTarget: 0}",
		"all of the memory":          leastVLLM + "vllm: {gpuMemoryUtilization: 1}",
		"the release's name":         leastVLLM + "fullnameOverride: qwen",
		"no spread":                  leastVLLM + "spread: none",
		"all replaced at once":       leastVLLM + "rollout: {type: Recreate, maxSurge: 0}",
		"paused":                     leastVLLM + "autoscaling: {kind: keda, keda: {paused: true}}",
		"a claim for the cache":      "model: {name: a, source: 'hf://o/n'}\nstoker: {enabled: false}\nhubCache: {claimName: models}",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := vllm(values, "").Objects(); err != nil {
				t.Errorf("refused %s:\n%v", values, err)
			}
		})
	}
}
