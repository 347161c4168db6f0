/* A plugin for the registry's tests. It is well-behaved but for what a define asks of it. */
#define _GNU_SOURCE /* memmem */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "postwarm_plugin.h"

#ifndef ID
#define ID "probe"
#endif
#ifndef VERSION
#define VERSION "1"
#endif
#ifndef DESCRIPTOR_ID
#define DESCRIPTOR_ID ID
#endif
#ifdef NOTE_ABI
#undef PW_ABI
#define PW_ABI NOTE_ABI
#endif
#ifdef NOTE_KIND
PW_PLUGIN_NOTE(NOTE_KIND, ID, VERSION);
#elif !defined(NO_NOTE)
PW_PLUGIN_NOTE(PW_KIND_SMTP, ID, VERSION);
#endif
#ifdef TWO_NOTES
PW_PLUGIN_NOTE(PW_KIND_SMTP, "other", VERSION);
#endif
#ifdef SCHEMA
PW_PLUGIN_SCHEMA(ID, SCHEMA);
#endif

#ifdef CONSTRUCTOR_WRITES
__attribute__((constructor)) static void constructor(void) {
  FILE *file = fopen(CONSTRUCTOR_WRITES, "w");
  if (file != NULL) fclose(file);
}
#endif

#ifdef UNRESOLVED
void there_is_no_such_function(void);
#endif

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  int go, late, cancelled, destroyed, same;
} state = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .same = 1};

struct late {
  const pw_send_request *request;
  pw_send_done done;
  void *ctx;
  char *seen;
};

static void accept_as(pw_send_done done, void *ctx, const char *text) {
  pw_outcome outcome = {.struct_size = sizeof outcome, .status = PW_ACCEPTED, .code = 250};
  outcome.text = (pw_slice){(const uint8_t *)text, strlen(text)};
  done(ctx, &outcome);
}

static char *copy_of(const pw_send_request *request) {
  char *copy = malloc(request->content[0].len + request->content[1].len);
  memcpy(copy, request->content[0].ptr, request->content[0].len);
  memcpy(copy + request->content[0].len, request->content[1].ptr, request->content[1].len);
  return copy;
}

/* Completes once verify() says go, after it has compared the content with what it was. */
static void *complete_late(void *argument) {
  struct late *late = argument;
  pthread_mutex_lock(&state.lock);
  while (!state.go) pthread_cond_wait(&state.changed, &state.lock);
  char *now = copy_of(late->request);
  state.same &= memcmp(now, late->seen, late->request->content[0].len + late->request->content[1].len) == 0;
  free(now);
  free(late->seen);
  pthread_mutex_unlock(&state.lock);
  accept_as(late->done, late->ctx, "late");
  pthread_mutex_lock(&state.lock);
  state.late--;
  pthread_cond_broadcast(&state.changed);
  pthread_mutex_unlock(&state.lock);
  free(late);
  return NULL;
}

static uint32_t send_message(void *instance, const pw_send_request *request, pw_send_done done, void *ctx) {
  (void)instance;
#ifdef UNRESOLVED
  there_is_no_such_function();
#endif
#if defined(REFUSES)
  return PW_ERROR_TEMPORARY;
#elif defined(BLOCKS)
  pthread_mutex_lock(&state.lock);
  while (1) pthread_cond_wait(&state.changed, &state.lock);
#endif
  if (memmem(request->envelope_to.ptr, request->envelope_to.len, "late@", 5) != NULL) {
    struct late *late = malloc(sizeof *late);
    *late = (struct late){request, done, ctx, copy_of(request)};
    pthread_mutex_lock(&state.lock);
    state.late++;
    pthread_mutex_unlock(&state.lock);
    pthread_t thread;
    pthread_create(&thread, NULL, complete_late, late);
    pthread_detach(thread);
    return PW_OK;
  }
  accept_as(done, ctx, VERSION);
#ifdef TWICE
  accept_as(done, ctx, "again");
#endif
  return PW_OK;
}

/* Lets the late ones go, waits for them, and fails with the figures as its words. */
static uint32_t verify(void *instance, uint64_t timeout_ms, pw_done done, void *ctx) {
  (void)instance, (void)timeout_ms;
  char text[64];
  pthread_mutex_lock(&state.lock);
  state.go = 1;
  pthread_cond_broadcast(&state.changed);
  while (state.late > 0) pthread_cond_wait(&state.changed, &state.lock);
  snprintf(text, sizeof text, "same %d, cancelled %d, destroyed %d", state.same, state.cancelled, state.destroyed);
  pthread_mutex_unlock(&state.lock);
  pw_result result = {.struct_size = sizeof result, .status = PW_ERROR_TEMPORARY, .text = {(const uint8_t *)text, strlen(text)}};
  done(ctx, &result);
  return PW_OK;
}

static void cancel(void *instance, void *ctx) {
  (void)instance, (void)ctx;
  pthread_mutex_lock(&state.lock);
  state.cancelled++;
  pthread_mutex_unlock(&state.lock);
}

static uint32_t create(const pw_host *host, const pw_instance *config, pw_problem problem, void *problem_ctx, void **instance) {
  (void)host, (void)config, (void)problem, (void)problem_ctx, (void)instance;
#ifndef MAKES_NOTHING
  *instance = &state;
#endif
  return PW_OK;
}

static uint32_t in_flight_max(void *instance) {
  (void)instance;
  return 4;
}

static void destroy(void *instance) {
  (void)instance;
  pthread_mutex_lock(&state.lock);
  state.destroyed++;
  pthread_mutex_unlock(&state.lock);
}

#define SLICE(literal) {(const uint8_t *)(literal), sizeof(literal) - 1}
static const pw_descriptor descriptor = {.struct_size = sizeof descriptor, .id = SLICE(DESCRIPTOR_ID), .version = SLICE(VERSION)};

static const pw_smtp smtp = {
#ifdef OLD_TABLE
    .struct_size = offsetof(pw_smtp, send),
#else
    .struct_size = sizeof smtp,
#endif
    .descriptor = &descriptor, .create = create, .in_flight_max = in_flight_max, .send = send_message,
    .cancel = cancel, .verify = verify, .destroy = destroy,
};

static const void *get_factory(const char *kind) {
#ifdef NO_FACTORY
  (void)kind;
  return NULL;
#else
  return strcmp(kind, PW_KIND_SMTP) == 0 ? &smtp : NULL;
#endif
}

#ifdef ENTRY_ABI
#define OWN_ABI ENTRY_ABI
#else
#define OWN_ABI 0
#endif

#ifdef NO_EXPORT
PW_EXPORT const pw_entry *another_name(void);
const pw_entry *another_name(void) {
#else
PW_EXPORT const pw_entry *postwarm_plugin_entry_v0(void) {
#endif
  static const pw_entry entry = {.struct_size = sizeof entry, .abi = OWN_ABI, .get_factory = get_factory};
  return &entry;
}
