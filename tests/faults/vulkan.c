// A libvulkan.so.1 that passes every call on to the real one and fails the one that it is told to.
// tests/faults/driver.rs builds and drives it.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Functions that can fail, with at most eight integer or pointer arguments.
#define FUNCTIONS(X)                                                                                                      \
    X(vkAllocateCommandBuffers) X(vkAllocateDescriptorSets) X(vkAllocateMemory) X(vkBeginCommandBuffer)                   \
    X(vkBindBufferMemory) X(vkCreateBuffer) X(vkCreateCommandPool) X(vkCreateComputePipelines) X(vkCreateDescriptorPool)  \
    X(vkCreateDescriptorSetLayout) X(vkCreateDevice) X(vkCreateFence) X(vkCreateInstance) X(vkCreatePipelineLayout)       \
    X(vkCreateQueryPool) X(vkCreateSemaphore) X(vkCreateShaderModule) X(vkEndCommandBuffer) X(vkEnumeratePhysicalDevices) \
    X(vkFlushMappedMemoryRanges) X(vkGetFenceStatus) X(vkGetSemaphoreCounterValue) X(vkInvalidateMappedMemoryRanges)      \
    X(vkMapMemory) X(vkQueueSubmit) X(vkResetCommandPool) X(vkWaitForFences) X(vkWaitSemaphores)

typedef void (*Function)(void);
typedef Function (*GetAddress)(void *, const char *);
typedef long (*Call)(long, long, long, long, long, long, long, long);

#define INDEX(name) AT_##name,
enum { FUNCTIONS(INDEX) COUNT };
#define NAME(name) #name,
static const char *names[] = {FUNCTIONS(NAME)};

static Function real_functions[COUNT];
static atomic_long calls[COUNT];
static atomic_int armed = -1, code, once;
static atomic_long at, hits;

static long call(int which, long a, long b, long c, long d, long e, long f, long g, long h) {
    long n = ++calls[which];
    if (armed == which && (once ? n == at : n >= at)) {
        hits++;
        return (long)(unsigned)code;
    }
    return ((Call)real_functions[which])(a, b, c, d, e, f, g, h);
}

#define WRAPPER(name)                                                                           \
    static long wrapped_##name(long a, long b, long c, long d, long e, long f, long g, long h) { \
        return call(AT_##name, a, b, c, d, e, f, g, h);                                         \
    }
FUNCTIONS(WRAPPER)
#define WRAPPED(name) (Function)wrapped_##name,
static const Function wrappers[] = {FUNCTIONS(WRAPPED)};

static int find(const char *name) {
    for (int i = 0; i < COUNT; i++)
        if (!strcmp(names[i], name)) return i;
    return -1;
}

static Function pick(const char *name, Function found) {
    int which = found ? find(name) : -1;
    if (which < 0) return found;
    real_functions[which] = found;
    return wrappers[which];
}

static GetAddress instance_address, device_address;

static Function my_device_address(void *device, const char *name) { return pick(name, device_address(device, name)); }

Function vkGetInstanceProcAddr(void *instance, const char *name) {
    if (!instance_address) {
        void *real = dlopen(getenv("GATEWISE_REAL_VULKAN"), RTLD_NOW);
        if (!real) {
            fprintf(stderr, "no real Vulkan loader: %s\n", dlerror());
            exit(99);
        }
        instance_address = (GetAddress)dlsym(real, "vkGetInstanceProcAddr");
    }
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (Function)vkGetInstanceProcAddr;
    Function found = instance_address(instance, name);
    if (strcmp(name, "vkGetDeviceProcAddr")) return pick(name, found);
    device_address = (GetAddress)found;
    return (Function)my_device_address;
}

// Functions that the test calls.

const char *fault_name(int which) { return which < COUNT ? names[which] : NULL; }

long fault_calls(int which) { return calls[which]; }

long fault_hits(void) { return hits; }

// Fails a function from its nth call from now on, or at that call alone; a negative one fails nothing.
void fault_arm(int which, long nth, int answer, int only_once) {
    armed = -1;
    hits = 0;
    for (int i = 0; i < COUNT; i++) calls[i] = 0;
    at = nth;
    code = answer;
    once = only_once;
    armed = which;
}
