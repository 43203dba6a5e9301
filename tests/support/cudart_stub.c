/* A CUDA runtime without a GPU: work on a stream is done on the CPU when the stream is waited for, and what CUDA forbids
   is noted. Any call can be made to fail. Functions that begin with stub_ are the tests'.

   Kinds of memory: 1 device, 2 pinned host, 3 mapped. Mapped memory has two addresses, for the CPU and for the GPU, as
   a program must not confuse them. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { OK = 0, INVALID = 1, BAD_HANDLE = 400, UNSUPPORTED = 900, INVALIDATED = 901, ILLEGAL_ADDRESS = 700 };
enum { DEVICE = 1, PINNED = 2, MAPPED = 3 };
enum { BLOCKS = 1024, OPS = 64, GRAPHS = 256, STREAMS = 64 };

typedef struct { char *host, *device; size_t size; int kind, live; } Block;
typedef struct { void (*call)(void *); void *argument; char *to, *from; size_t size; } Op;
typedef struct { Op ops[OPS]; int count, live; } Work;

static Block blocks[BLOCKS];
static Work templates[GRAPHS], graphs[GRAPHS], streams[STREAMS], captured;
static int block_count, template_count, graph_count, stream_count;
static int capturing, invalidated, integrated, calls, fail_at, fail_with, sticky, last_error, launches;
static char violations[4096];
static char names[65536];

static void violation(const char *what) {
  if (strlen(violations) + strlen(what) + 3 < sizeof violations) strcat(strcat(violations, what), "; ");
}

static int result(int status) {
  if (status) last_error = status;
  return status;
}

/* Every call comes through here. */
static int enter(const char *name) {
  calls++;
  if (strlen(names) + strlen(name) + 2 < sizeof names) strcat(strcat(names, name), " ");
  if (sticky) return result(sticky);
  if (calls != fail_at) return OK;
  if (fail_with >= ILLEGAL_ADDRESS) sticky = fail_with;
  return result(fail_with);
}
#define ENTER do { int status = enter(__func__); if (status) return status; } while (0)

void stub_reset(int is_integrated) {
  memset(blocks, 0, sizeof blocks);
  memset(streams, 0, sizeof streams);
  memset(graphs, 0, sizeof graphs);
  memset(templates, 0, sizeof templates);
  block_count = template_count = graph_count = stream_count = 0;
  capturing = invalidated = calls = fail_at = fail_with = sticky = last_error = launches = 0;
  violations[0] = names[0] = 0;
  integrated = is_integrated;
}

void stub_fail(int after, int with) { fail_at = calls + after; fail_with = with; }
int stub_calls(void) { return calls; }
int stub_launches(void) { return launches; }
const char *stub_names(void) { return names; }
const char *stub_violations(void) { return violations; }

/* What was not freed: blocks of memory, streams, graphs. */
int stub_live(void) {
  int live = 0;
  for (int i = 0; i < block_count; i++) live += blocks[i].live;
  for (int i = 0; i < stream_count; i++) live += streams[i].live;
  for (int i = 0; i < graph_count; i++) live += graphs[i].live;
  for (int i = 0; i < template_count; i++) live += templates[i].live;
  return live;
}

/* Bytes of live memory: of the GPU, or of the host. */
long stub_bytes(int device) {
  long bytes = 0;
  for (int i = 0; i < block_count; i++)
    if (blocks[i].live && (blocks[i].kind == DEVICE) == device) bytes += blocks[i].size;
  return bytes;
}

static Block *holding(const char *at, size_t size, int by_device) {
  for (int i = 0; i < block_count; i++) {
    const char *begin = by_device ? blocks[i].device : blocks[i].host;
    if (blocks[i].live && begin && at >= begin && at + size <= begin + blocks[i].size) return &blocks[i];
  }
  return NULL;
}

/* May a kernel read and write here? */
int stub_is_device(const char *at, size_t size) {
  int found = holding(at, size, 1) != NULL;
  if (!found) violation("a kernel is given memory that is not the GPU's");
  return found;
}

static Work *stream_of(void *handle) {
  intptr_t i = (intptr_t)handle - 1000;
  if (i >= 0 && i < stream_count && streams[i].live) return &streams[i];
  violation("a stream that does not exist");
  return NULL;
}

static int put(void *handle, Op op) {
  Work *work = stream_of(handle);
  if (!work) return result(BAD_HANDLE);
  if (capturing) work = &captured;
  if (work->count == OPS) { violation("too much work for the stub"); return result(INVALID); }
  work->ops[work->count++] = op;
  return OK;
}

