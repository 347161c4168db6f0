//! A loaded library: its thread, its tables, and the instances that it made.
//!
//! Invariant: a library is loaded with all its symbols resolved, hidden from others, and never unloaded.
//! Invariant: its functions, and its constructors too, run on the library's own [`Lane`].

use super::lane::Lane;
use super::note::Note;
use postwarm_plugin_api::abi_convert::{lend_instance, read};
use postwarm_plugin_api::{Descriptor, Instance, Kind, SettingsProblem, abi};
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a library may take to load and to show its tables.
const LOAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a library may take to make an instance, which does no I/O.
const CREATE_PATIENCE: Duration = Duration::from_secs(5);
/// The log lines a second that all plugins together may write.
const LOG_LINES_PER_SECOND: u32 = 200;

/// One loaded copy of a library.
pub(super) struct Loaded {
    pub lane: Lane,
    pub smtp: Option<Table<abi::Smtp>>,
    pub feedback: Option<Table<abi::Feedback>>,
}

/// A table and what it says of itself.
pub(super) struct Table<T> {
    pub table: Arc<T>,
    pub descriptor: Descriptor,
}

/// Why a library was not loaded.
#[derive(Debug)]
pub(super) enum NotLoaded {
    /// Its constructors did not return within [`LOAD_PATIENCE`].
    Blocked,
    /// In words.
    Failed(String),
}

impl NotLoaded {
    /// Says it in words; `record` is the file that keeps what blocked from being tried again.
    pub(super) fn words(self, record: &Path) -> String {
        match self {
            NotLoaded::Failed(words) => words,
            NotLoaded::Blocked => format!(
                "it did not finish loading within {} s: its constructors block; to have it tried again, remove {} and restart",
                LOAD_PATIENCE.as_secs(),
                record.display()
            ),
        }
    }
}

impl Loaded {
    /// Loads the private copy at `path`, whose notes are `notes`. Blocks for [`LOAD_PATIENCE`] at most.
    pub(super) fn load(path: &Path, notes: &[Note]) -> Result<Loaded, NotLoaded> {
        let lane = Lane::start(&notes[0].id).map_err(NotLoaded::Failed)?;
        let (path, notes) = (path.to_owned(), notes.to_vec());
        let opened = lane.ask(LOAD_PATIENCE, move || open(&path, &notes));
        let (smtp, feedback) = opened.ok_or(NotLoaded::Blocked)?.map_err(NotLoaded::Failed)?;
        Ok(Loaded { lane, smtp, feedback })
    }
}

type Tables = (Option<Table<abi::Smtp>>, Option<Table<abi::Feedback>>);

fn open(path: &Path, notes: &[Note]) -> Result<Tables, String> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    // SAFETY: the file is our own copy, its ELF structure was checked, and an operator named the plugin in TOML. What its
    // constructors do cannot be vouched for; that is what naming it means.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        format!("it does not load: {error}{}", cause.unwrap_or_default())
    })?;
    // SAFETY: the type is that of the header.
    let entry = unsafe { library.get::<abi::EntryFn>(abi::ENTRY_SYMBOL.to_bytes_with_nul()) }.map(|symbol| *symbol);
    // Its code may have started threads; unmapping it could never be right.
    std::mem::forget(library);
    let entry = entry.map_err(|_| format!("it does not export `{}`", abi::ENTRY_SYMBOL.to_string_lossy()))?;
    // SAFETY: the library outlives the process; the entry follows the header.
    let entry = unsafe { read(entry()) };
    if entry.abi != abi::ABI {
        return Err(super::note::wrong_abi(&entry.abi.to_string()));
    }
    let get_factory = entry.get_factory.ok_or("its entry has no get_factory")?;
    let (mut smtp, mut feedback) = (None, None);
    for note in notes {
        let name = match note.kind {
            Kind::SmtpClient => abi::KIND_SMTP,
            Kind::FeedbackLoop => abi::KIND_FEEDBACK,
        };
        // SAFETY: the name ends in NUL; the function follows the header.
        let table = unsafe { get_factory(name.as_ptr()) };
        if table.is_null() {
            return Err(format!("its note names `{}`, but it has no such table", name.to_string_lossy()));
        }
        match note.kind {
            Kind::SmtpClient => {
                // SAFETY: a table of this name has this type.
                let table = unsafe { read(table.cast::<abi::Smtp>()) };
                let complete = [table.create.is_some(), table.in_flight_max.is_some(), table.send.is_some(), table.destroy.is_some()];
                smtp = Some(checked(note, table.descriptor, complete.iter().all(|there| *there), table)?);
            }
            Kind::FeedbackLoop => {
                // SAFETY: as above.
                let table = unsafe { read(table.cast::<abi::Feedback>()) };
                let complete = [table.create.is_some(), table.capabilities.is_some(), table.poll.is_some(), table.destroy.is_some()];
                feedback = Some(checked(note, table.descriptor, complete.iter().all(|there| *there), table)?);
            }
        }
    }
    Ok((smtp, feedback))
}

