package charts

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stoker-project/stoker/gpu/sizing"
)

// Each bad value is refused before anything is rendered, with a message that
// names the field.
func TestSchemaRefuses(t *testing.T) {
	const ok = "source: 'hf://ORG/NAME'"
	long := strings.Repeat("a", 64)
	for _, tc := range []struct{ name, values, field string }{
		{"unknown value", "modles: []", "additional properties 'modles'"},
		{"unknown image field", "image: {name: x}", "'/image': additional properties 'name'"},
		{"unknown store field", "store: {path: /x}", "'/store': additional properties 'path'"},
		{"unknown agent section", "agent: {stores: {}}", "'/agent': additional properties 'stores'"},
		{"unknown agent.store field", "agent: {store: {qouta: 1Gi}}", "'/agent/store': additional properties 'qouta'"},
		{"unknown agent.pull field", "agent: {pull: {rate: 1Gi}}", "'/agent/pull': additional properties 'rate'"},
		{"unknown interval", "agent: {intervals: {tick: 1s}}", "'/agent/intervals': additional properties 'tick'"},
		{"unknown log field", "log: {level: debug}", "'/log': additional properties 'level'"},
		{"unknown resources field", "resources: {limit: {}}", "'/resources': additional properties 'limit'"},
		{"unknown service account field", "serviceAccount: {automount: true}", "'/serviceAccount': additional properties 'automount'"},
		{"unknown affinity", "affinity: {nodeAfinity: {}}", "'/affinity': additional properties 'nodeAfinity'"},

		{"unknown inject field", "inject: {weight: 1}", "'/inject': additional properties 'weight'"},
		{"image that ends a text", `inject: {image: "a'b"}`, "'/inject/image'"},
		{"cpu zero", "inject: {cpu: '0'}", "'/inject/cpu'"},
		{"cpu that YAML reads as a number", "inject: {cpu: 1}", "'/inject/cpu': got number, want string"},
		{"memory in words", "inject: {memory: much}", "'/inject/memory'"},
		{"weight above 100", "inject: {weights: {warm: 101}}", "'/inject/weights/warm': maximum"},
		{"weight zero", "inject: {weights: {warm: 0}}", "'/inject/weights/warm': minimum"},
		{"weight below zero", "inject: {weights: {ram: -1}}", "'/inject/weights/ram': minimum"},

		{"name that is no DNS label", "fullnameOverride: Stoker_1", "'/fullnameOverride'"},
		{"name that is too long", "nameOverride: " + long, "'/nameOverride': maxLength"},
		{"repository with tag", "image: {repository: 'host/stoker:v1'}", "'/image/repository'"},
		{"empty repository", "image: {repository: ''}", "'/image/repository'"},
		{"tag that YAML reads as a number", "image: {tag: 1.0}", "'/image/tag': got number, want string"},
		{"tag with a space", "image: {tag: 'a b'}", "'/image/tag'"},
		{"short digest", "image: {digest: 'sha256:abc'}", "'/image/digest'"},
		{"pull policy", "image: {pullPolicy: Sometimes}", "'/image/pullPolicy': value must be one of"},
		{"pull secret as a string", "imagePullSecrets: [secret]", "'/imagePullSecrets/0': got string, want object"},

		{"models as a map", "models: {a: b}", "'/models': got object, want array"},
		{"model as a string", "models: ['hf://ORG/NAME']", "'/models/0': got string, want object"},
		{"model without source", "models: [{name: a}]", "'/models/0': missing property 'source'"},
		{"unknown model field", "models: [{" + ok + ", sources: []}]", "'/models/0': additional properties 'sources'"},
		{"model name in capitals", "models: [{" + ok + ", name: Qwen}]", "'/models/0/name'"},
		{"model name with a slash", "models: [{" + ok + ", name: a/b}]", "'/models/0/name'"},
		{"model name ending in a dot", "models: [{" + ok + ", name: a.}]", "'/models/0/name'"},
		{"model name of 64 characters", "models: [{" + ok + ", name: " + long + "}]", "'/models/0/name'"},
		{"second model's name", "models: [{" + ok + "}, {" + ok + ", name: -a}]", "'/models/1/name'"},
		{"include as a string", "models: [{" + ok + ", include: '*.json'}]", "'/models/0/include': got string, want null or array"},
		{"also as a string", "models: [{" + ok + ", also: original/}]", "'/models/0/also': got string, want null or array"},
		{"unknown file format", "models: [{" + ok + ", fileFormat: gguf}]", "'/models/0/fileFormat'"},
		{"empty pattern", "models: [{" + ok + ", exclude: ['']}]", "'/models/0/exclude/0'"},
		{"node selector with a boolean", "models: [{" + ok + ", nodeSelector: {gpu: true}}]", "'/models/0/nodeSelector/gpu': got boolean, want string"},
		{"node selector with a bad key", "models: [{" + ok + ", nodeSelector: {'a/b/c': x}}]", "'a/b/c'"},
		{"priority as a string", "models: [{" + ok + ", priority: high}]", "'/models/0/priority': got string, want null or integer"},
		{"priority as a fraction", "models: [{" + ok + ", priority: 1.5}]", "'/models/0/priority': got number, want null or integer"},
		{"refresh without a unit", "models: [{" + ok + ", refresh: 60}]", "'/models/0/refresh': got number, want null or string"},
		{"refresh in days", "models: [{" + ok + ", refresh: 1d}]", "'/models/0/refresh'"},
		{"endpoint without scheme", "models: [{" + ok + ", endpoint: 'hub.example'}]", "'/models/0/endpoint'"},
		{"endpoint with a password", "models: [{" + ok + ", endpoint: 'https://me:secret@hub.example'}]", "'/models/0/endpoint'"},
		{"links without a list", "models: [{source: 'file:///d', access: {followLinks: /srv}}]", "'/models/0/access/followLinks': got string, want null or array"},
		{"links into a relative directory", "models: [{source: 'file:///d', access: {followLinks: [srv]}}]", "'/models/0/access/followLinks/0'"},
		{"links into a path with dots", "models: [{source: 'file:///d', access: {followLinks: [/srv/../etc]}}]", "'/models/0/access/followLinks/0'"},
		{"unknown addressing", "models: [{source: 's3://b', access: {addressing: dns}}]", "'/models/0/access/addressing'"},
		{"unsigned in quotes", "models: [{source: 's3://b', access: {unsigned: 'true'}}]", "'/models/0/access/unsigned': got string, want null or boolean"},
		{"a bundle without a folder", "models: [{source: 's3://b', access: {caBundle: ca.pem}}]", "'/models/0/access/caBundle'"},
		{"unknown access field", "models: [{" + ok + ", access: {follow: all}}]", "'/models/0/access': additional properties 'follow'"},
		{"unknown serving field", "models: [{" + ok + ", serving: {tp: 2}}]", "'/models/0/serving': additional properties 'tp'"},
		{"tensor parallel zero", "models: [{" + ok + ", serving: {tensorParallel: 0}}]", "'/models/0/serving/tensorParallel': minimum"},
		{"negative length", "models: [{" + ok + ", serving: {maxModelLen: -1}}]", "'/models/0/serving/maxModelLen': minimum"},
		{"utilization as a percentage", "models: [{" + ok + ", serving: {gpuMemoryUtilization: 92}}]", "'/models/0/serving/gpuMemoryUtilization': maximum"},
		{"utilization zero", "models: [{" + ok + ", serving: {gpuMemoryUtilization: 0}}]", "'/models/0/serving/gpuMemoryUtilization'"},
		{"one name twice", "models: [{" + ok + "}, {source: 's3://b/name'}]", `models[0] (hf://ORG/NAME) and models[1] (s3://b/name) are both named "name"`},
		{"source that gives no name", "models: [{source: 'file:///'}]", "models[0]: no name can be derived"},
		{"credentials that are not there", "models: [{" + ok + ", credentials: team-a}]", `models[0] (name): credentials "team-a" is no key`},

		{"namespace in capitals", "namespaces: [Team]", "'/namespaces/0'"},
		{"namespace with a dot", "namespaces: [a.b]", "'/namespaces/0'"},
		{"namespace twice", "namespaces: [a, b, a]", "'/namespaces': items at 0 and 2 are equal"},
		{"volume of another mode", "volume: {mode: readonly}", "'/volume/mode'"},
		{"read-only volume that is not named", "volume: {mode: readOnly}", "volume.readOnly.source is empty"},
		{"volume that is not read-only", "volume: {readOnly: {source: {nfs: {server: a, path: /b}}}}", "'/volume/readOnly/source': maxProperties"},
		{"volumes of two modes", "volume: {mode: shared, shared: {source: {nfs: {server: a, path: /b}}}, readOnly: {source: {nfs: {server: a, path: /b}}}}", "'/volume/readOnly/source': maxProperties"},
		{"shared volume beside a read-only one", "volume: {mode: readOnly, shared: {source: {nfs: {server: a, path: /b}}}, readOnly: {source: {nfs: {server: a, path: /b}}}}", "'/volume/shared/source': maxProperties"},
		{"read-only export without a server", "volume: {mode: readOnly, readOnly: {source: {nfs: {path: /b}}}}", "'/volume/readOnly/source/nfs': missing property 'server'"},
		{"read-only volume that could be written", "volume: {mode: readOnly, readOnly: {source: {csi: {driver: d, volumeHandle: h, readOnly: false}}}}", "'/volume/readOnly/source/csi'"},
		{"populating where agents pull", "populate: {enabled: true, size: 1Ti}", "populate.enabled is true, but volume.mode is node"},
		{"populating nothing", "{volume: {mode: readOnly}, populate: {enabled: true}}", "neither populate.claim nor populate.size"},
		{"populating a volume without a unit's size", "{volume: {mode: readOnly}, populate: {enabled: true, size: big}}", "'/populate/size'"},
		{"pruning what is read", "{volume: {mode: readOnly, readOnly: {source: {nfs: {server: a, path: /b}}}}, populate: {enabled: true, size: 1Ti, prune: true}}", "populate.prune is true while"},
		{"populating forever", "{volume: {mode: readOnly}, populate: {enabled: true, size: 1Ti, backoffLimit: -1}}", "'/populate/backoffLimit'"},
		{"shared volume that is not named", "volume: {mode: shared}", "'/volume/shared/source': minProperties"},
		{"volume that is not shared", "volume: {shared: {source: {nfs: {server: a, path: /b}}}}", "'/volume/shared/source': maxProperties"},
		{"shared volume of two kinds", "volume: {mode: shared, shared: {source: {nfs: {server: a, path: /b}, csi: {driver: d, volumeHandle: h}}}}", "'/volume/shared/source': maxProperties"},
		{"export without a server", "volume: {mode: shared, shared: {source: {nfs: {path: /b}}}}", "'/volume/shared/source/nfs': missing property 'server'"},
		{"pods that could write", "volume: {mode: shared, shared: {source: {csi: {driver: d, volumeHandle: h, readOnly: false}}}}", "'/volume/shared/source/csi'"},
		{"shared directory of a node", "volume: {mode: shared, shared: {source: {hostPath: {path: /b}}}}", "'/volume/shared/source'"},
		{"relative path", "store: {hostPath: models}", "'/store/hostPath'"},
		{"root as path", "store: {hostPath: /}", "'/store/hostPath'"},
		{"path with dots", "store: {hostPath: /mnt/../etc}", "'/store/hostPath'"},
		{"path with a slash at its end", "store: {hostPath: /mnt/}", "'/store/hostPath'"},

		{"quota as words", "agent: {store: {quota: lots}}", "'/agent/store/quota'"},
		{"quota zero", "agent: {store: {quota: 0Gi}}", "'/agent/store/quota'"},
		{"negative quota", "agent: {store: {quota: -1Gi}}", "'/agent/store/quota'"},
		{"reserve of everything", "agent: {store: {reserve: 100%}}", "'/agent/store/reserve'"},
		{"reserve as a number", "agent: {store: {reserve: 20}}", "'/agent/store/reserve': got number, want string"},
		{"no models at once", "agent: {pull: {concurrentModels: 0}}", "'/agent/pull/concurrentModels': minimum"},
		{"negative jobs", "agent: {pull: {jobs: -8}}", "'/agent/pull/jobs': minimum"},
		{"rate with a slash", "agent: {pull: {maxRate: 500Mi/s}}", "'/agent/pull/maxRate'"},
		{"RAM budget in words", "agent: {ram: {budget: half}}", "'/agent/ram/budget'"},
		{"RAM budget of everything", "agent: {ram: {budget: 100%}}", "'/agent/ram/budget'"},
		{"RAM budget as a number", "agent: {ram: {budget: 64}}", "'/agent/ram/budget': got number, want string"},
		{"RAM rate zero", "agent: {ram: {rate: 0Mi}}", "'/agent/ram/rate'"},
		{"unknown RAM field", "agent: {ram: {limit: 64Gi}}", "'/agent/ram': additional properties 'limit'"},
		{"RAM as a word", "models: [{" + ok + ", ram: 'yes'}]", "'/models/0/ram': got string, want null or boolean"},
		{"RAM without a budget", "models: [{" + ok + ", ram: true}]", "models[0] (name): ram is true, but agent.ram.budget is empty"},
		{"RAM with a budget of nothing", "agent: {ram: {budget: '0%'}}\nmodels: [{" + ok + ", ram: true}]", "agent.ram.budget is empty"},
		{"RAM budget as a share below a limit", "agent: {ram: {budget: 25%}}", "set resources.limits.memory to null"},
		{"interval without a unit", "agent: {intervals: {observe: 5}}", "'/agent/intervals/observe': got number, want null or string"},
		{"interval zero", "agent: {intervals: {heartbeat: 0s}}", "'/agent/intervals/heartbeat'"},
		{"negative interval", "agent: {intervals: {verify: -30s}}", "'/agent/intervals/verify'"},
		{"interval in words", "agent: {intervals: {retryMax: 10 minutes}}", "'/agent/intervals/retryMax'"},

		{"a type of the KV cache in words", "models: [{" + ok + ", serving: {kvCacheDtype: 'fp8 e4m3'}}]", "'/models/0/serving/kvCacheDtype': 'fp8 e4m3' does not match pattern"},
		{"no requests in a batch", "models: [{" + ok + ", serving: {maxNumSeqs: 0}}]", "'/models/0/serving/maxNumSeqs': minimum"},
		{"no stages", "models: [{" + ok + ", serving: {pipelineParallel: 0}}]", "'/models/0/serving/pipelineParallel': minimum"},
		{"a negative size", "models: [{" + ok + ", serving: {cpuOffloadGB: -1}}]", "'/models/0/serving/cpuOffloadGB': minimum"},
		{"arguments in one word", "models: [{" + ok + ", serving: {extraArgs: --enforce-eager}}]", "'/models/0/serving/extraArgs': got string, want null or array"},
		{"credential as a string", "credentials: {team-a: hub-team-a}", "'/credentials/team-a': got string, want object"},
		{"credential without a Secret", "credentials: {team-a: {}}", "'/credentials/team-a': missing property 'secretName'"},
		{"credential with a path", "credentials: {'../etc': {secretName: a}}", "'../etc'"},
		{"token in the values", "credentials: {team-a: {secretName: a, token: t}}", "'/credentials/team-a': additional properties 'token'"},
		{"unknown board", "gpus: simulated:dgx1", "'/gpus'"},
		{"GPU count", "gpus: 8", "'/gpus': got number, want string"},
		{"runtime class", "runtimeClassName: NVIDIA", "'/runtimeClassName'"},
		{"node selector as a list", "nodeSelector: [gpu]", "nodeSelector"},
		{"node selector with a number", "nodeSelector: {gpus: 8}", "'/nodeSelector/gpus': got number, want string"},
		{"toleration operator", "tolerations: [{key: a, operator: Is}]", "'/tolerations/0/operator'"},
		{"toleration effect", "tolerations: [{key: a, effect: NoRun}]", "'/tolerations/0/effect'"},
		{"priority class", "priorityClassName: High", "'/priorityClassName'"},
		{"memory with a space", "resources: {limits: {memory: 2 Gi}}", "'/resources/limits/memory'"},
		{"negative CPU", "resources: {requests: {cpu: -1}}", "'/resources/requests/cpu': minimum"},
		{"update strategy", "updateStrategy: {type: Recreate}", "'/updateStrategy/type'"},
		{"surge", "updateStrategy: {rollingUpdate: {maxSurge: 1}}", "'/updateStrategy/rollingUpdate': additional properties 'maxSurge'"},
		{"nothing unavailable", "updateStrategy: {rollingUpdate: {maxUnavailable: 0}}", "'/updateStrategy/rollingUpdate/maxUnavailable': minimum"},
		{"annotation with a boolean", "podAnnotations: {scrape: true}", "'/podAnnotations/scrape': got boolean, want string"},
		{"account annotation with a number", "serviceAccount: {annotations: {id: 1}}", "'/serviceAccount/annotations/id': got number, want string"},
		{"port zero", "port: 0", "'/port': minimum"},
		{"port too large", "port: 65536", "'/port': maximum"},
		{"log format", "log: {format: xml}", "'/log/format'"},
		{"verbose as a string", "log: {verbose: 'yes'}", "'/log/verbose': got string, want boolean"},
		{"environment as a map", "extraEnv: {A: b}", "'/extraEnv': got object, want array"},
		{"environment with a number", "extraEnv: [{name: A, value: 1}]", "'/extraEnv/0/value': got number, want string"},
		{"environment that the chart sets", "extraEnv: [{name: NODE_NAME, value: other}]", "'/extraEnv/0/name'"},
		{"pod's UID that the chart sets", "extraEnv: [{name: POD_UID, value: other}]", "'/extraEnv/0/name'"},
		{"a second hostPath", "extraVolumes: [{name: host, hostPath: {path: /}}]", "'/extraVolumes/0/hostPath'"},
		{"volume named as the store", "extraVolumes: [{name: store, emptyDir: {}}]", "'/extraVolumes/0/name'"},
		{"mount over the store", "extraVolumeMounts: [{name: a, mountPath: /models/x}]", "'/extraVolumeMounts/0/mountPath'"},
		{"mount over the configuration", "extraVolumeMounts: [{name: a, mountPath: /etc/stoker}]", "'/extraVolumeMounts/0/mountPath'"},
		{"label that selects pods", "podLabels: {app.kubernetes.io/name: other}", "app.kubernetes.io/name"},
		{"label value with a space", "podLabels: {team: 'a b'}", "'/podLabels/team'"},
		{"label that selects the sweeper", "sweeper: {podLabels: {app.kubernetes.io/instance: other}}", "app.kubernetes.io/instance"},
		{"common label that the chart sets", "commonLabels: {app.kubernetes.io/managed-by: me}", "app.kubernetes.io/managed-by"},
		{"namespace in capitals for all", "namespaceOverride: GPU", "'/namespaceOverride'"},
		{"no time to end", "terminationGracePeriodSeconds: 0", "'/terminationGracePeriodSeconds': minimum"},
		{"unknown DNS policy", "dnsPolicy: None", "'/dnsPolicy'"},
		{"negative history", "revisionHistoryLimit: -1", "'/revisionHistoryLimit': minimum"},
		{"account without a name", "serviceAccount: {create: false}", "serviceAccount.name is empty"},
		{"peer of nobody", "networkPolicy: {from: [{}]}", "'/networkPolicy/from/0': minProperties"},
		{"unknown peer", "networkPolicy: {from: [{namespace: a}]}", "'/networkPolicy/from/0': additional properties 'namespace'"},
		{"a severity of one's own", "monitoring: {rules: {alertLabels: {severity: page}}}", "severity"},
		{"label without a domain that sets it", "store: {seLinuxLabel: 'system_u:object_r:container_ro_file_t:s0'}", "seLinuxOptions is empty"},
		{"a type as a label", "store: {seLinuxLabel: container_ro_file_t}", "'/store/seLinuxLabel'"},
		{"negative uid", "nonRootUser: -1", "'/nonRootUser': minimum"},
		{"uid in words", "nonRootUser: nobody", "'/nonRootUser': got string, want integer"},
		{"driver in the root", "driver: {hostPath: /}", "'/driver/hostPath'"},
		{"devices by nothing", "driver: {visibleDevices: none}", "'/driver/visibleDevices'"},
		{"SCC in capitals", "openshift: {scc: Privileged}", "'/openshift/scc'"},
		{"volume named as the driver's", "extraVolumes: [{name: driver, emptyDir: {}}]", "'/extraVolumes/0/name'"},
		{"unknown SELinux option", "seLinuxOptions: {kind: spc_t}", "'/seLinuxOptions': additional properties 'kind'"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Render([]byte(tc.values), "rel", "gpu-system")
			if err == nil {
				t.Fatalf("accepted %s", tc.values)
			}
			if !strings.Contains(err.Error(), tc.field) {
				t.Errorf("%s\nwas refused without %q:\n%v", tc.values, tc.field, err)
			}
		})
	}
}