static int do_all(Work *work) {
  for (int i = 0; i < work->count; i++) {
    Op *op = &work->ops[i];
    if (op->call) { op->call(op->argument); continue; }
    int to_ok = holding(op->to, op->size, 1) || holding(op->to, op->size, 0);
    int from_ok = holding(op->from, op->size, 1) || holding(op->from, op->size, 0);
    if (!to_ok || !from_ok) { violation("a copy touches memory that was freed"); return result(sticky = ILLEGAL_ADDRESS); }
    memmove(op->to, op->from, op->size);
  }
  return OK;
}

/* A kernel: a function that is called with its argument when its turn comes. */
int stub_launch(void *stream, void (*call)(void *), void *argument) {
  Op op = {call, argument, NULL, NULL, 0};
  return put(stream, op);
}

int cudaGetDeviceCount(int *count) { ENTER; *count = 1; return OK; }
const char *cudaGetErrorString(int status) {
  static char text[32];
  snprintf(text, sizeof text, "stub error %d", status);
  return text;
}
int cudaGetLastError(void) { int status = last_error; if (!sticky) last_error = OK; return status; }
int cudaGetDeviceProperties(char *properties, int device) {
  ENTER;
  memset(properties, 0, 1008);
  strcpy(properties, "Stub");
  return device ? result(INVALID) : OK;
}
int cudaDriverGetVersion(int *version) { ENTER; *version = 13020; return OK; }
int cudaRuntimeGetVersion(int *version) { ENTER; *version = 13020; return OK; }
/* In another process: what the environment says. */
static unsigned long long chosen(const char *name, unsigned long long otherwise) {
  const char *text = getenv(name);
  return text ? strtoull(text, NULL, 10) : otherwise;
}
int cudaMemGetInfo(size_t *free_bytes, size_t *total) {
  ENTER;
  *free_bytes = chosen("STUB_FREE", 4ull << 30);
  *total = 8ull << 30;
  return OK;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  ENTER;
  if (device) return result(INVALID);
  *value = attribute == 16 ? 8 : attribute == 18 ? integrated || chosen("STUB_INTEGRATED", 0) : attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
  return OK;
}

int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
  ENTER;
  if (flags != 1) violation("a stream that waits for the default one");
  streams[stream_count].live = 1;
  streams[stream_count].count = 0;
  *stream = (void *)(intptr_t)(1000 + stream_count++);
  return OK;
}
int cudaStreamDestroy(void *stream) {
  ENTER;
  Work *work = stream_of(stream);
  if (!work) return result(BAD_HANDLE);
  work->live = 0;
  return OK;
}
int cudaStreamSynchronize(void *stream) {
  int failed = enter(__func__); /* of earlier work: it waits all the same */
  Work *work = stream_of(stream);
  if (!work) return result(BAD_HANDLE);
  if (capturing) { invalidated = 1; violation("waits while it captures"); return result(UNSUPPORTED); }
  int status = sticky ? sticky : do_all(work);
  work->count = 0;
  return failed ? failed : status;
}

static int take(size_t size, int kind, Block **taken) {
  if (capturing) { violation("allocates while it captures"); return result(UNSUPPORTED); }
  if (!size || block_count == BLOCKS) { violation("allocates nothing, or too often"); return result(INVALID); }
  size_t whole = (size + 4095) / 4096 * 4096;
  int file = memfd_create("stub", 0);
  if (file < 0 || ftruncate(file, (off_t)whole)) return result(2);
  Block *block = &blocks[block_count++];
  int protection = PROT_READ | PROT_WRITE;
  if (kind != PINNED) block->device = mmap(NULL, whole, protection, MAP_SHARED, file, 0);
  if (kind != DEVICE) block->host = mmap(NULL, whole, protection, MAP_SHARED, file, 0);
  close(file);
  block->size = size;
  block->kind = kind;
  block->live = 1;
  memset(block->host ? block->host : block->device, 0xAB, size);
  *taken = block;
  return OK;
}

