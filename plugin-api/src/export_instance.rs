//! What both tables have: how they are made once, and the instance behind the pointer from `create` to `destroy`.
//!
//! Invariant: the pointer is a boxed [`Exported`] of the table's own trait, made by [`create`] and freed by [`destroy`].

use crate::abi::{self, Slice};
use crate::abi_convert::read_instance;
use crate::export::{caught, runtime};
use crate::{Descriptor, Instance, SettingsProblem};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

/// What a table is made of: a factory of either kind; the macro implements it.
pub trait Exports: 'static {
    /// What the factory makes, `dyn SmtpClient` or `dyn FeedbackLoop`.
    type Plugin: ?Sized;
    fn descriptor() -> Descriptor;
    fn create(instance: Instance) -> Result<Arc<Self::Plugin>, Vec<SettingsProblem>>;
}

/// An instance of a plugin, `dyn SmtpClient` or `dyn FeedbackLoop`.
pub(crate) struct Exported<P: ?Sized> {
    pub plugin: Arc<P>,
    running: Running,
}

impl<P: ?Sized> Exported<P> {
    /// Runs what a call owes; `cancel` with the same `ctx` ends it.
    pub(crate) fn spawn(&self, runtime: &Runtime, ctx: usize, call: impl Future<Output = ()> + Send + 'static) {
        self.running.add(ctx, runtime.spawn(call).abort_handle());
    }
}

/// The table that `make` makes once of `E`'s descriptor; null where the descriptor panics.
pub(crate) fn table_once<E: Exports, T>(table: &'static OnceLock<T>, make: impl FnOnce(*const abi::Descriptor) -> T) -> *const T {
    if let Some(made) = table.get() {
        return made;
    }
    let Ok(descriptor) = caught(E::descriptor) else { return std::ptr::null() };
    table.get_or_init(|| make(leak_descriptor(descriptor)))
}

/// Reads the configuration, makes an instance, or reports problems.
///
/// # Safety
/// As the header says of `create`.
pub(crate) unsafe extern "C" fn create<E: Exports>(
    _host: *const abi::Host,
    config: *const abi::Instance,
    problem: abi::Problem,
    problem_ctx: *mut c_void,
    instance: *mut *mut c_void,
) -> u32 {
    // SAFETY: the host lends the configuration for the length of the call.
    let read = unsafe { read_instance(config) };
    let made = read.and_then(|config| caught(|| E::create(config)));
    let problems = match made {
        Ok(Ok(plugin)) => {
            let made = Exported { plugin, running: Running::default() };
            // SAFETY: the host passes a place for the pointer.
            unsafe { instance.write(Box::into_raw(Box::new(made)).cast()) };
            return abi::OK;
        }
        Ok(Err(problems)) => problems,
        Err(words) => vec![SettingsProblem::new("", words)],
    };
    for one in &problems {
        // SAFETY: the host's function copies both texts before it returns.
        unsafe { problem(problem_ctx, Slice::new(one.pointer.as_bytes()), Slice::new(one.message.as_bytes())) };
    }
    abi::ERROR_REFUSED
}

/// # Safety
/// `instance` came from `create` of a table of `P` and was not destroyed.
pub(crate) unsafe fn exported<'a, P: ?Sized>(instance: *mut c_void) -> &'a Exported<P> {
    // SAFETY: the caller vouches for the pointer.
    unsafe { &*instance.cast::<Exported<P>>() }
}

pub(crate) unsafe extern "C" fn cancel<P: ?Sized>(instance: *mut c_void, ctx: *mut c_void) {
    // SAFETY: the host passes what `create` made.
    unsafe { exported::<P>(instance) }.running.cancel(ctx as usize);
}

pub(crate) unsafe extern "C" fn destroy<P: ?Sized>(instance: *mut c_void) {
    // A plugin may hold what is at home in the runtime, so it is dropped within it.
    let entered = runtime().map(|runtime| runtime.enter());
    // SAFETY: the pointer came from `create`, and the host calls this once, last.
    let boxed = unsafe { Box::from_raw(instance.cast::<Exported<P>>()) };
    // A plugin that panics when it is dropped has nobody left to tell.
    drop(caught(|| drop(boxed)));
    drop(entered);
}

/// The moment a timeout ends; a very long one is a year.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    Instant::now() + timeout.min(YEAR)
}

/// A descriptor that lives as long as the process.
fn leak_descriptor(descriptor: Descriptor) -> *const abi::Descriptor {
    let leaked: &'static Descriptor = Box::leak(Box::new(descriptor));
    Box::leak(Box::new(abi::Descriptor {
        struct_size: abi::size_of::<abi::Descriptor>(),
        reserved: 0,
        id: Slice::new(leaked.id.as_bytes()),
        version: Slice::new(leaked.version.as_bytes()),
        summary: Slice::new(leaked.summary.as_bytes()),
        settings_schema: Slice::new(leaked.settings_schema.as_bytes()),
    }))
}

/// The running tasks of an instance, by their completion's `ctx`, so that `cancel` finds them.
#[derive(Default)]
struct Running(Mutex<HashMap<usize, AbortHandle>>);

impl Running {
    /// Remembers a task, and forgets those that have ended.
    fn add(&self, ctx: usize, task: AbortHandle) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A task may end before it is added: sweep when the map has doubled, which keeps it within the running ones.
        if tasks.len() == tasks.capacity() {
            tasks.retain(|_, task| !task.is_finished());
        }
        tasks.insert(ctx, task);
    }

    /// Ends a task; its guard completes.
    fn cancel(&self, ctx: usize) {
        if let Some(task) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&ctx) {
            task.abort();
        }
    }
}
