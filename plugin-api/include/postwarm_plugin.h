/* The C form of Postwarm's plugin contract, ABI 0. docs/PLUGINS.md is the guide; this file is the reference.
 *
 * ABI 0 is free to change: a plugin built for it must be rebuilt when the host says so.
 *
 * Rules
 *   1. The first field of every struct is its size in bytes as its maker knows it, except in pw_slice, which is frozen.
 *      Structs grow at the end only. Read a field only where PW_HAS says that it is there.
 *   2. Nothing is ever freed by the other side. What a function is given is borrowed: until the function returns, or, for
 *      a request, until the completion that you call for it has returned. What you hand to a callback is copied before
 *      the callback returns.
 *   3. A function that takes a completion and returns PW_OK owes exactly one call of it, from any thread, possibly before
 *      the function itself returns. One that returns anything else owes none. A second call is ignored.
 *   4. `ctx` is a number in the shape of a pointer. Hand it back as it is; never look behind it.
 *   5. Functions of one loaded library are called by one thread of the host, one at a time. One that blocks stalls its
 *      own plugin and nobody else. Callbacks of the host may be called from any thread of yours, at any time.
 *   6. Unknown numbers are errors of the cautious kind: an unknown status is PW_UNKNOWN.
 *   7. No exception, panic or longjmp may leave a function of yours. A library is never unloaded.
 */
#ifndef POSTWARM_PLUGIN_H
#define POSTWARM_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PW_ABI 0

/* Whether the struct at `p` is large enough to have field `f`. */
#define PW_HAS(p, f) (offsetof(__typeof__(*(p)), f) + sizeof((p)->f) <= (p)->struct_size)

/* What a function returns, and the `status` of a pw_result. */
#define PW_OK 0u
#define PW_ERROR_TEMPORARY 1u /* it may work the next time */
#define PW_ERROR_REFUSED 2u   /* a person must do something first: settings, credentials, permissions */

/* Bytes: UTF-8 where it is text, never terminated by NUL, `ptr` may be NULL where `len` is 0. */
typedef struct pw_slice {
  const uint8_t *ptr;
  size_t len;
} pw_slice;

/* ---- What a plugin says of itself, and what an instance is made from --------------------------------------------- */

typedef struct pw_descriptor {
  uint32_t struct_size;
  uint32_t reserved;
  pw_slice id; /* the name that TOML uses: a-z, 0-9 and hyphens; as in the note */
  pw_slice version;
  pw_slice summary;         /* one sentence */
  pw_slice settings_schema; /* JSON Schema 2020-12 of `settings`; "writeOnly": true marks a secret. Empty: any object */
} pw_descriptor;

typedef struct pw_secret {
  uint32_t struct_size;
  uint32_t reserved;
  pw_slice key;
  pw_slice value; /* never log it */
} pw_secret;

typedef struct pw_instance {
  uint32_t struct_size;
  uint32_t connections_max; /* at least 1 */
  pw_slice organization;
  pw_slice name;
  pw_slice settings; /* a JSON object, without the secrets */
  pw_slice data_dir; /* you may keep state here; make it on first use */
  const pw_secret *const *secrets;
  uint32_t secrets_len;
  uint32_t reserved;
} pw_instance;

/* Says what is wrong with the settings: a JSON pointer ("/port", "" for the whole) and words. */
typedef void (*pw_problem)(void *ctx, pw_slice pointer, pw_slice message);

/* Lives as long as the process. */
typedef struct pw_host {
  uint32_t struct_size;
  uint32_t abi;
  const void *(*get_extension)(const char *id); /* NULL for what this host does not have; "postwarm.log/0" */
} pw_host;

