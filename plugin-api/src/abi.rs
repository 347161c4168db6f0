//! The C tables of ABI 0, field for field as in `include/postwarm_plugin.h`, which is the reference for every rule.
//!
//! Invariant: every struct but [`Slice`] starts with its size and grows at the end only; no Rust type crosses.
//! Invariant: what stands here has no behaviour; `abi_convert` translates, `export` and the host's registry call.

use std::ffi::{c_char, c_void};

/// The version that this crate speaks.
pub const ABI: u32 = 0;
/// The symbol that a library exports.
pub const ENTRY_SYMBOL: &std::ffi::CStr = c"postwarm_plugin_entry_v0";
/// The name of the table of SMTP clients.
pub const KIND_SMTP: &std::ffi::CStr = c"postwarm.smtp/0";
/// The name of the table of feedback loops.
pub const KIND_FEEDBACK: &std::ffi::CStr = c"postwarm.feedback/0";
/// The host's extension for log lines.
pub const EXTENSION_LOG: &std::ffi::CStr = c"postwarm.log/0";
/// The ELF section of the notes.
pub const NOTE_SECTION: &str = ".note.postwarm";
/// The owner's name in each note, with its NUL.
pub const NOTE_NAME: &[u8; 9] = b"postwarm\0";
/// Type of the note that names a plugin.
pub const NOTE_PLUGIN: u32 = 1;
/// Type of the note that holds a settings schema.
pub const NOTE_SCHEMA: u32 = 2;

pub const OK: u32 = 0;
pub const ERROR_TEMPORARY: u32 = 1;
pub const ERROR_REFUSED: u32 = 2;

pub const ACCEPTED: u32 = 1;
pub const DEFERRED: u32 = 2;
pub const REJECTED: u32 = 3;
pub const NOT_ATTEMPTED: u32 = 4;
pub const UNKNOWN: u32 = 5;

pub const EIGHT_BIT: u32 = 1;
pub const SMTPUTF8: u32 = 2;

pub const LOG_ERROR: u32 = 1;
pub const LOG_WARN: u32 = 2;
pub const LOG_INFO: u32 = 3;
pub const LOG_DEBUG: u32 = 4;

pub const REPORT_MESSAGE: u32 = 1;
pub const REPORT_AGGREGATE: u32 = 2;
pub const REPORT_NO_DATA: u32 = 3;

/// Borrowed bytes. Frozen.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    pub ptr: *const u8,
    pub len: usize,
}

impl Slice {
    /// The empty slice.
    pub const EMPTY: Slice = Slice { ptr: std::ptr::null(), len: 0 };

    /// Lends `bytes`; the borrow is the caller's to keep.
    pub const fn new(bytes: &[u8]) -> Slice {
        Slice { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// Returns the bytes.
    ///
    /// # Safety
    /// `ptr` points to `len` readable bytes that nobody writes for `'a`, or `len` is 0.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.len == 0 || self.ptr.is_null() {
            return &[];
        }
        // SAFETY: the caller vouches for pointer, length and lifetime.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// Returns the bytes as text; what is not UTF-8 is replaced.
    ///
    /// # Safety
    /// As for [`Slice::bytes`], until this returns.
    pub unsafe fn text(self) -> String {
        // SAFETY: the caller vouches for the bytes; they are copied here.
        String::from_utf8_lossy(unsafe { self.bytes() }).into_owned()
    }
}

#[repr(C)]
#[derive(Debug)]
pub struct Descriptor {
    pub struct_size: u32,
    pub reserved: u32,
    pub id: Slice,
    pub version: Slice,
    pub summary: Slice,
    pub settings_schema: Slice,
}

#[repr(C)]
#[derive(Debug)]
pub struct Secret {
    pub struct_size: u32,
    pub reserved: u32,
    pub key: Slice,
    pub value: Slice,
}

#[repr(C)]
#[derive(Debug)]
pub struct Instance {
    pub struct_size: u32,
    pub connections_max: u32,
    pub organization: Slice,
    pub name: Slice,
    pub settings: Slice,
    pub data_dir: Slice,
    pub secrets: *const *const Secret,
    pub secrets_len: u32,
    pub reserved: u32,
}

pub type Problem = unsafe extern "C" fn(ctx: *mut c_void, pointer: Slice, message: Slice);

#[repr(C)]
#[derive(Debug)]
pub struct Host {
    pub struct_size: u32,
    pub abi: u32,
    pub get_extension: Option<unsafe extern "C" fn(id: *const c_char) -> *const c_void>,
}

#[repr(C)]
#[derive(Debug)]
pub struct Log {
    pub struct_size: u32,
    pub reserved: u32,
    pub write: Option<unsafe extern "C" fn(level: u32, plugin: Slice, text: Slice)>,
}

/// What became of a verify, a close or a poll.
#[repr(C)]
#[derive(Debug)]
pub struct CallResult {
    pub struct_size: u32,
    pub status: u32,
    pub text: Slice,
}

pub type Done = unsafe extern "C" fn(ctx: *mut c_void, result: *const CallResult);

#[repr(C)]
#[derive(Debug)]
pub struct SendRequest {
    pub struct_size: u32,
    pub flags: u32,
    pub timeout_ms: u64,
    pub delivery: Slice,
    pub envelope_from: Slice,
    pub envelope_to: Slice,
    pub content: *const Slice,
    pub content_len: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Debug)]
