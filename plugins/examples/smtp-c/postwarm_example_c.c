/* Example: an external SMTP client in C. Plain blocking SMTP to a relay nearby, one thread a connection, libc only.
 *
 * send() puts the message's request into a queue and returns; a worker takes it, speaks SMTP, and completes. The request
 * is the host's memory and stays until the completion has returned, so nothing is copied.
 *
 * What became of a message is told honestly: until the final dot is on its way it is PW_NOT_ATTEMPTED (the server must
 * throw a message without its end away), from then on until the reply was read it is PW_UNKNOWN.
 */
#define _GNU_SOURCE /* strcasestr */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "postwarm_plugin.h"

#define ID "example-c"
#define VERSION "0.1.0"
#define SCHEMA                                                              \
  "{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"host\"]," \
  "\"properties\":{\"host\":{\"type\":\"string\"},"                          \
  "\"port\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":65535,\"default\":25}}}"

PW_PLUGIN_NOTE(PW_KIND_SMTP, ID, VERSION);
PW_PLUGIN_SCHEMA(ID, SCHEMA);

#define SLICE(literal) {(const uint8_t *)(literal), sizeof(literal) - 1}
#define WORKERS_MAX 64
#define REPLY_LINES_MAX 100

/* ---- The queue --------------------------------------------------------------------------------------------------------- */

struct job {
  struct job *next;
  const pw_send_request *request; /* NULL for a verify */
  uint64_t deadline_ms;
  pw_send_done send_done;
  pw_done done;
  void *ctx;
};

struct relay {
  char host[256];
  char port[8];
  uint32_t workers_max;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  struct job *first, **last;
  struct session *sessions; /* of the workers */
  uint32_t workers, waiting;
  int closing;
  atomic_int cut; /* the grace of closing is over: nothing waits any more */
  int gone;       /* destroyed: the last worker frees it */
};

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- One SMTP session ---------------------------------------------------------------------------------------------------- */

struct session {
  struct relay *relay;
  struct session *next;
  int fd; /* -1: none; changed under the relay's lock, so that closing can shut it down */
  int eight_bit, smtputf8; /* what the server offers */
  size_t from, to;
  char buffer[4096];
};

struct reply {
  uint32_t code; /* 0: the dialogue broke off, and the text says how */
  uint32_t enhanced[3];
  char text[512];
};

static void session_end(struct session *session) {
  pthread_mutex_lock(&session->relay->lock);
  if (session->fd >= 0) close(session->fd);
  session->fd = -1;
  pthread_mutex_unlock(&session->relay->lock);
  session->from = session->to = 0;
}