/* Extension "postwarm.log/0". Lines are limited and carry the plugin's name. Never log addresses, content or secrets. */
#define PW_LOG_ERROR 1u
#define PW_LOG_WARN 2u
#define PW_LOG_INFO 3u
#define PW_LOG_DEBUG 4u
typedef struct pw_log {
  uint32_t struct_size;
  uint32_t reserved;
  void (*write)(uint32_t level, pw_slice plugin, pw_slice text);
} pw_log;

/* ---- Completions --------------------------------------------------------------------------------------------------- */

/* What became of a verify, a close or a poll. */
typedef struct pw_result {
  uint32_t struct_size;
  uint32_t status; /* PW_OK, PW_ERROR_... */
  pw_slice text;   /* the words of an error; the new cursor of a poll that went well */
} pw_result;

typedef void (*pw_done)(void *ctx, const pw_result *result);

/* ---- SMTP clients: get_factory("postwarm.smtp/0") ------------------------------------------------------------------ */

/* pw_outcome.status */
#define PW_ACCEPTED 1u      /* a positive reply to the end of data of exactly this message was read */
#define PW_DEFERRED 2u      /* a 4yz reply */
#define PW_REJECTED 3u      /* a 5yz reply */
#define PW_NOT_ATTEMPTED 4u /* certainly unsent: no byte of the content can have reached the server */
#define PW_UNKNOWN 5u       /* the end of data may have reached the server and no reply to it was read */

/* pw_outcome.fault: whose fault a refusal is. */
#define PW_FAULT_RECIPIENT 1u
#define PW_FAULT_ACCOUNT 2u
#define PW_FAULT_DOMAIN 3u
#define PW_FAULT_CONTENT 4u
#define PW_FAULT_NETWORK 5u

/* pw_outcome.cause of PW_NOT_ATTEMPTED. All but DISCONNECTED, STOPPING and UNSUPPORTED make the host turn to the next client. */
#define PW_CAUSE_CONNECT 1u
#define PW_CAUSE_TLS 2u
#define PW_CAUSE_AUTHENTICATE 3u
#define PW_CAUSE_SESSION 4u /* the server turned the session away, or ended it before it had answered any message */
#define PW_CAUSE_DISCONNECTED 5u /* the connection broke before the end of data left */
#define PW_CAUSE_STOPPING 6u
#define PW_CAUSE_INTERNAL 7u
#define PW_CAUSE_UNSUPPORTED 8u /* this message needs what the server does not offer, such as SMTPUTF8; others go on */

/* pw_outcome.phase of PW_UNKNOWN. */
#define PW_PHASE_CONNECT 1u
#define PW_PHASE_GREETING 2u
#define PW_PHASE_EHLO 3u
#define PW_PHASE_STARTTLS 4u
#define PW_PHASE_AUTHENTICATE 5u
#define PW_PHASE_MAIL 6u
#define PW_PHASE_RCPT 7u
#define PW_PHASE_DATA 8u
#define PW_PHASE_CONTENT 9u
#define PW_PHASE_END_OF_DATA 10u
#define PW_PHASE_QUIT 11u

/* pw_send_request.flags */
#define PW_EIGHT_BIT 1u /* octets above 127 in the content (8BITMIME) */
#define PW_SMTPUTF8 2u  /* an address or a header is not ASCII (SMTPUTF8) */

/* One message for one recipient. The content is RFC 5322 clean: CRLF, lines of at most 998 octets, no bare CR or LF, it
 * ends in CRLF. Add nothing but dot-stuffing. */
typedef struct pw_send_request {
  uint32_t struct_size;
  uint32_t flags;
  uint64_t timeout_ms; /* from the call on */
  pw_slice delivery;   /* for logs and idempotency keys; the same on every attempt */
  pw_slice envelope_from; /* without angle brackets; empty for the null sender */
  pw_slice envelope_to;
  const pw_slice *content; /* in order; the first is the header with its blank line, the others are the body */
  uint32_t content_len;
  uint32_t reserved;
} pw_send_request;