pub struct Outcome {
    pub struct_size: u32,
    pub status: u32,
    pub code: u32,
    pub enhanced_class: u32,
    pub enhanced_subject: u32,
    pub enhanced_detail: u32,
    pub fault: u32,
    pub cause: u32,
    pub phase: u32,
    pub reserved: u32,
    pub retry_after_ms: u64,
    pub text: Slice,
}

pub type SendDone = unsafe extern "C" fn(ctx: *mut c_void, outcome: *const Outcome);

pub type Create = unsafe extern "C" fn(
    host: *const Host,
    config: *const Instance,
    problem: Problem,
    problem_ctx: *mut c_void,
    instance: *mut *mut c_void,
) -> u32;

#[repr(C)]
#[derive(Debug)]
pub struct Smtp {
    pub struct_size: u32,
    pub reserved: u32,
    pub descriptor: *const Descriptor,
    pub create: Option<Create>,
    pub in_flight_max: Option<unsafe extern "C" fn(instance: *mut c_void) -> u32>,
    pub send: Option<unsafe extern "C" fn(*mut c_void, *const SendRequest, SendDone, ctx: *mut c_void) -> u32>,
    pub cancel: Option<unsafe extern "C" fn(instance: *mut c_void, ctx: *mut c_void)>,
    pub verify: Option<unsafe extern "C" fn(instance: *mut c_void, timeout_ms: u64, Done, ctx: *mut c_void) -> u32>,
    pub close: Option<unsafe extern "C" fn(instance: *mut c_void, grace_ms: u64, Done, ctx: *mut c_void) -> u32>,
    pub destroy: Option<unsafe extern "C" fn(instance: *mut c_void)>,
}

#[repr(C)]
#[derive(Debug)]
pub struct Report {
    pub struct_size: u32,
    pub report: u32,
    pub fact: u32,
    pub reserved: u32,
    pub at_ms: i64,
    pub message_id: Slice,
    pub detail: Slice,
    pub domain: Slice,
    pub date: Slice,
    pub metric: Slice,
    pub value: f64,
}

#[repr(C)]
#[derive(Debug)]
pub struct Watched {
    pub struct_size: u32,
    pub reserved: u32,
    pub position: u64,
    pub sent_at_ms: i64,
    pub message_id: Slice,
    pub domain: Slice,
}

pub type TakeWatched = unsafe extern "C" fn(take_ctx: *mut c_void, watched: *const Watched);
pub type Push = unsafe extern "C" fn(ctx: *mut c_void, report: *const Report) -> u32;
pub type WatchPage = unsafe extern "C" fn(ctx: *mut c_void, after: u64, max: u32, TakeWatched, take_ctx: *mut c_void) -> u32;

#[repr(C)]
#[derive(Debug)]
pub struct PollRequest {
    pub struct_size: u32,
    pub reserved: u32,
    pub timeout_ms: u64,
    pub cursor: Slice,
    pub push: Option<Push>,
    pub watch_page: Option<WatchPage>,
}