/* Lets the socket's next wait end at the deadline. Returns 0 when it has passed. */
static int until(struct session *session, uint64_t deadline_ms) {
  uint64_t now = now_ms();
  if (now >= deadline_ms || atomic_load(&session->relay->cut)) return 0;
  uint64_t left = deadline_ms - now;
  if (left > 86400000) left = 86400000;
  struct timeval wait = {.tv_sec = (time_t)(left / 1000), .tv_usec = (suseconds_t)(left % 1000 * 1000)};
  setsockopt(session->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  setsockopt(session->fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
  return 1;
}

static int write_all(struct session *session, const void *data, size_t len, uint64_t deadline_ms) {
  const char *at = data;
  while (len > 0) {
    if (!until(session, deadline_ms)) return 0;
    ssize_t wrote = send(session->fd, at, len, MSG_NOSIGNAL);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return 0;
    at += wrote;
    len -= (size_t)wrote;
  }
  return 1;
}

static int read_octet(struct session *session, uint64_t deadline_ms) {
  while (session->from == session->to) {
    if (!until(session, deadline_ms)) return -1;
    ssize_t got = recv(session->fd, session->buffer, sizeof session->buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return -1;
    session->from = 0;
    session->to = (size_t)got;
  }
  return (unsigned char)session->buffer[session->from++];
}

/* Reads a reply; lines of a long one are joined by a space, and what is too long is cut. */
static struct reply read_reply(struct session *session, uint64_t deadline_ms) {
  struct reply reply = {0};
  size_t len = 0;
  for (int lines = 0; lines < REPLY_LINES_MAX; lines++) {
    char line[1024];
    size_t line_len = 0;
    for (;;) {
      int octet = read_octet(session, deadline_ms);
      if (octet < 0) {
        snprintf(reply.text, sizeof reply.text, "no reply: the connection broke off or the deadline passed");
        reply.code = 0;
        return reply;
      }
      if (octet == '\n') break;
      if (octet != '\r' && line_len + 1 < sizeof line) line[line_len++] = (char)octet;
    }
    line[line_len] = 0;
    if (line_len < 3 || line[0] < '2' || line[0] > '5' || line[1] < '0' || line[1] > '9' || line[2] < '0' || line[2] > '9') {
      snprintf(reply.text, sizeof reply.text, "this is no SMTP reply");
      reply.code = 0;
      return reply;
    }
    reply.code = (uint32_t)((line[0] - '0') * 100 + (line[1] - '0') * 10 + (line[2] - '0'));
    const char *rest = line_len > 4 ? line + 4 : "";
    unsigned class, subject, detail;
    int used = 0;
    if (sscanf(rest, "%1u.%3u.%3u%n", &class, &subject, &detail, &used) == 3 && (class == 2 || class == 4 || class == 5)) {
      reply.enhanced[0] = class;
      reply.enhanced[1] = subject;
      reply.enhanced[2] = detail;
      rest += used;
      while (*rest == ' ') rest++;
    }
    int written = snprintf(reply.text + len, sizeof reply.text - len, "%s%s", len > 0 ? " " : "", rest);
    if (written > 0) len += (size_t)written;
    if (len >= sizeof reply.text) len = sizeof reply.text - 1;
    if (line[3] != '-') return reply;
  }
  snprintf(reply.text, sizeof reply.text, "the reply has too many lines");
  reply.code = 0;
  return reply;
}

static struct reply command(struct session *session, const char *line, uint64_t deadline_ms) {
  if (!write_all(session, line, strlen(line), deadline_ms)) {
    struct reply broken = {0};
    snprintf(broken.text, sizeof broken.text, "the connection broke off");
    return broken;
  }
  return read_reply(session, deadline_ms);
}

/* Connects, until the deadline: SO_SNDTIMEO bounds connect(2) as well. */
static int connected(struct session *session, const struct addrinfo *to, uint64_t deadline_ms) {
  int fd = socket(to->ai_family, to->ai_socktype | SOCK_CLOEXEC, to->ai_protocol);
  if (fd < 0) return 0;
  pthread_mutex_lock(&session->relay->lock);
  session->fd = fd;
  pthread_mutex_unlock(&session->relay->lock);
  errno = ETIMEDOUT;
  return until(session, deadline_ms) && connect(fd, to->ai_addr, to->ai_addrlen) == 0;
}

/* Opens a session; returns 0 with the cause and the words in `reply` when there is none. */
static int session_open(struct session *session, const struct relay *relay, uint64_t deadline_ms, uint32_t *cause, struct reply *reply) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
  *cause = PW_CAUSE_CONNECT;
  int failed = getaddrinfo(relay->host, relay->port, &hints, &found);
  if (failed != 0) {
    snprintf(reply->text, sizeof reply->text, "%s: %s", relay->host, gai_strerror(failed));
    return 0;
  }
  int open = 0;
  for (struct addrinfo *to = found; to != NULL && !open; to = to->ai_next) {
    open = connected(session, to, deadline_ms);
    if (!open) {
      snprintf(reply->text, sizeof reply->text, "%s:%s: %s", relay->host, relay->port, strerror(errno));
      session_end(session);
    }
  }
  freeaddrinfo(found);
  if (!open) return 0;
  int yes = 1;
  setsockopt(session->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  *cause = PW_CAUSE_SESSION;
  *reply = read_reply(session, deadline_ms);
  if (reply->code == 220) {
    *reply = command(session, "EHLO [127.0.0.1]\r\n", deadline_ms);
    session->eight_bit = strcasestr(reply->text, "8BITMIME") != NULL;
    session->smtputf8 = strcasestr(reply->text, "SMTPUTF8") != NULL;
    if (reply->code == 250) return 1;
  }
  session_end(session);
  return 0;
}

/* ---- One message --------------------------------------------------------------------------------------------------------- */

static void complete(const struct job *job, uint32_t status, uint32_t which, const struct reply *reply) {
  pw_outcome outcome = {.struct_size = sizeof outcome, .status = status};
  outcome.code = reply->code;
  outcome.enhanced_class = reply->enhanced[0];
  outcome.enhanced_subject = reply->enhanced[1];
  outcome.enhanced_detail = reply->enhanced[2];
  if (status == PW_NOT_ATTEMPTED) outcome.cause = which;
  if (status == PW_UNKNOWN) outcome.phase = which;
  if (status == PW_DEFERRED || status == PW_REJECTED) outcome.fault = which;
  outcome.text = (pw_slice){(const uint8_t *)reply->text, strlen(reply->text)};
  job->send_done(job->ctx, &outcome);
}

static void stopping(const struct job *job) {
  struct reply reply = {.text = "the client is closing"};
  complete(job, PW_NOT_ATTEMPTED, PW_CAUSE_STOPPING, &reply);
}

static uint32_t fault_of(uint32_t phase, const struct reply *reply) {
  if (phase == PW_PHASE_RCPT || reply->enhanced[1] == 1 || reply->enhanced[1] == 2) return PW_FAULT_RECIPIENT;
  if (phase == PW_PHASE_MAIL) return PW_FAULT_ACCOUNT;
  if (reply->enhanced[1] == 7) return PW_FAULT_DOMAIN;
  return reply->code >= 500 ? PW_FAULT_CONTENT : PW_FAULT_NETWORK;
}

/* A command of the envelope was not taken. */
static void refused(struct session *session, const struct job *job, uint32_t phase, const struct reply *reply) {
  if (reply->code == 0 || reply->code == 421 || reply->code < 400) {
    session_end(session);
    complete(job, PW_NOT_ATTEMPTED, reply->code == 0 ? PW_CAUSE_DISCONNECTED : PW_CAUSE_SESSION, reply);
    return;
  }
  if (command(session, "RSET\r\n", job->deadline_ms).code != 250) session_end(session);
  complete(job, reply->code < 500 ? PW_DEFERRED : PW_REJECTED, fault_of(phase, reply), reply);
}

/* Writes the content with its dots doubled (RFC 5321 4.5.2). Lines are whole across slices but for the first octet. */
static int write_content(struct session *session, const struct job *job) {
  int line_starts = 1;
  for (uint32_t i = 0; i < job->request->content_len; i++) {
    const uint8_t *at = job->request->content[i].ptr, *end = at + job->request->content[i].len;
    while (at < end) {
      if (line_starts && *at == '.' && !write_all(session, ".", 1, job->deadline_ms)) return 0;
      const uint8_t *next = memchr(at, '\n', (size_t)(end - at));
      /* Whole runs of lines that start with no dot go in one write. */
      while (next != NULL && next + 1 < end && next[1] != '.') next = memchr(next + 1, '\n', (size_t)(end - next - 1));
      const uint8_t *stop = next != NULL ? next + 1 : end;
      if (!write_all(session, at, (size_t)(stop - at), job->deadline_ms)) return 0;
      line_starts = stop[-1] == '\n';
      at = stop;
    }
  }
  return 1;
}

static int is_ascii(pw_slice text) {
  for (size_t i = 0; i < text.len; i++) {
    if (text.ptr[i] > 127) return 0;
  }
  return 1;
}

/* Says what the message needs and the server does not offer; NULL where it can go. No server is asked in vain, and no reply
 * is made up. */
static const char *missing(const struct session *session, const pw_send_request *request) {
  int is_utf8 = (request->flags & PW_SMTPUTF8) != 0;
  if (!is_utf8 && !(is_ascii(request->envelope_from) && is_ascii(request->envelope_to)))
    return "an address is not ASCII, and the message does not say that it needs SMTPUTF8";
  if (is_utf8 && !session->smtputf8) return "the message needs SMTPUTF8, which the server does not offer";
  if (request->flags & PW_EIGHT_BIT && !session->eight_bit)
    return "the content has 8-bit octets, and the server does not offer 8BITMIME";
  return NULL;
}

static void send_one(struct relay *relay, struct session *session, const struct job *job) {
  const pw_send_request *request = job->request;
  struct reply reply = {0};
  uint32_t cause;
  if (request->envelope_from.len > 320 || request->envelope_to.len > 320) {
    snprintf(reply.text, sizeof reply.text, "an address is longer than 320 octets");
    complete(job, PW_NOT_ATTEMPTED, PW_CAUSE_INTERNAL, &reply);
    return;
  }
  /* A session that was idle may be gone; NOOP tells before a message is at stake. */
  if (session->fd >= 0 && command(session, "NOOP\r\n", job->deadline_ms).code != 250) session_end(session);
  if (session->fd < 0 && !session_open(session, relay, job->deadline_ms, &cause, &reply)) {
    complete(job, PW_NOT_ATTEMPTED, cause, &reply);
    return;
  }
  const char *lacks = missing(session, request);
  if (lacks != NULL) {
    reply = (struct reply){0};
    snprintf(reply.text, sizeof reply.text, "%s", lacks);
    complete(job, PW_NOT_ATTEMPTED, PW_CAUSE_UNSUPPORTED, &reply);
    return;
  }
  char line[512];
  const char *body = request->flags & PW_EIGHT_BIT ? " BODY=8BITMIME" : "";
  const char *utf8 = request->flags & PW_SMTPUTF8 ? " SMTPUTF8" : "";
  snprintf(line, sizeof line, "MAIL FROM:<%.*s>%s%s\r\n", (int)request->envelope_from.len, (const char *)request->envelope_from.ptr, body, utf8);
  reply = command(session, line, job->deadline_ms);
  if (reply.code != 250) return refused(session, job, PW_PHASE_MAIL, &reply);
  snprintf(line, sizeof line, "RCPT TO:<%.*s>\r\n", (int)request->envelope_to.len, (const char *)request->envelope_to.ptr);
  reply = command(session, line, job->deadline_ms);
  if (reply.code != 250 && reply.code != 251) return refused(session, job, PW_PHASE_RCPT, &reply);
  reply = command(session, "DATA\r\n", job->deadline_ms);
  if (reply.code != 354) return refused(session, job, PW_PHASE_DATA, &reply);
  if (!write_content(session, job)) {
    session_end(session);
    reply = (struct reply){.text = "the connection broke off within the content"};
    complete(job, PW_NOT_ATTEMPTED, PW_CAUSE_DISCONNECTED, &reply);
    return;
  }
  /* The content ends in CRLF. From here on only the reply tells. */
  reply = command(session, ".\r\n", job->deadline_ms);
  if (reply.code >= 200 && reply.code < 300) {
    complete(job, PW_ACCEPTED, 0, &reply);
  } else if (reply.code >= 400) {
    if (reply.code == 421) session_end(session);
    complete(job, reply.code < 500 ? PW_DEFERRED : PW_REJECTED, fault_of(PW_PHASE_END_OF_DATA, &reply), &reply);
  } else {
    session_end(session);
    reply.code = 0;
    complete(job, PW_UNKNOWN, PW_PHASE_END_OF_DATA, &reply);
  }
}

static void verify_one(struct relay *relay, struct session *session, const struct job *job) {
  struct reply reply = {0};
  uint32_t cause;
  int well = session->fd >= 0 && command(session, "NOOP\r\n", job->deadline_ms).code == 250;
  if (!well) {
    session_end(session);
    well = session_open(session, relay, job->deadline_ms, &cause, &reply);
  }
  pw_result result = {.struct_size = sizeof result, .status = well ? PW_OK : PW_ERROR_TEMPORARY};
  if (!well) result.text = (pw_slice){(const uint8_t *)reply.text, strlen(reply.text)};
  job->done(job->ctx, &result);
}

/* ---- The workers --------------------------------------------------------------------------------------------------------- */

static void *worker(void *argument) {
  struct relay *relay = argument;
  struct session session = {.relay = relay, .fd = -1};
  pthread_mutex_lock(&relay->lock);
  session.next = relay->sessions;
  relay->sessions = &session;
  for (;;) {
    while (relay->first == NULL && !relay->closing) {
      relay->waiting++;
      pthread_cond_wait(&relay->changed, &relay->lock);
      relay->waiting--;
    }
    struct job *job = relay->first;
    if (job == NULL) break;
    relay->first = job->next;
    if (relay->first == NULL) relay->last = &relay->first;
    pthread_mutex_unlock(&relay->lock);
    if (job->request != NULL && atomic_load(&relay->cut)) {
      stopping(job);
    } else if (job->request != NULL) {
      send_one(relay, &session, job);
    } else {
      verify_one(relay, &session, job);
    }
    free(job);
    pthread_mutex_lock(&relay->lock);
  }
  pthread_mutex_unlock(&relay->lock);
  if (session.fd >= 0) command(&session, "QUIT\r\n", now_ms() + 1000);
  session_end(&session);
  pthread_mutex_lock(&relay->lock);
  struct session **link = &relay->sessions;
  while (*link != &session) link = &(*link)->next;
  *link = session.next;
  relay->workers--;
  int last = relay->gone && relay->workers == 0;
  pthread_cond_broadcast(&relay->changed);
  pthread_mutex_unlock(&relay->lock);
  if (last) free(relay);
  return NULL;
}

/* Puts a job into the queue and sees to it that somebody takes it. PW_ERROR_REFUSED: the relay is closing. */
static uint32_t enqueue(struct relay *relay, struct job job, uint64_t timeout_ms) {
  struct job *own = malloc(sizeof *own);
  if (own == NULL) return PW_ERROR_TEMPORARY;
  *own = job;
  own->next = NULL;
  own->deadline_ms = now_ms() + timeout_ms;
  pthread_mutex_lock(&relay->lock);
  uint32_t status = relay->closing ? PW_ERROR_REFUSED : PW_OK;
  if (status == PW_OK && relay->waiting == 0 && relay->workers < relay->workers_max) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, worker, relay) == 0) {
      pthread_detach(thread);
      relay->workers++;
    }
    if (relay->workers == 0) status = PW_ERROR_TEMPORARY;
  }
  if (status != PW_OK) {
    pthread_mutex_unlock(&relay->lock);
    free(own);
    return status;
  }
  *relay->last = own;
  relay->last = &own->next;
  pthread_cond_broadcast(&relay->changed);
  pthread_mutex_unlock(&relay->lock);
  return PW_OK;
}

