//! Makes a `.so` of an ordinary `impl SmtpFactory` or `impl FeedbackFactory`: [`export_plugin!`](crate::export_plugin).
//!
//! Invariant: one runtime of one worker thread for each loaded copy, started by the first call that needs it.
//! Invariant: no panic leaves a function of the table; every completion that is owed comes exactly once, by a guard's
//! `Drop` if by nothing else.

pub use crate::export_feedback::feedback_table;
pub use crate::export_instance::Exports;
pub use crate::export_smtp::smtp_table;

use crate::PollError;
use crate::abi::{self, Slice};
use crate::abi_convert::one_line;
use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use tokio::runtime::{Builder, Runtime};

/// Exports the one plugin of a `cdylib`, or one of each kind.
///
/// ```text
/// export_plugin!(smtp: MyFactory, id: "my-relay", schema: SCHEMA);
/// export_plugin!(feedback: MyLoopFactory, id: "my-loop", schema: SCHEMA);
/// ```
///
/// `id` is a literal and equals the descriptor's; it, the crate's version and the schema (a `const &str`) also stand in a
/// note that the host reads without running the library. The factory is a constant expression, such as a unit struct.
#[macro_export]
macro_rules! export_plugin {
    ($($kind:ident: $factory:expr, id: $id:literal, schema: $schema:expr);+ $(;)?) => {
        #[unsafe(no_mangle)]
        pub extern "C" fn postwarm_plugin_entry_v0() -> *const $crate::abi::Entry {
            unsafe extern "C" fn get_factory(kind: *const ::std::ffi::c_char) -> *const ::std::ffi::c_void {
                if kind.is_null() {
                    return ::std::ptr::null();
                }
                // SAFETY: the host passes a name that ends in NUL.
                let kind = unsafe { ::std::ffi::CStr::from_ptr(kind) };
                $($crate::export_plugin!(@factory $kind kind $factory);)+
                let _ = kind;
                ::std::ptr::null()
            }
            static ENTRY: $crate::abi::Entry = $crate::abi::Entry {
                struct_size: $crate::abi::size_of::<$crate::abi::Entry>(),
                abi: $crate::abi::ABI,
                get_factory: ::std::option::Option::Some(get_factory),
            };
            &ENTRY
        }
        $($crate::export_plugin!(@note $kind $id $schema);)+
    };
    (@factory smtp $kind:ident $factory:expr) => {
        $crate::export_plugin!(@table $kind $factory, KIND_SMTP, Smtp, SmtpFactory, SmtpClient, smtp_table);
    };
    (@factory feedback $kind:ident $factory:expr) => {
        $crate::export_plugin!(@table $kind $factory, KIND_FEEDBACK, Feedback, FeedbackFactory, FeedbackLoop, feedback_table);
    };
    (@table $kind:ident $factory:expr, $name:ident, $table:ident, $trait:ident, $plugin:ident, $make:ident) => {
        if $kind == $crate::abi::$name {
            struct Exported;
            impl $crate::export::Exports for Exported {
                type Plugin = dyn $crate::$plugin;
                fn descriptor() -> $crate::Descriptor {
                    $crate::$trait::descriptor(&$factory)
                }
                fn create(
                    instance: $crate::Instance,
                ) -> ::std::result::Result<::std::sync::Arc<Self::Plugin>, ::std::vec::Vec<$crate::SettingsProblem>> {
                    $crate::$trait::create(&$factory, instance)
                }
            }
            static TABLE: ::std::sync::OnceLock<$crate::abi::$table> = ::std::sync::OnceLock::new();
            return $crate::export::$make::<Exported>(&TABLE).cast();
        }
    };
    (@note smtp $id:literal $schema:expr) => { $crate::export_plugin!(@notes "postwarm.smtp/0" $id $schema); };
    (@note feedback $id:literal $schema:expr) => { $crate::export_plugin!(@notes "postwarm.feedback/0" $id $schema); };
    (@notes $kind:literal $id:literal $schema:expr) => {
        const _: () = {
            const POSTWARM_TEXT: &str = concat!("abi=0\nkind=", $kind, "\nid=", $id, "\nversion=", env!("CARGO_PKG_VERSION"), "\n");
            const POSTWARM_HEAD: &str = concat!($id, "\n");
            const POSTWARM_SCHEMA: &str = $schema;
            #[used]
            #[unsafe(link_section = ".note.postwarm")]
            static POSTWARM_PLUGIN: $crate::export::Note<{ $crate::export::note_len(POSTWARM_TEXT, "") }> =
                $crate::export::Note::new($crate::abi::NOTE_PLUGIN, POSTWARM_TEXT, "");
            #[used]
            #[unsafe(link_section = ".note.postwarm")]
            static POSTWARM_OF_SETTINGS: $crate::export::Note<{ $crate::export::note_len(POSTWARM_HEAD, POSTWARM_SCHEMA) }> =
                $crate::export::Note::new($crate::abi::NOTE_SCHEMA, POSTWARM_HEAD, POSTWARM_SCHEMA);
        };
    };
}