// The schema and the agent know the same types of the KV cache.
func TestSchemaKnowsEveryKVCacheDtype(t *testing.T) {
	type property struct{ Examples []string }
	read := func(name string, into any) {
		t.Helper()
		data, err := os.ReadFile("../../charts/" + name + "/values.schema.json")
		if err == nil {
			err = json.Unmarshal(data, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var agent struct {
		Defs map[string]struct {
			Properties struct {
				Serving struct {
					Properties struct{ KVCacheDtype property }
				}
			}
		} `json:"definitions"`
	}
	read("stoker", &agent)
	var vllm struct {
		Properties struct {
			VLLM struct {
				Properties struct{ KVCacheDtype property }
			}
		}
	}
	read("vllm", &vllm)
	for name, have := range map[string]property{
		"stoker": agent.Defs["model"].Properties.Serving.Properties.KVCacheDtype, "vllm": vllm.Properties.VLLM.Properties.KVCacheDtype,
	} {
		if diff := cmp.Diff(sizing.KVCacheDtypes(), have.Examples); diff != "" {
			t.Errorf("charts/%s (-sizing +schema)\n%s", name, diff)
		}
	}
}

// TestNotesKnowEveryKVCacheDtype: a type that no release of vLLM has is told of, and passes.
func TestNotesKnowEveryKVCacheDtype(t *testing.T) {
	const warning = "vLLM " + sizing.DefaultVLLMVersion + " has no KV cache of type "
	for _, dtype := range append(sizing.KVCacheDtypes(), "of_tomorrow") {
		models := "models: [{source: 'hf://o/n'}, {source: 'hf://o/m', serving: {kvCacheDtype: " + dtype + "}}]"
		for name, r := range map[string]Release{
			"stoker": {Chart: Stoker, Name: "rel", Namespace: "gpu-system", Values: []byte(models), KubeVersion: kubernetesVersion},
			"vllm":   vllm(leastVLLM+"vllm: {kvCacheDtype: "+dtype+"}", kubernetesVersion),
		} {
			notes, err := r.Notes()
			if err != nil {
				t.Fatalf("charts/%s with %s: %v", name, dtype, err)
			}
			if strings.Contains(notes, warning+dtype) != (dtype == "of_tomorrow") || strings.Count(notes, warning) > 1 {
				t.Errorf("charts/%s with %s:\n%s", name, dtype, notes)
			}
		}
	}
}

// What is unusual but right must pass.
func TestSchemaAccepts(t *testing.T) {
	for name, values := range map[string]string{
		"a subchart's global values":   "global: {anything: [1, 2]}",
		"no global values":             "{global: , enabled: }",
		"entries with bare keys":       "models: [{source: 'hf://o/n', name: , fileFormat: , also: , include: , exclude: , nodeSelector: , priority: , refresh: , ram: , credentials: , endpoint: , access: , serving: }]",
		"entries with bare settings":   "models: [{source: 'hf://o/n', access: {addressing: , unsigned: , requesterPays: , etagIsDigest: , headerTimeout: , caBundle: , insecure: , followLinks: }, serving: {tensorParallel: , pipelineParallel: , maxModelLen: , gpuMemoryUtilization: , kvCacheDtype: , maxNumSeqs: , maxNumBatchedTokens: , enforceEager: , quantization: , cpuOffloadGB: , extraArgs: }}]",
		"no node selector":             "nodeSelector: {nvidia.com/gpu.present: null}",
		"a setting left to the agent":  "agent: {intervals: {gpu: null}, store: {reserve: null}}",
		"a number of agents":           "updateStrategy: {rollingUpdate: {maxUnavailable: 5}}",
		"OnDelete":                     "updateStrategy: {type: OnDelete}",
		"no reserve":                   "agent: {store: {reserve: '0%'}}",
		"a fractional size":            "agent: {store: {quota: 1.5Ti}}",
		"a name of one character":      "models: [{source: 'hf://o/n', name: a}]",
		"a negative priority":          "models: [{source: 'hf://o/n', priority: -5}]",
		"a prefix in an endpoint":      "models: [{source: 'hf://o/n', endpoint: 'http://[::1]:8080/hub'}]",
		"links into directories":       "models: [{source: 'file:///d/e', access: {followLinks: [/srv/cache, /]}}]",
		"a bucket spoken to otherwise": "models: [{source: 's3://b', access: {addressing: virtual, unsigned: true, etagIsDigest: false, caBundle: /etc/pki/ca.pem, insecure: false}}]",
		"no limits":                    "resources: {limits: null}",
		"a share of memory":            "{agent: {ram: {budget: 25%}}, resources: {limits: {memory: null}}, models: [{source: 'hf://o/n', ram: true}]}",
		"a registry with a port":       "image: {repository: 'localhost:5000/a/b__c'}",
		"a toleration of everything":   "tolerations: [{operator: Exists}]",
		"one model, two names":         "models: [{source: 'hf://o/n', name: a}, {source: 'hf://o/n', name: b}]",
		"a release name with the name": "fullnameOverride: stoker",
		"a cache of unknown size":      "models: [{source: 'hf://o/n', serving: {kvCacheDtype: turboquant_k8v4}}]",
		"a cache of the next release":  "models: [{source: 'hf://o/n', serving: {kvCacheDtype: fp3_of_tomorrow}}]",
		"a read-only export":           "volume: {mode: readOnly, readOnly: {source: {nfs: {server: a, path: /b}}}}",
		"a volume still to be filled":  "{volume: {mode: readOnly}, populate: {enabled: true, claim: a.b}}",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Render([]byte(values), "rel", "gpu-system"); err != nil {
				t.Errorf("refused %s:\n%v", values, err)
			}
		})
	}
}