/* ---- The settings: a JSON object of strings and numbers -------------------------------------------------------------------- */

static void say(pw_problem problem, void *ctx, const char *pointer, const char *message) {
  pw_slice at = {(const uint8_t *)pointer, strlen(pointer)}, words = {(const uint8_t *)message, strlen(message)};
  problem(ctx, at, words);
}

/* Reads a JSON string or a bare word at `*at` into `out`. Returns 0 when there is none or it does not fit. */
static int token(const char **at, const char *end, char *out, size_t size) {
  size_t len = 0;
  int quoted = *at < end && **at == '"';
  if (quoted) (*at)++;
  for (; *at < end; (*at)++) {
    char c = **at;
    if (quoted ? c == '"' : c == ',' || c == '}') {
      if (quoted) (*at)++;
      out[len] = 0;
      return len > 0;
    }
    /* An escape has no place in a host's name. */
    if (c == '\\' || c == '{' || c == '[' || len + 1 >= size) return 0;
    out[len++] = c;
  }
  return 0;
}

static int read_settings(pw_slice json, struct relay *relay, pw_problem problem, void *ctx) {
  const char *at = (const char *)json.ptr, *end = at + json.len;
  int problems = 0;
  strcpy(relay->port, "25");
  if (at < end && *at == '{') at++;
  while (at < end && *at != '}') {
    char key[64], value[256], pointer[80];
    if (*at == ',') at++;
    if (!token(&at, end, key, sizeof key) || at >= end || *at++ != ':' || !token(&at, end, value, sizeof value)) {
      say(problem, ctx, "", "this example reads an object of short strings and numbers only");
      return 0;
    }
    snprintf(pointer, sizeof pointer, "/%s", key);
    if (strcmp(key, "host") == 0) {
      snprintf(relay->host, sizeof relay->host, "%s", value);
    } else if (strcmp(key, "port") == 0) {
      char *rest;
      long port = strtol(value, &rest, 10);
      if (*rest != 0 || port < 1 || port > 65535) {
        say(problem, ctx, pointer, "must be a number from 1 to 65535");
        problems++;
      } else {
        snprintf(relay->port, sizeof relay->port, "%ld", port);
      }
    } else {
      say(problem, ctx, pointer, "there is no such setting; there are `host` and `port`");
      problems++;
    }
  }
  if (relay->host[0] == 0) {
    say(problem, ctx, "/host", "must be the name or address of the relay");
    problems++;
  }
  return problems == 0;
}

