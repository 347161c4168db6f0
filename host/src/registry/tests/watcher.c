/* A feedback loop for the registry's tests: it reports each watched message as read, two a page, on a thread of its own. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "postwarm_plugin.h"

PW_PLUGIN_NOTE(PW_KIND_FEEDBACK, "watcher", "1");

#ifdef UNRESOLVED
void there_is_no_such_function(void);
#endif

static int only;

struct poll {
  const pw_poll_request *request;
  pw_done done;
  void *ctx;
};

struct page {
  struct poll *poll;
  uint64_t last;
  uint32_t pushed, go_on;
};

static void take(void *ctx, const pw_watched *watched) {
  struct page *page = ctx;
  page->last = watched->position;
  if (!page->go_on) return;
  pw_report report = {.struct_size = sizeof report, .report = PW_REPORT_MESSAGE, .fact = PW_FACT_READ};
  report.at_ms = watched->sent_at_ms + 1;
  report.message_id = watched->message_id;
  report.detail = watched->domain;
  page->pushed++;
  page->go_on = page->poll->request->push(page->poll->ctx, &report);
}

static void *run(void *argument) {
  struct poll *poll = argument;
  struct page page = {.poll = poll, .go_on = 1};
  char text[64];
  pw_result result = {.struct_size = sizeof result, .status = PW_OK};
  if (poll->request->cursor.len == 4 && memcmp(poll->request->cursor.ptr, "fail", 4) == 0) {
    result.status = PW_ERROR_REFUSED;
    strcpy(text, "you shall not poll");
  } else {
    pw_report unknown = {.struct_size = sizeof unknown, .report = 99};
    poll->request->push(poll->ctx, &unknown);
    while (page.go_on && poll->request->watch_page(poll->ctx, page.last, 2, take, &page) > 0) {
    }
    snprintf(text, sizeof text, "%.*s+%u", (int)poll->request->cursor.len, (const char *)poll->request->cursor.ptr, page.pushed);
  }
  result.text = (pw_slice){(const uint8_t *)text, strlen(text)};
  uint32_t (*push)(void *, const pw_report *) = poll->request->push;
  poll->done(poll->ctx, &result);
  /* Against the rules, and harmless: nobody listens any more. */
  pw_report late = {.struct_size = sizeof late, .report = PW_REPORT_MESSAGE, .fact = PW_FACT_READ};
  if (push(poll->ctx, &late) != 0) abort();
  free(poll);
  return NULL;
}

static uint32_t poll(void *instance, const pw_poll_request *request, pw_done done, void *ctx) {
  (void)instance;
#ifdef UNRESOLVED
  there_is_no_such_function();
#endif
  struct poll *own = malloc(sizeof *own);
  *own = (struct poll){request, done, ctx};
  pthread_t thread;
  pthread_create(&thread, NULL, run, own);
  pthread_detach(thread);
  return PW_OK;
}

static uint32_t create(const pw_host *host, const pw_instance *config, pw_problem problem, void *problem_ctx, void **instance) {
  (void)config, (void)problem, (void)problem_ctx;
  const pw_log *log = host->get_extension("postwarm.log/0");
  if (log == NULL || !PW_HAS(log, write) || host->get_extension("postwarm.nothing/0") != NULL) return PW_ERROR_REFUSED;
  log->write(PW_LOG_INFO, (pw_slice){(const uint8_t *)"watcher", 7}, (pw_slice){(const uint8_t *)"made", 4});
  *instance = &only;
  return PW_OK;
}

static uint32_t capabilities(void *instance) {
  (void)instance;
  return PW_CAN_DELIVERED | PW_CAN_READ;
}

static void destroy(void *instance) {
  (void)instance;
}

#define SLICE(literal) {(const uint8_t *)(literal), sizeof(literal) - 1}
static const pw_descriptor descriptor = {.struct_size = sizeof descriptor, .id = SLICE("watcher"), .version = SLICE("1")};
static const pw_feedback feedback = {
    .struct_size = sizeof feedback, .descriptor = &descriptor, .create = create,
    .capabilities = capabilities, .poll = poll, .destroy = destroy,
};

static const void *get_factory(const char *kind) {
  return strcmp(kind, PW_KIND_FEEDBACK) == 0 ? &feedback : NULL;
}

PW_EXPORT const pw_entry *postwarm_plugin_entry_v0(void) {
  static const pw_entry entry = {.struct_size = sizeof entry, .abi = PW_ABI, .get_factory = get_factory};
  return &entry;
}
