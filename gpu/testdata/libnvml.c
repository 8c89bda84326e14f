// A driver library for tests: one GPU, and as old as NVML gets, without the
// second memory call and without MIG. What it does is set by files in the folder
// that the environment variable NVML_TEST_DIR names: "init" holds what nvmlInit
// returns, and while "hang" exists, reading the memory does not return.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *path(const char *name) {
	static char buf[4096];
	snprintf(buf, sizeof buf, "%s/%s", getenv("NVML_TEST_DIR"), name);
	return buf;
}

int nvmlInit_v2(void) {
	int code = 999;
	FILE *f = fopen(path("init"), "r");
	if (f) {
		if (fscanf(f, "%d", &code) != 1) code = 999;
		fclose(f);
	}
	return code;
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