/* ---- The table ------------------------------------------------------------------------------------------------------------- */

static uint32_t create(const pw_host *host, const pw_instance *config, pw_problem problem, void *problem_ctx, void **instance) {
  (void)host;
  struct relay *relay = calloc(1, sizeof *relay);
  if (relay == NULL) return PW_ERROR_TEMPORARY;
  if (!read_settings(config->settings, relay, problem, problem_ctx)) {
    free(relay);
    return PW_ERROR_REFUSED;
  }
  relay->workers_max = config->connections_max < WORKERS_MAX ? config->connections_max : WORKERS_MAX;
  pthread_mutex_init(&relay->lock, NULL);
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&relay->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
  relay->last = &relay->first;
  *instance = relay;
  return PW_OK;
}

static uint32_t in_flight_max(void *instance) {
  return ((struct relay *)instance)->workers_max;
}

static uint32_t send_message(void *instance, const pw_send_request *request, pw_send_done done, void *ctx) {
  struct job job = {.request = request, .send_done = done, .ctx = ctx};
  uint32_t status = enqueue(instance, job, request->timeout_ms);
  if (status != PW_ERROR_REFUSED) return status;
  stopping(&job);
  return PW_OK;
}

static uint32_t verify(void *instance, uint64_t timeout_ms, pw_done done, void *ctx) {
  return enqueue(instance, (struct job){.done = done, .ctx = ctx}, timeout_ms);
}

