/* TensorRT's C functions, as its Python bindings import them, for machines that have no TensorRT.

   With $BRIDGE_BUILDER and $BRIDGE_PARSER (libtensorrt_rtx.so, libtensorrt_onnxparser_rtx.so) they are those of
   TensorRT-RTX, whose interfaces have the layout of TensorRT's and which builds plans without a GPU; only its version is
   another one, and each caller must name it. Without, they return 0: the bindings can be imported and looked at. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static void *find(const char *variable, const char *name) {
  const char *path = getenv(variable);
  if (!path) return NULL;
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  void *found = library ? dlsym(library, name) : NULL;
  if (!found) fprintf(stderr, "%s: %s\n", name, dlerror());
  return found;
}

static int32_t version(const char *variable, const char *name) {
  int32_t (*call)(void) = (int32_t(*)(void))find(variable, name);
  return call ? call() : 0;
}

static int32_t builder_version(void) { return version("BRIDGE_BUILDER", "getInferLibVersion"); }
static int32_t parser_version(void) { return version("BRIDGE_PARSER", "getNvOnnxParserVersion"); }

static void *call2(const char *variable, const char *name, void *a, int32_t number) {
  void *(*call)(void *, int32_t) = (void *(*)(void *, int32_t))find(variable, name);
  return call ? call(a, number) : NULL;
}

static void *call3(const char *variable, const char *name, void *a, void *b, int32_t number) {
  void *(*call)(void *, void *, int32_t) = (void *(*)(void *, void *, int32_t))find(variable, name);
  return call ? call(a, b, number) : NULL;
}

void *createInferBuilder_INTERNAL(void *logger, int32_t asked) {
  (void)asked;
  return call2("BRIDGE_BUILDER", "createInferBuilder_INTERNAL", logger, builder_version());
}

void *createInferRuntime_INTERNAL(void *logger, int32_t asked) {
  (void)asked;
  return call2("BRIDGE_BUILDER", "createInferRuntime_INTERNAL", logger, builder_version());
}

void *createInferRefitter_INTERNAL(void *engine, void *logger, int32_t asked) {
  (void)asked;
  return call3("BRIDGE_BUILDER", "createInferRefitter_INTERNAL", engine, logger, builder_version());
}

void *createNvOnnxParser_INTERNAL(void *network, void *logger, int32_t asked) {
  (void)asked;
  return call3("BRIDGE_PARSER", "createNvOnnxParser_INTERNAL", network, logger, parser_version());
}

void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int32_t asked) {
  (void)asked;
  return call3("BRIDGE_PARSER", "createNvOnnxParserRefitter_INTERNAL", refitter, logger, parser_version());
}

void *getBuilderPluginRegistry(int32_t capability) {
  void *(*call)(int32_t) = (void *(*)(int32_t))find("BRIDGE_BUILDER", "getBuilderPluginRegistry");
  return call ? call(capability) : NULL;
}

void *getPluginRegistry(void) {
  void *(*call)(void) = (void *(*)(void))find("BRIDGE_BUILDER", "getPluginRegistry");
  return call ? call() : NULL;
}

int32_t getNvOnnxParserVersion(void) { return parser_version(); }

/* TensorRT-RTX has no plugins. */
int32_t initLibNvInferPlugins(void *logger, const char *name_space) {
  (void)logger;
  (void)name_space;
  return 1;
}