/// An ELF note, as it stands in the section. `N` is a multiple of 4.
#[repr(C, align(4))]
pub struct Note<const N: usize> {
    name_len: u32,
    text_len: u32,
    note_type: u32,
    name: [u8; 12],
    text: [u8; N],
}

/// The length of a note's text: both parts, a NUL, and padding to 4.
pub const fn note_len(head: &str, tail: &str) -> usize {
    (head.len() + tail.len() + 1).next_multiple_of(4)
}

impl<const N: usize> Note<N> {
    /// Makes the note of `head` and `tail`; `N` is [`note_len`] of them.
    pub const fn new(note_type: u32, head: &str, tail: &str) -> Note<N> {
        let (head, tail) = (head.as_bytes(), tail.as_bytes());
        let mut text = [0; N];
        let mut index = 0;
        while index < head.len() {
            text[index] = head[index];
            index += 1;
        }
        while index < head.len() + tail.len() {
            text[index] = tail[index - head.len()];
            index += 1;
        }
        Note { name_len: 9, text_len: N as u32, note_type, name: *b"postwarm\0\0\0\0", text }
    }
}

/// The runtime of this copy; `Err` in words where the system gives no thread.
pub(crate) fn runtime() -> Result<&'static Runtime, String> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postwarm-plugin")
            .enable_all()
            .build()
            .map_err(|error| format!("the plugin's runtime did not start: {error}"))
    });
    made.as_ref().map_err(Clone::clone)
}

/// Runs `body` and turns a panic into words.
pub(crate) fn caught<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| panic_words(payload.as_ref()))
}

/// Runs a future and turns a panic into words.
pub(crate) struct Caught<F>(pub F);

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, String>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: the only field is pinned with the whole and never moved out.
        let inner = unsafe { self.map_unchecked_mut(|caught| &mut caught.0) };
        match caught(|| inner.poll(context)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(words) => Poll::Ready(Err(words)),
        }
    }
}

fn panic_words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    one_line(&format!("the plugin panicked: {}", text.unwrap_or("without words")))
}

/// The completion that a verify, a close or a poll owes.
pub(crate) struct DoneGuard {
    done: Option<abi::Done>,
    ctx: usize,
}

impl DoneGuard {
    pub(crate) fn new(done: abi::Done, ctx: usize) -> DoneGuard {
        DoneGuard { done: Some(done), ctx }
    }

    /// Runs the call and completes with what came of it; what panicked may be tried again.
    pub(crate) async fn complete(mut self, call: impl Future<Output = Result<String, PollError>>) {
        let (status, text) = match Caught(call).await {
            Ok(Ok(text)) => (abi::OK, text),
            Ok(Err(PollError::Refused(words))) => (abi::ERROR_REFUSED, words),
            Ok(Err(PollError::Temporary(words))) | Err(words) => (abi::ERROR_TEMPORARY, words),
        };
        self.finish(status, &text);
    }

    fn finish(&mut self, status: u32, text: &str) {
        let Some(done) = self.done.take() else { return };
        let result = abi::CallResult { struct_size: abi::size_of::<abi::CallResult>(), status, text: Slice::new(text.as_bytes()) };
        // SAFETY: this is the one call that is owed; the host copies before it returns.
        unsafe { done(self.ctx as *mut c_void, &result) };
    }
}

impl Drop for DoneGuard {
    fn drop(&mut self) {
        self.finish(abi::ERROR_TEMPORARY, "the plugin gave the call up");
    }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