typedef struct pw_outcome {
  uint32_t struct_size;
  uint32_t status;
  uint32_t code; /* the reply: 2yz with ACCEPTED, 4yz with DEFERRED, 5yz with REJECTED; a contradiction is PW_UNKNOWN */
  uint32_t enhanced_class; /* RFC 3463: 2, 4 or 5; 0 where there is none */
  uint32_t enhanced_subject;
  uint32_t enhanced_detail;
  uint32_t fault; /* with DEFERRED and REJECTED */
  uint32_t cause; /* with NOT_ATTEMPTED */
  uint32_t phase; /* with UNKNOWN */
  uint32_t reserved;
  uint64_t retry_after_ms; /* with DEFERRED; 0 where the server said nothing */
  pw_slice text;           /* the reply behind its codes, or your words; 512 octets are kept */
} pw_outcome;

typedef void (*pw_send_done)(void *ctx, const pw_outcome *outcome);

typedef struct pw_smtp {
  uint32_t struct_size;
  uint32_t reserved;
  const pw_descriptor *descriptor;
  /* Makes an instance, or calls `problem` for everything that is wrong and returns PW_ERROR_REFUSED. No I/O, no thread. */
  uint32_t (*create)(const pw_host *host, const pw_instance *config, pw_problem problem, void *problem_ctx, void **instance);
  /* The number of sends that keep every connection busy; at least 1. Asked once, after create. */
  uint32_t (*in_flight_max)(void *instance);
  uint32_t (*send)(void *instance, const pw_send_request *request, pw_send_done done, void *ctx);
  /* Advice that nobody waits for the answer to `ctx` any more. The completion is still owed. May be NULL. */
  void (*cancel)(void *instance, void *ctx);
  /* Connects and authenticates without sending mail. */
  uint32_t (*verify)(void *instance, uint64_t timeout_ms, pw_done done, void *ctx);
  /* Take no new message, let the running ones end within the grace, QUIT, close. Idempotent; a second call may come while the
   * first one waits, and leave less time. */
  uint32_t (*close)(void *instance, uint64_t grace_ms, pw_done done, void *ctx);
  /* Called once, when no completion is owed any more. */
  void (*destroy)(void *instance);
} pw_smtp;

/* ---- Feedback loops: get_factory("postwarm.feedback/0") -------------------------------------------------------------- */

/* capabilities(): what an instance can know. */
#define PW_CAN_DELIVERED 1u
#define PW_CAN_SPAM 2u
#define PW_CAN_OPENED 4u
#define PW_CAN_READ 8u
#define PW_CAN_BOUNCED 16u
#define PW_CAN_UNSUBSCRIBED 32u
#define PW_CAN_AGGREGATES 64u

/* pw_report.report */
#define PW_REPORT_MESSAGE 1u
#define PW_REPORT_AGGREGATE 2u
#define PW_REPORT_NO_DATA 3u

/* pw_report.fact */
#define PW_FACT_DELIVERED 1u
#define PW_FACT_SPAM 2u
#define PW_FACT_OPENED 3u
#define PW_FACT_READ 4u
#define PW_FACT_BOUNCED 5u
#define PW_FACT_UNSUBSCRIBED 6u

typedef struct pw_report {
  uint32_t struct_size;
  uint32_t report;
  uint32_t fact; /* of a message */
  uint32_t reserved;
  int64_t at_ms;       /* of a message: milliseconds since 1970 UTC; 0 where the source does not tell */
  pw_slice message_id; /* of a message, without angle brackets */
  pw_slice detail;     /* of a message: the source's words; 512 octets are kept; never an address */
  pw_slice domain;     /* of an aggregate, of no data */
  pw_slice date;       /* of an aggregate, of no data: YYYY-MM-DD */
  pw_slice metric;     /* of an aggregate: snake case with its unit, "spam_ratio" */
  double value;        /* of an aggregate */
} pw_report;