#[repr(C)]
#[derive(Debug)]
pub struct Feedback {
    pub struct_size: u32,
    pub reserved: u32,
    pub descriptor: *const Descriptor,
    pub create: Option<Create>,
    pub capabilities: Option<unsafe extern "C" fn(instance: *mut c_void) -> u32>,
    pub poll: Option<unsafe extern "C" fn(*mut c_void, *const PollRequest, Done, ctx: *mut c_void) -> u32>,
    pub cancel: Option<unsafe extern "C" fn(instance: *mut c_void, ctx: *mut c_void)>,
    pub destroy: Option<unsafe extern "C" fn(instance: *mut c_void)>,
}

#[repr(C)]
#[derive(Debug)]
pub struct Entry {
    pub struct_size: u32,
    pub abi: u32,
    pub get_factory: Option<unsafe extern "C" fn(kind: *const c_char) -> *const c_void>,
}

/// The type of the exported symbol.
pub type EntryFn = unsafe extern "C" fn() -> *const Entry;

// SAFETY: tables are written once, before anybody sees them, and only read from then on.
unsafe impl Sync for Entry {}
// SAFETY: as above.
unsafe impl Sync for Host {}
// SAFETY: as above.
unsafe impl Sync for Log {}
// SAFETY: as above; `descriptor` points to memory that lives as long as the process.
unsafe impl Sync for Smtp {}
// SAFETY: as for `Smtp`.
unsafe impl Send for Smtp {}
// SAFETY: as for `Smtp`.
unsafe impl Sync for Feedback {}
// SAFETY: as for `Smtp`.
unsafe impl Send for Feedback {}

/// The size of `T` as its `struct_size` says it.
pub const fn size_of<T>() -> u32 {
    std::mem::size_of::<T>() as u32
}

macro_rules! layout {
    ($($type:ident $size:literal { $($field:ident $offset:literal),* $(,)? })*) => {
        $(
            const _: () = assert!(std::mem::size_of::<$type>() == $size);
            $(const _: () = assert!(std::mem::offset_of!($type, $field) == $offset);)*
        )*
        /// Every size and offset, one a line, for the comparison with the C header.
        #[cfg(test)]
        fn layout_lines() -> Vec<(&'static str, Option<&'static str>, usize)> {
            vec![$(
                (stringify!($type), None, std::mem::size_of::<$type>()),
                $((stringify!($type), Some(stringify!($field)), std::mem::offset_of!($type, $field)),)*
            )*]
        }
    };
}

#[cfg(target_pointer_width = "64")]
layout! {
    Slice 16 { ptr 0, len 8 }
    Descriptor 72 { struct_size 0, reserved 4, id 8, version 24, summary 40, settings_schema 56 }
    Secret 40 { struct_size 0, reserved 4, key 8, value 24 }
    Instance 88 { struct_size 0, connections_max 4, organization 8, name 24, settings 40, data_dir 56, secrets 72, secrets_len 80, reserved 84 }
    Host 16 { struct_size 0, abi 4, get_extension 8 }
    Log 16 { struct_size 0, reserved 4, write 8 }
    CallResult 24 { struct_size 0, status 4, text 8 }
    SendRequest 80 {
        struct_size 0, flags 4, timeout_ms 8, delivery 16, envelope_from 32, envelope_to 48, content 64, content_len 72, reserved 76,
    }
    Outcome 64 {
        struct_size 0, status 4, code 8, enhanced_class 12, enhanced_subject 16, enhanced_detail 20, fault 24, cause 28, phase 32,
        reserved 36, retry_after_ms 40, text 48,
    }
    Smtp 72 {
        struct_size 0, reserved 4, descriptor 8, create 16, in_flight_max 24, send 32, cancel 40, verify 48, close 56, destroy 64,
    }
    Report 112 {
        struct_size 0, report 4, fact 8, reserved 12, at_ms 16, message_id 24, detail 40, domain 56, date 72, metric 88, value 104,
    }
    Watched 56 { struct_size 0, reserved 4, position 8, sent_at_ms 16, message_id 24, domain 40 }
    PollRequest 48 { struct_size 0, reserved 4, timeout_ms 8, cursor 16, push 32, watch_page 40 }
    Feedback 56 { struct_size 0, reserved 4, descriptor 8, create 16, capabilities 24, poll 32, cancel 40, destroy 48 }
    Entry 16 { struct_size 0, abi 4, get_factory 8 }
}

#[cfg(test)]
#[path = "abi_tests.rs"]
mod tests;