fn checked<T>(note: &Note, descriptor: *const abi::Descriptor, complete: bool, table: T) -> Result<Table<T>, String> {
    if !complete {
        return Err("its table lacks a function that is not optional".into());
    }
    // SAFETY: the descriptor lives as long as the library.
    let (id, version, summary, schema) = unsafe {
        let c = read(descriptor);
        (c.id.text(), c.version.text(), c.summary.text(), c.settings_schema.text())
    };
    if id != note.id || version != note.version {
        return Err(format!("its note says `{}` {}, its descriptor `{id}` {version}: make them equal", note.id, note.version));
    }
    let schema = if schema.is_empty() { note.schema.clone() } else { schema };
    let descriptor =
        Descriptor { id: id.into(), kind: note.kind, version: version.into(), summary: summary.into(), settings_schema: schema.into() };
    Ok(Table { table: Arc::new(table), descriptor })
}

/// An instance within a library; destroyed when nobody holds it and nothing is owed any more.
pub(super) struct InstanceHandle {
    pointer: *mut c_void,
    lane: Lane,
    destroy: unsafe extern "C" fn(*mut c_void),
}

// SAFETY: the host never looks behind the pointer; the header lets the library's thread pass it anywhere.
unsafe impl Send for InstanceHandle {}
// SAFETY: as above.
unsafe impl Sync for InstanceHandle {}

impl InstanceHandle {
    /// The library's pointer, for calls on its lane.
    pub(super) fn pointer(&self) -> *mut c_void {
        self.pointer
    }
}

impl Drop for InstanceHandle {
    fn drop(&mut self) {
        let (pointer, destroy) = (self.pointer as usize, self.destroy);
        // SAFETY: nothing is owed: every op in the table holds this handle.
        self.lane.run(move || unsafe { destroy(pointer as *mut c_void) });
    }
}

/// Makes an instance and asks it one number (`in_flight_max`, `capabilities`). Blocks for [`CREATE_PATIENCE`] at most.
pub(super) fn create(
    lane: &Lane,
    functions: (abi::Create, unsafe extern "C" fn(*mut c_void) -> u32, unsafe extern "C" fn(*mut c_void)),
    instance: Instance,
) -> Result<(Arc<InstanceHandle>, u32), Vec<SettingsProblem>> {
    let (create, ask, destroy) = functions;
    let own = lane.clone();
    let made = lane.ask(CREATE_PATIENCE, move || {
        let mut problems: Vec<SettingsProblem> = Vec::new();
        let mut pointer = std::ptr::null_mut();
        // SAFETY: everything is lent for the length of the call, and `problem` is called within it only.
        let status = lend_instance(&instance, |c| unsafe { create(&HOST, c, problem, (&raw mut problems).cast(), &raw mut pointer) });
        if status == abi::OK && !pointer.is_null() {
            let handle = Arc::new(InstanceHandle { pointer, lane: own, destroy });
            // SAFETY: the instance was just made.
            let number = unsafe { ask(pointer) };
            return Ok((handle, number));
        }
        if problems.is_empty() {
            problems.push(SettingsProblem::new("", format!("the plugin made no instance and did not say why (status {status})")));
        }
        Err(problems)
    });
    let late = || format!("the plugin did not make an instance within {} s; it must do no I/O there", CREATE_PATIENCE.as_secs());
    made.unwrap_or_else(|| Err(vec![SettingsProblem::new("", late())]))
}

unsafe extern "C" fn problem(ctx: *mut c_void, pointer: abi::Slice, message: abi::Slice) {
    // SAFETY: `ctx` is the vector of the running `create`; both texts are lent until this returns.
    unsafe { (*ctx.cast::<Vec<SettingsProblem>>()).push(SettingsProblem::new(pointer.text(), message.text())) };
}

/// What a library may call at any time.
static HOST: abi::Host = abi::Host { struct_size: abi::size_of::<abi::Host>(), abi: abi::ABI, get_extension: Some(get_extension) };
static LOG: abi::Log = abi::Log { struct_size: abi::size_of::<abi::Log>(), reserved: 0, write: Some(write_log) };

unsafe extern "C" fn get_extension(id: *const c_char) -> *const c_void {
    // SAFETY: the plugin passes a name that ends in NUL.
    if !id.is_null() && unsafe { CStr::from_ptr(id) } == abi::EXTENSION_LOG {
        return (&raw const LOG).cast();
    }
    std::ptr::null()
}

unsafe extern "C" fn write_log(level: u32, plugin: abi::Slice, text: abi::Slice) {
    static WINDOW: Mutex<Option<(Instant, u32)>> = Mutex::new(None);
    let now = Instant::now();
    {
        let mut window = WINDOW.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, lines) = window.unwrap_or((now, 0));
        let (start, lines) = if now.duration_since(start) >= Duration::from_secs(1) { (now, 0) } else { (start, lines) };
        if lines >= LOG_LINES_PER_SECOND {
            return;
        }
        *window = Some((start, lines + 1));
    }
    // SAFETY: both texts are lent until this returns.
    let (plugin, text) = unsafe { (plugin.text(), postwarm_plugin_api::abi_convert::one_line(&text.text())) };
    match level {
        abi::LOG_ERROR => tracing::error!(plugin.id = plugin, "{text}"),
        abi::LOG_WARN => tracing::warn!(plugin.id = plugin, "{text}"),
        abi::LOG_INFO => tracing::info!(plugin.id = plugin, "{text}"),
        _ => tracing::debug!(plugin.id = plugin, "{text}"),
    }
}
