// A driver library for tests: one GPU, and as old as NVML gets, without the
// second memory call and without MIG; with -DMODERN it has what newer ones tell
// of processes and errors. What it does is set by files in the folder that the
// environment variable NVML_TEST_DIR names: "init" holds what nvmlInit returns,
// "module" the version of the kernel module, which must be that of the library
// (-DVERSION=N), and while "hang" exists, reading the memory does not return.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *path(const char *name) {
	static char buf[4096];
	snprintf(buf, sizeof buf, "%s/%s", getenv("NVML_TEST_DIR"), name);
	return buf;
}

static int number(const char *name, int missing) {
	int n = missing;
	FILE *f = fopen(path(name), "r");
	if (f) {
		if (fscanf(f, "%d", &n) != 1) n = missing;
		fclose(f);
	}
	return n;
}

#ifndef VERSION
#define VERSION 1
#endif

int nvmlInit_v2(void) {
	if (number("module", VERSION) != VERSION) return 18;
	return number("init", 0);
}

int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 17 ? "what the driver says" : "?"; }

int nvmlDeviceGetCount_v2(unsigned int *count) {
	*count = 1;
	return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
	*device = (void *)1;
	return index == 0 ? 0 : 2;
}

int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
	strncpy(name, "Old GPU", length);
	return 0;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned int length) {
	strncpy(uuid, "GPU-old", length);
	return 0;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
	*major = 7;
	*minor = 5;
	return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
	while (access(path("hang"), F_OK) == 0) usleep(1000);
	memory[0] = 16ULL << 30; // total
	memory[1] = 12ULL << 30; // free
	memory[2] = 4ULL << 30;  // used
	return 0;
}

#ifdef MODERN
struct process {
	unsigned int pid;
	unsigned long long used;
	unsigned int gpuInstance, computeInstance;
};

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *list) {
	unsigned int room = *count;
	*count = 3;
	if (room < 3) return 7;
	list[0] = (struct process){.pid = 300, .used = 2ULL << 30};
	list[1] = (struct process){.pid = 100, .used = 1ULL << 30};
	list[2] = (struct process){.pid = 200, .used = ~0ULL}; // not available
	return 0;
}

int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *device, unsigned int *count, struct process *list) {
	*count = 1;
	list[0] = (struct process){.pid = 300, .used = 2ULL << 30};
	return 0;
}

int nvmlDeviceGetComputeMode(void *device, int *mode) {
	*mode = 3; // exclusive process
	return 0;
}

int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, unsigned long long *count) {
	*count = type == 1 && counter == 0 ? 5 : 0; // uncorrected, volatile
	return 0;
}

int nvmlDeviceGetRemappedRows(void *device, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending, unsigned int *failed) {
	*corrected = 0;
	*uncorrected = 1;
	*pending = 1;
	*failed = 0;
	return 0;
}

struct field {
	unsigned int id, scope;
	long long timestamp, latency;
	int type, ret;
	unsigned int value;
	unsigned int padding;
};

int nvmlDeviceGetFieldValues(void *device, int count, struct field *fields) {
	for (int i = 0; i < count; i++) {
		fields[i].ret = fields[i].id == 230 ? 0 : 3; // the recovery action
		fields[i].type = 1;                          // unsigned int
		fields[i].value = 4;                         // drain and reset
	}
	return 0;
}
#endif
