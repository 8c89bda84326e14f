// A driver library for tests: one GPU, and as old as NVML gets, without the
// second memory call and without MIG; with -DMODERN it has what newer ones have.
// It is compiled against NVIDIA's own nvml.h, which go-nvml brings, so that every
// signature and structure is the real one.
//
// What it does is set by files in the folder that the environment variable
// NVML_TEST_DIR names, each of which holds a number:
//
//	init            what nvmlInit returns
//	module          the version of the kernel module; must be the library's (-DVERSION)
//	handle          what opening the GPU returns
//	hang            while it exists, reading the memory does not return
//	crash           while it exists, reading the memory ends in SIGSEGV
//	memory          what reading the memory returns
//	total, free     the GPU's memory in MiB; default 16384 and 12288
//	reserved        of it, what the driver keeps, in MiB; default 512
//	capability      the compute capability times ten; default 75
//	numa            the NUMA node that the GPU's memory is; absent: none
//	fabric          the state of the NVLink fabric; default 0, not supported
//	fabric-status   how reaching that state went
//	recovery        what the driver asks for; default 4, drain and reset
//	mig             how many MIG devices the GPU is split into; absent: MIG is off
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nvml.h"

#ifndef VERSION
#define VERSION 1
#endif

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

static int exists(const char *name) { return access(path(name), F_OK) == 0; }

// The GPU's handle is 1, those of its MIG devices follow 16.
static const long gpu = 1, slices = 16;

static nvmlDevice_t device(long handle) { return (nvmlDevice_t){(void *)handle}; }
static int slice(nvmlDevice_t device) { return (long)device.handle >= slices ? (int)((long)device.handle - slices) : -1; }

nvmlReturn_t nvmlInit_v2(void) {
	if (number("module", VERSION) != VERSION) return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
	return number("init", NVML_SUCCESS);
}

nvmlReturn_t nvmlShutdown(void) { return NVML_SUCCESS; }

const char *nvmlErrorString(nvmlReturn_t code) {
	return code == NVML_ERROR_OPERATING_SYSTEM ? "what the driver says" : code == NVML_ERROR_UNKNOWN ? "Unknown Error" : "?";
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
	*count = 1;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *opened) {
	*opened = device(gpu);
	return index == 0 ? number("handle", NVML_SUCCESS) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
	strncpy(name, "Old GPU", length);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
	if (slice(device) < 0) {
		strncpy(uuid, "GPU-old", length);
	} else {
		snprintf(uuid, length, "MIG-%d", slice(device));
	}
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
	int capability = number("capability", 75);
	*major = capability / 10;
	*minor = capability % 10;
	return NVML_SUCCESS;
}

static nvmlReturn_t readMemory(nvmlDevice_t device, unsigned long long *total, unsigned long long *left) {
	while (exists("hang")) usleep(1000);
	if (exists("crash")) *(volatile int *)8 = 0;
	*total = (unsigned long long)number("total", 16384) << 20;
	*left = (unsigned long long)number("free", 12288) << 20;
	if (slice(device) >= 0) {
		*total /= number("mig", 1);
		*left = *total;
	}
	return number("memory", NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
	nvmlReturn_t ret = readMemory(device, &memory->total, &memory->free);
	memory->used = memory->total - memory->free;
	return ret;
}

#ifdef MODERN
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
	if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	nvmlReturn_t ret = readMemory(device, &memory->total, &memory->free);
	memory->reserved = slice(device) >= 0 ? 0 : (unsigned long long)number("reserved", 512) << 20;
	memory->used = memory->total - memory->free - memory->reserved;
	return ret;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
	*current = *pending = exists("mig") ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
	*count = 7;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t whole, unsigned int index, nvmlDevice_t *part) {
	*part = device(slices + index);
	return (int)index < number("mig", 0) ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node) {
	*node = number("numa", 0);
	return exists("numa") ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *info) {
	info->state = number("fabric", NVML_GPU_FABRIC_STATE_NOT_SUPPORTED);
	info->status = number("fabric-status", NVML_SUCCESS);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *list) {
	unsigned int room = *count;
	*count = 3;
	if (room < 3) return NVML_ERROR_INSUFFICIENT_SIZE;
	list[0] = (nvmlProcessInfo_t){.pid = 300, .usedGpuMemory = 2ULL << 30};
	list[1] = (nvmlProcessInfo_t){.pid = 100, .usedGpuMemory = 1ULL << 30};
	list[2] = (nvmlProcessInfo_t){.pid = 200, .usedGpuMemory = NVML_VALUE_NOT_AVAILABLE};
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *list) {
	*count = 1;
	list[0] = (nvmlProcessInfo_t){.pid = 300, .usedGpuMemory = 2ULL << 30};
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode) {
	*mode = NVML_COMPUTEMODE_EXCLUSIVE_PROCESS;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter, unsigned long long *count) {
	*count = type == NVML_MEMORY_ERROR_TYPE_UNCORRECTED && counter == NVML_VOLATILE_ECC ? 5 : 0;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending, unsigned int *failed) {
	*corrected = 0;
	*uncorrected = 1;
	*pending = 1;
	*failed = 0;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *fields) {
	for (int i = 0; i < count; i++) {
		fields[i].nvmlReturn = fields[i].fieldId == NVML_FI_DEV_GET_GPU_RECOVERY_ACTION ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
		fields[i].valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
		fields[i].value.uiVal = number("recovery", NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET);
	}
	return NVML_SUCCESS;
}
#endif