typedef struct pw_watched {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t position; /* where it stands in the list; grows */
  int64_t sent_at_ms;
  pw_slice message_id;
  pw_slice domain; /* of the recipient */
} pw_watched;

typedef void (*pw_take_watched)(void *take_ctx, const pw_watched *watched);

typedef struct pw_poll_request {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t timeout_ms;
  pw_slice cursor; /* what the last successful poll returned; empty at first */
  /* Takes one report; blocks shortly. Returns 1 to go on, 0 when the host wants no more in this poll. `ctx` is the one
   * that came with the poll. */
  uint32_t (*push)(void *ctx, const pw_report *report);
  /* Calls `take` for up to `max` watched messages behind `after` (a position; 0 starts), email by email. Returns how many.
   * Blocks shortly. */
  uint32_t (*watch_page)(void *ctx, uint64_t after, uint32_t max, pw_take_watched take, void *take_ctx);
} pw_poll_request;

typedef struct pw_feedback {
  uint32_t struct_size;
  uint32_t reserved;
  const pw_descriptor *descriptor;
  uint32_t (*create)(const pw_host *host, const pw_instance *config, pw_problem problem, void *problem_ctx, void **instance);
  uint32_t (*capabilities)(void *instance); /* asked once, after create */
  /* Pushes what is new since the cursor and completes with the new cursor. After an error the old cursor is used again. */
  uint32_t (*poll)(void *instance, const pw_poll_request *request, pw_done done, void *ctx);
  void (*cancel)(void *instance, void *ctx); /* as in pw_smtp */
  void (*destroy)(void *instance);
} pw_feedback;

/* ---- The library ------------------------------------------------------------------------------------------------------ */

typedef struct pw_entry {
  uint32_t struct_size;
  uint32_t abi; /* PW_ABI */
  /* The table of "postwarm.smtp/0" or "postwarm.feedback/0", which lives as long as the process; NULL for any other. */
  const void *(*get_factory)(const char *kind);
} pw_entry;

#define PW_KIND_SMTP "postwarm.smtp/0"
#define PW_KIND_FEEDBACK "postwarm.feedback/0"

/* The one symbol that a library exports. Build with -fvisibility=hidden and mark it with PW_EXPORT. */
#define PW_EXPORT __attribute__((visibility("default")))
PW_EXPORT const pw_entry *postwarm_plugin_entry_v0(void);

/* The note, which the host reads without running the library: PW_PLUGIN_NOTE(PW_KIND_SMTP, "my-relay", "1.0.0"), once for
 * each factory, at file scope. The arguments are string literals. PW_PLUGIN_SCHEMA("my-relay", "{...}") adds the schema,
 * so that TOML is checked without running the library either. */
#define PW_NOTE_PLUGIN 1u
#define PW_NOTE_SCHEMA 2u
#define PW_STRING_(x) #x
#define PW_STRING(x) PW_STRING_(x)
#define PW_JOIN_(a, b) a##b
#define PW_JOIN(a, b) PW_JOIN_(a, b)
#define PW_NOTE_(type_, text_)                                                                            \
  __attribute__((section(".note.postwarm"), used, aligned(4))) static const struct {                      \
    uint32_t name_len, text_len, type;                                                                    \
    char name[12];                                                                                        \
    char text[(sizeof(text_) + 3) / 4 * 4];                                                               \
  } PW_JOIN(pw_note_, __COUNTER__) = {9, (sizeof(text_) + 3) / 4 * 4, type_, "postwarm", text_}
#define PW_PLUGIN_NOTE(kind, id, version) \
  PW_NOTE_(PW_NOTE_PLUGIN, "abi=" PW_STRING(PW_ABI) "\nkind=" kind "\nid=" id "\nversion=" version "\n")
#define PW_PLUGIN_SCHEMA(id, schema) PW_NOTE_(PW_NOTE_SCHEMA, id "\n" schema)

#ifdef __cplusplus
}
#endif
#endif