static int drop(char *at, int pinned) {
  if (!at) return OK;
  for (int i = 0; i < block_count; i++) {
    Block *block = &blocks[i];
    if (!block->live || (block->kind == DEVICE ? block->device : block->host) != at) continue;
    if ((block->kind != DEVICE) != pinned) { violation("frees memory of the other kind"); return result(INVALID); }
    /* CUDA waits here for what uses it. */
    for (int s = 0; s < stream_count; s++) { do_all(&streams[s]); streams[s].count = 0; }
    for (int g = 0; g < graph_count; g++)
      for (int k = 0; graphs[g].live && k < graphs[g].count; k++)
        if (!graphs[g].ops[k].call && (holding(graphs[g].ops[k].to, 1, !pinned) == block ||
                                       holding(graphs[g].ops[k].from, 1, !pinned) == block))
          violation("frees memory that a graph uses");
    size_t whole = (block->size + 4095) / 4096 * 4096;
    if (block->device) munmap(block->device, whole);
    if (block->host) munmap(block->host, whole);
    block->live = 0;
    return OK;
  }
  violation("frees what is not allocated");
  return result(INVALID);
}

int cudaMalloc(void **at, size_t size) {
  ENTER;
  Block *block;
  int status = take(size, DEVICE, &block);
  if (!status) *at = block->device;
  return status;
}
int cudaFree(void *at) { ENTER; return drop(at, 0); }
int cudaMallocHost(void **at, size_t size) {
  ENTER;
  Block *block;
  int status = take(size, PINNED, &block);
  if (!status) *at = block->host;
  return status;
}
int cudaHostAlloc(void **at, size_t size, unsigned flags) {
  ENTER;
  if (flags != 2) violation("host memory that is not mapped");
  Block *block;
  int status = take(size, MAPPED, &block);
  if (!status) *at = block->host;
  return status;
}
int cudaHostGetDevicePointer(void **device, void *host, unsigned flags) {
  ENTER;
  Block *block = holding(host, 1, 0);
  if (!block || block->kind != MAPPED || flags) { violation("asks for an address of what is not mapped"); return result(INVALID); }
  *device = block->device;
  return OK;
}
int cudaFreeHost(void *at) { ENTER; return drop(at, 1); }

int cudaMemcpyAsync(void *to, void *from, size_t size, int kind, void *stream) {
  ENTER;
  int ok = kind == 1 ? holding(to, size, 1) && holding(from, size, 0) : kind == 2 ? holding(to, size, 0) && holding(from, size, 1) : 0;
  if (!ok) { violation("copies between memory of other kinds than it says"); return result(INVALID); }
  Op op = {NULL, NULL, to, from, size};
  return put(stream, op);
}

int cudaStreamBeginCapture(void *stream, int mode) {
  ENTER;
  if (!stream_of(stream)) return result(BAD_HANDLE);
  if (mode != 1) violation("captures what other threads do");
  if (capturing) { violation("captures twice"); return result(UNSUPPORTED); }
  capturing = 1;
  invalidated = captured.count = 0;
  return OK;
}
int cudaStreamEndCapture(void *stream, void **graph) {
  int status = enter(__func__), was = capturing;
  capturing = 0; /* whatever it returns */
  *graph = NULL;
  if (status) return status;
  if (!stream_of(stream) || !was) { violation("ends what it does not capture"); return result(BAD_HANDLE); }
  if (invalidated) return result(INVALIDATED);
  templates[template_count] = captured;
  templates[template_count].live = 1;
  *graph = (void *)(intptr_t)(5000 + template_count++);
  return OK;
}
static Work *work_of(void *handle, int base, Work *all, int count) {
  intptr_t i = (intptr_t)handle - base;
  if (i >= 0 && i < count && all[i].live) return &all[i];
  violation("a graph that does not exist");
  return NULL;
}
int cudaGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
  ENTER;
  Work *work = work_of(graph, 5000, templates, template_count);
  if (!work || flags) return result(INVALID);
  graphs[graph_count] = *work;
  *executable = (void *)(intptr_t)(9000 + graph_count++);
  return OK;
}
int cudaGraphDestroy(void *graph) {
  ENTER;
  Work *work = work_of(graph, 5000, templates, template_count);
  if (!work) return result(INVALID);
  work->live = 0;
  return OK;
}
int cudaGraphExecDestroy(void *executable) {
  ENTER;
  Work *work = work_of(executable, 9000, graphs, graph_count);
  if (!work) return result(INVALID);
  work->live = 0;
  return OK;
}
int cudaGraphLaunch(void *executable, void *stream) {
  ENTER;
  Work *work = work_of(executable, 9000, graphs, graph_count);
  if (!work) return result(INVALID);
  launches++;
  for (int i = 0; i < work->count; i++)
    if (put(stream, work->ops[i])) return last_error;
  return OK;
}