struct closing {
  struct relay *relay;
  uint64_t grace_ms;
  pw_done done;
  void *ctx;
};

/* Waits until all workers have ended, for so long at most. Called with the lock. */
static void wait_for_workers(struct relay *relay, uint64_t wait_ms) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += (time_t)(wait_ms / 1000);
  until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000;
  }
  while (relay->workers > 0 && pthread_cond_timedwait(&relay->changed, &relay->lock, &until) != ETIMEDOUT) {
  }
}

static void *close_slowly(void *argument) {
  struct closing closing = *(struct closing *)argument;
  free(argument);
  struct relay *relay = closing.relay;
  pthread_mutex_lock(&relay->lock);
  wait_for_workers(relay, closing.grace_ms);
  /* What still runs ends now, and says truly how far it had come. */
  atomic_store(&relay->cut, 1);
  for (struct session *session = relay->sessions; session != NULL; session = session->next) {
    if (session->fd >= 0) shutdown(session->fd, SHUT_RDWR);
  }
  wait_for_workers(relay, 1000);
  pthread_mutex_unlock(&relay->lock);
  pw_result result = {.struct_size = sizeof result, .status = PW_OK};
  closing.done(closing.ctx, &result);
  return NULL;
}

static uint32_t close_relay(void *instance, uint64_t grace_ms, pw_done done, void *ctx) {
  struct relay *relay = instance;
  pthread_mutex_lock(&relay->lock);
  relay->closing = 1; /* the workers end the jobs that are there, then say QUIT */
  pthread_cond_broadcast(&relay->changed);
  pthread_mutex_unlock(&relay->lock);
  struct closing *closing = malloc(sizeof *closing);
  pthread_t thread;
  if (closing == NULL) return PW_ERROR_TEMPORARY;
  *closing = (struct closing){relay, grace_ms, done, ctx};
  if (pthread_create(&thread, NULL, close_slowly, closing) != 0) {
    free(closing);
    return PW_ERROR_TEMPORARY;
  }
  pthread_detach(thread);
  return PW_OK;
}

static void destroy(void *instance) {
  struct relay *relay = instance;
  pthread_mutex_lock(&relay->lock);
  relay->closing = relay->gone = 1;
  int last = relay->workers == 0;
  pthread_cond_broadcast(&relay->changed);
  pthread_mutex_unlock(&relay->lock);
  if (last) free(relay);
}

static const pw_descriptor descriptor = {
    .struct_size = sizeof descriptor,
    .id = SLICE(ID),
    .version = SLICE(VERSION),
    .summary = SLICE("Example in C: plain SMTP to a relay nearby"),
    .settings_schema = SLICE(SCHEMA),
};

static const pw_smtp smtp = {
    .struct_size = sizeof smtp,
    .descriptor = &descriptor,
    .create = create,
    .in_flight_max = in_flight_max,
    .send = send_message,
    .verify = verify,
    .close = close_relay,
    .destroy = destroy,
};

static const void *get_factory(const char *kind) {
  return strcmp(kind, PW_KIND_SMTP) == 0 ? &smtp : NULL;
}

PW_EXPORT const pw_entry *postwarm_plugin_entry_v0(void) {
  static const pw_entry entry = {.struct_size = sizeof entry, .abi = PW_ABI, .get_factory = get_factory};
  return &entry;
}
